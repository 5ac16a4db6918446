//! Which pods of the tests are on which node. The tests' manifests leave it to the scheduler, so the pods are made before the tests
//! run, from the same manifests, while only the wanted node takes any.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::command::Placement;
use crate::{
    cluster::{Cluster, Kubectl, interrupt},
    report,
};

const PATIENCE: Duration = Duration::from_mins(3);

/// As the manifests have them.
const NAMESPACES: [&str; 2] = ["gateway-conformance-mesh", "gateway-conformance-mesh-consumer"];

/// Makes the pods where they are wanted, and every node take pods again.
pub(super) fn place(cluster: &Cluster, kubectl: &Kubectl, tests: &Path, placement: Placement) -> Result<()> {
    clean_up(cluster, kubectl)?;
    let objects = manifests(kubectl, tests)?;
    let [first, second] = cluster.nodes.as_slice() else { anyhow::bail!("the tests' placements are for a cluster of two nodes") };
    let (pods, rest): (Vec<_>, Vec<_>) = objects.into_iter().partition(|object| object["kind"] == "Deployment");
    apply(kubectl, &rest)?;
    // `echo-v1` is the client of most tests.
    let (clients, servers): (Vec<_>, Vec<_>) = pods.into_iter().partition(|object| object["metadata"]["name"] == "echo-v1");
    let of_servers = if placement == Placement::Two { &second.name } else { &first.name };
    for (objects, node) in [(clients, &first.name), (servers, of_servers)] {
        let others = cluster.nodes.iter().map(|other| &other.name).filter(|other| *other != node);
        for other in others {
            kubectl.output(&["cordon", other])?;
        }
        apply(kubectl, &objects)?;
        let all_placed = || Ok(pods_of_tests(kubectl)?.iter().all(|pod| pod.spec.node_name.is_some()));
        let placed = interrupt::wait_until("a node for each pod", PATIENCE, || Ok(()), all_placed);
        uncordon(cluster, kubectl)?;
        placed?;
    }
    let all_ready = || {
        let pods = pods_of_tests(kubectl)?;
        Ok(!pods.is_empty() && pods.iter().all(Pod::is_ready))
    };
    let waited = interrupt::wait_until("ready pods", PATIENCE, || Ok(()), all_ready);
    waited.with_context(|| kubectl.output(&["get", "pods,events", "--namespace", NAMESPACES[0]]).unwrap_or_default())?;
    let pods = pods_of_tests(kubectl)?;
    let nodes: BTreeSet<_> = pods.iter().filter_map(|pod| pod.spec.node_name.as_deref()).collect();
    ensure!(nodes.len() == if placement == Placement::Two { 2 } else { 1 }, "the pods are on {nodes:?}");
    report::note(format_args!("{} pods on {}", pods.len(), nodes.into_iter().collect::<Vec<_>>().join(" and ")));
    Ok(())
}

/// Removes what a run made.
pub(super) fn clean_up(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    uncordon(cluster, kubectl)?;
    let mut delete = vec!["delete", "namespace", "--ignore-not-found", "--timeout=120s"];
    delete.extend(NAMESPACES);
    kubectl.output(&delete).map(drop)
}

fn uncordon(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    cluster.nodes.iter().try_for_each(|node| kubectl.output(&["uncordon", &node.name]).map(drop))
}

fn manifests(kubectl: &Kubectl, tests: &Path) -> Result<Vec<Value>> {
    let file = tests.join("mesh/manifests.yaml");
    ensure!(fs::exists(&file)?, "no manifests {}", file.display());
    let path = file.to_str().context("the module has a plain name")?;
    let text = kubectl.output(&["create", "--dry-run=client", "--validate=ignore", "--output=json", "--filename", path])?;
    let mut objects = Vec::new();
    for object in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
        let mut object = object.context("kubectl printed something else than JSON")?;
        match object.get_mut("items").and_then(Value::as_array_mut) {
            Some(items) => objects.append(items),
            None => objects.push(object),
        }
    }
    // As the tests' flag has it.
    for namespace in objects.iter_mut().filter(|object| object["kind"] == "Namespace") {
        namespace["metadata"]["labels"]["istio.io/dataplane-mode"] = "ambient".into();
    }
    objects.sort_by_key(|object| object["kind"] != "Namespace");
    Ok(objects)
}

fn apply(kubectl: &Kubectl, objects: &[Value]) -> Result<()> {
    kubectl.apply(&serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string())
}

#[derive(Deserialize)]
struct Pods {
    items: Vec<Pod>,
}

#[derive(Deserialize)]
struct Pod {
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(rename = "nodeName")]
    node_name: Option<String>,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Vec<Value>,
}

impl Pod {
    fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    }
}

fn pods_of_tests(kubectl: &Kubectl) -> Result<Vec<Pod>> {
    let mut all = Vec::new();
    for namespace in NAMESPACES {
        let pods: Pods = kubectl.json(&["get", "pods", "--namespace", namespace])?;
        all.extend(pods.items);
    }
    Ok(all)
}
