//! A service's pods are replaced one after another, as a rolling update does, while clients ask it fifty times a second: none
//! of their requests fails.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use netns_tests::{
    Mesh, PATIENCE, Tally,
    manifest::{namespace, node, pod, service_with},
};
use serde_json::{Value, json};

/// The one on the node of the first replica, the other on that of the second; both ask both.
const CLIENTS: [(&str, &str); 2] = [("app/one", "node-1"), ("app/two", "node-2")];
const REPLICAS: [(&str, &str); 2] = [("a", "node-1"), ("b", "node-2")];
const ASKED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
/// A second, of each client: HTTP/1.1 that is kept alive, HTTP/2 and gRPC's form in turn.
const RATE: u64 = 50;
const REQUESTS: u64 = 1_500;
/// Seconds that a pod has after it was told to go: far more than it takes.
const GRACE: u64 = 30;

fn replica(name: &str, node: &str, generation: usize, folder: &Path) -> String {
    let name = format!("{name}-{generation}");
    let file = folder.join(&name).display().to_string();
    let command = ["tally", "serve", "8080", &name, &file];
    pod(&format!("app/{name}"), node).app("rolled").grace(GRACE).runs(&command, Some(8080)).document()
}

#[test]
fn a_rolling_restart_fails_nothing() {
    let logs = tempfile::Builder::new().prefix("keelson-rolling-").tempdir().unwrap();
    let mut documents = vec![
        node("node-1", 1),
        node("node-2", 2),
        namespace("app", true),
        service_with("app", "rolled", 1, &[("http", 80, 8080), ("http2", 81, 8080)]),
    ];
    documents.extend(CLIENTS.map(|(name, node)| pod(name, node).idle().document()));
    let mesh = Mesh::up(&documents);
    for (name, node) in REPLICAS {
        mesh.write(&file(name, 0), &replica(name, node, 0, logs.path())).unwrap();
    }
    for (client, _) in CLIENTS {
        for port in [80, 81] {
            let url = format!("http://{ASKED}:{port}/");
            let known = || Ok(mesh.exec(client, &["curl", "--fail", "--silent", &url])?.status.success());
            harness::wait_until("the service to be known", PATIENCE, known).unwrap();
        }
    }

    let mut clients: Vec<Tally> = CLIENTS.map(|(pod, _)| Tally::begin(&mesh, pod, ASKED, REQUESTS, RATE)).into_iter().collect();
    let mut generation = 0;
    while clients.iter_mut().any(Tally::goes_on) {
        // The new pod is ready before the old one is told to go.
        for (name, node) in REPLICAS {
            mesh.write(&file(name, generation + 1), &replica(name, node, generation + 1, logs.path())).unwrap();
            mesh.remove(&file(name, generation)).unwrap();
        }
        generation += 1;
    }
    let told: Vec<Value> = clients.into_iter().map(Tally::end).collect();
    println!("{generation} generations: {told:?}");
    assert!(told.iter().all(|told| told["asked"] == json!(REQUESTS) && told["failed"] == json!(0)), "{told:?}");
    assert!(generation >= 2, "nothing was replaced meanwhile");

    let mut arrived: BTreeMap<usize, usize> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for generation in 0..=generation {
        for (name, _) in REPLICAS {
            let text = fs::read_to_string(logs.path().join(format!("{name}-{generation}"))).unwrap_or_default();
            let found = text.lines().filter_map(|line| line.split(' ').next()).filter(|id| *id != "-").map(str::to_owned);
            let before = ids.len();
            ids.extend(found);
            *arrived.entry(generation).or_default() += ids.len() - before;
        }
    }
    println!("by generation: {arrived:?}");
    assert_eq!(ids.len() as u64, REQUESTS * CLIENTS.len() as u64, "requests that have arrived");
    // The last ones may have come when all was asked.
    assert!((0..generation).all(|generation| arrived[&generation] > 0), "nobody asked some of them: {arrived:?}");
    mesh.down();
}

fn file(name: &str, generation: usize) -> String {
    format!("{name}-{generation}.yaml")
}
