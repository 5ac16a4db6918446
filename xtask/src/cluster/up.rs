//! Brings a cluster up, or nothing: whatever ends the work, what was made by then is removed.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::{
    address::{self, Families, MAX_NODES},
    certificates, cgroup,
    control::{ControlPlane, ETCD},
    down, interrupt,
    kubectl::Kubectl,
    layout::{ClusterName, Layout},
    needs, network,
    node::{self, NodeSpec},
    process::{Process, tail},
    programs::Programs,
    state::{Cluster, Control, Phase},
    template::{Templates, list},
};
use crate::{report, workspace};

/// How long nodes may take to be ready.
const PATIENCE: Duration = Duration::from_mins(3);

/// Brings up a cluster of `nodes` nodes, from 1 to 9; one of this name that is up already is left as it is.
pub(crate) fn up(name: &ClusterName, nodes: u8) -> Result<Cluster> {
    ensure!((1..=MAX_NODES).contains(&nodes), "a cluster has 1 to {MAX_NODES} nodes");
    let layout = Layout::new(name.clone());
    interrupt::watch()?;
    if let Some(cluster) = settle_with_last(&layout, nodes)? {
        return Ok(cluster);
    }
    let all_steps = || {
        report::step("what the machine has", || needs::check(&layout.data()))?;
        let programs = report::step("programs", || Programs::find(&workspace::root()?))?;
        let started = Instant::now();
        let cluster = make(&layout, nodes, &programs)?;
        report::note(format_args!("the cluster came up in {:.1} s", started.elapsed().as_secs_f64()));
        Ok(cluster)
    };
    all_steps().or_else(|error: anyhow::Error| {
        interrupt::forget();
        let removed = report::step("clean up", || down::remove(&layout));
        removed.with_context(|| format!("the cluster did not come up ({error:#}) and is not all gone"))?;
        Err(error)
    })
}

/// What to do with a cluster of this name: use it, refuse, or remove what a command that died left of it.
fn settle_with_last(layout: &Layout, nodes: u8) -> Result<Option<Cluster>> {
    let last = Cluster::load(layout)?;
    match last {
        Some(cluster) if cluster.phase == Phase::Up && cluster.nodes.iter().all(|node| node.init.is_some_and(Process::alive)) => {
            let has = cluster.nodes.len();
            ensure!(
                has == usize::from(nodes),
                "cluster {} is up with {has} nodes, not {nodes}: `cargo xtask cluster down --name {0}` removes it",
                layout.name
            );
            report::note(format_args!("cluster {} is up already", layout.name));
            Ok(Some(cluster))
        }
        Some(cluster) if cluster.phase == Phase::Starting && cluster.maker.alive() => {
            bail!("process {} is bringing up cluster {} at this moment", cluster.maker.pid, layout.name)
        }
        _ => {
            if !down::leftovers(layout)?.is_empty() {
                report::step("remove what was left of the last cluster", || down::remove(layout))?;
            }
            Ok(None)
        }
    }
}

fn make(layout: &Layout, nodes: u8, programs: &Programs) -> Result<Cluster> {
    let families = Families::of_this_machine();
    if families == Families::V4 {
        report::note("this kernel has no IPv6: pods and services have IPv4 addresses only");
    }
    let mut cluster = Cluster {
        name: layout.name.clone(),
        phase: Phase::Starting,
        maker: Process::this()?,
        families,
        kubeconfig: layout.kubeconfig(),
        server: None,
        control: Control {
            netns: harness::netns::path(&layout.control_netns()),
            address: address::control(),
            etcd: ETCD.to_owned(),
            kubeconfig: layout.certificates().join("admin.kubeconfig"),
            processes: BTreeMap::new(),
        },
        nodes: node::plan(layout, nodes),
        logs: layout.logs(),
        programs: programs.folders().iter().map(|(_, folder)| folder.clone()).collect(),
    };
    cluster.save()?;
    let templates = Templates::new()?;

    report::step("certificates", || {
        fs::create_dir_all(layout.logs())?;
        certificates::write(layout, programs, &cluster.nodes)
    })?;
    report::step("network", || network::create(layout, families, &cluster.nodes))?;
    report::step("control plane", || {
        cgroup::create(&format!("{}/control", layout.prefix()))?;
        ControlPlane { cluster: &mut cluster, layout, programs, templates: &templates }.start()
    })?;
    report::step("nodes", || start_nodes(&mut cluster, layout, programs, &templates))?;
    report::step("names", || ControlPlane { cluster: &mut cluster, layout, programs, templates: &templates }.await_names())?;
    cluster.phase = Phase::Up;
    cluster.save()?;
    Ok(cluster)
}

