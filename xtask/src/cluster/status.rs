//! What of a cluster runs.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    cgroup,
    command::Format,
    kubectl::Kubectl,
    layout::Layout,
    process::Process,
    state::{Cluster, Phase},
    up,
};

/// Printed with `-o json`: the state, and what is true at the moment.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    cluster: Cluster,
    components: Vec<Component>,
    node_health: Vec<NodeHealth>,
    /// Why the nodes' readiness is not known.
    problem: Option<String>,
}

#[derive(Serialize)]
struct Component {
    name: String,
    pid: u32,
    alive: bool,
    memory_bytes: u64,
}

#[derive(Serialize)]
struct NodeHealth {
    name: String,
    alive: bool,
    ready: bool,
    processes: usize,
    /// Of all its processes; memory that they share counts for each.
    memory_bytes: u64,
}

pub(super) fn print(layout: &Layout, format: Format) -> Result<()> {
    let cluster = Cluster::load(layout)?.with_context(|| format!("there is no cluster {}", layout.name))?;
    let report = look(cluster)?;
    let text = match format {
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
        Format::Text => table(&report),
    };
    Ok(io::stdout().write_all(text.as_bytes())?)
}

fn look(cluster: Cluster) -> Result<Report> {
    let (ready, problem) = match Kubectl::of(&cluster).and_then(|kubectl| up::ready_nodes(&kubectl)) {
        Ok(ready) => (ready, None),
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    };
    let component = |(name, started): (&String, &super::state::Started)| Component {
        name: name.clone(),
        pid: started.process.pid,
        alive: started.process.alive(),
        memory_bytes: started.process.memory(),
    };
    let components = cluster.control.processes.iter().map(component).collect();
    let mut node_health = Vec::new();
    for node in &cluster.nodes {
        let processes = cgroup::processes(&node.cgroup)?;
        let memory = processes.iter().filter_map(|pid| Process::of(*pid).ok()).map(Process::memory).sum();
        node_health.push(NodeHealth {
            name: node.name.clone(),
            alive: node.init.is_some_and(Process::alive),
            ready: ready.contains(&node.name),
            processes: processes.len(),
            memory_bytes: memory,
        });
    }
    Ok(Report { cluster, components, node_health, problem })
}

fn table(report: &Report) -> String {
    let Report { cluster, components, node_health, problem } = report;
    let phase = match cluster.phase {
        Phase::Up => "up",
        Phase::Starting => "not up",
    };
    let mut text = format!(
        "cluster {}: {phase}\nkubeconfig  {}\nserver      {}\nlogs        {}\n\nCOMPONENT                PID      MEMORY\n",
        cluster.name,
        cluster.kubeconfig.display(),
        cluster.server.as_deref().unwrap_or("none yet"),
        cluster.logs.display()
    );
    for Component { name, pid, alive, memory_bytes } in components {
        let memory = if *alive { megabytes(*memory_bytes) } else { "has ended".to_owned() };
        let _ = writeln!(text, "{name:<24} {pid:<8} {memory}");
    }
    text += "\nNODE     READY     ADDRESS        PODS             PROCESSES  MEMORY\n";
    for (NodeHealth { name, alive, ready, processes, memory_bytes }, node) in node_health.iter().zip(&cluster.nodes) {
        let state = match (alive, ready) {
            (false, _) => "has ended",
            (true, true) => "yes",
            (true, false) => "no",
        };
        let (address, pods) = (&node.address.v4, &node.pods.v4);
        let _ = writeln!(text, "{name:<8} {state:<9} {address:<14} {pods:<16} {processes:<10} {}", megabytes(*memory_bytes));
    }
    if let Some(problem) = problem {
        let _ = writeln!(text, "\nthe API does not answer: {problem}");
    }
    text
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes / 1_000_000)
}