fn start_nodes(cluster: &mut Cluster, layout: &Layout, programs: &Programs, templates: &Templates) -> Result<()> {
    let families = cluster.families;
    let kubectl = Kubectl::inside(cluster, programs)?;
    let hosts: Vec<_> = cluster.nodes.iter().map(|node| (node.address.v4.clone(), node.name.clone())).collect();
    for number in 0..cluster.nodes.len() {
        let node = &cluster.nodes[number];
        let all_pods = families.each(&node.pods);
        let zone = format!("zone-{}", number + 1);
        let values = [("node", &*node.name), ("zone", &*zone), ("pods", &*all_pods[0]), ("all_pods", &*list(&all_pods))];
        kubectl.apply(&templates.fill("node.yaml", &values)?)?;
        cgroup::create(&node.cgroup)?;
        node::furnish(layout, families, node, programs, templates)?;
        let spec = NodeSpec {
            name: node.name.clone(),
            addresses: families.each(&node.address),
            cgroup: node.cgroup.clone(),
            folder: node.folder.clone(),
            programs: programs.folders().to_vec(),
            logs: layout.logs(),
            name_servers: families.each(&address::dns_service()),
            hosts: hosts.clone(),
        };
        let init = node::begin(&spec, node)?;
        cluster.nodes[number].init = Some(init);
        cluster.save()?;
    }
    await_nodes(cluster, &kubectl)
}

/// Until every node can take pods.
fn await_nodes(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    let alive = || {
        for node in &cluster.nodes {
            let log = node::log_of(&cluster.logs, &node.name);
            ensure!(node.init.is_some_and(Process::alive), "{} has ended:\n{}", node.name, tail(&log, 20));
        }
        Ok(())
    };
    let waited = interrupt::wait_until("ready nodes", PATIENCE, alive, || {
        let ready = ready_nodes(kubectl)?;
        Ok(cluster.nodes.iter().all(|node| ready.contains(&node.name)))
    });
    let Err(error) = waited else { return Ok(()) };
    interrupt::check()?;
    let logs = cluster.nodes.iter().map(|node| cluster.logs.join(format!("{}-kubelet.log", node.name)));
    let told: Vec<String> = logs.map(|log| format!("{}:\n{}", log.display(), tail(&log, 10))).collect();
    Err(error.context(told.join("\n")))
}

/// The names of nodes that are ready and take pods.
pub(super) fn ready_nodes(kubectl: &Kubectl) -> Result<Vec<String>> {
    let list: NodeList = kubectl.json(&["get", "nodes", "--request-timeout=10s"])?;
    let ready = |node: &NodeObject| {
        let conditions = &node.status.conditions;
        node.spec.taints.is_empty() && conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
    };
    Ok(list.items.into_iter().filter(ready).map(|node| node.metadata.name).collect())
}

#[derive(Deserialize)]
struct NodeList {
    items: Vec<NodeObject>,
}

#[derive(Deserialize)]
struct NodeObject {
    metadata: Metadata,
    #[serde(default)]
    spec: NodeWishes,
    #[serde(default)]
    status: NodeReport,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Default, Deserialize)]
struct NodeWishes {
    #[serde(default)]
    taints: Vec<serde_json::Value>,
}

#[derive(Default, Deserialize)]
struct NodeReport {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}
