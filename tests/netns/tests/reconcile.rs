//! Thousands of requests of all kinds while routes change and endpoints come and go: at the end every one of them is found
//! where it belongs, once.
//!
//! `KEELSON_LONG=1` sends a hundred thousand.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::HashMap,
    env, fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Instant,
};

use netns_tests::{
    Mesh, PATIENCE, Tally,
    manifest::{namespace, node, pod, service_with},
};
use serde_json::{Value, json};

/// On either node.
const CLIENTS: [(&str, &str); 3] = [("app/one", "node-1"), ("app/two", "node-2"), ("app/three", "node-1")];
const COLORS: [&str; 2] = ["red", "blue"];
/// The service that clients ask; it has no endpoints, its routes lead to the colors.
const ASKED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 3));
/// A second, of each client.
const RATE: u64 = 250;
/// Seconds that an endpoint has after it was told to go: far more than it takes.
const GRACE: u64 = 30;

fn server(color: &str, name: &str, node: &str, folder: &Path) -> String {
    let file = folder.join(format!("{color}-{name}.log")).display().to_string();
    let command = ["tally", "serve", "8080", &format!("{color}-{name}"), &file];
    pod(&format!("app/{color}-{name}"), node).app(color).grace(GRACE).runs(&command, Some(8080)).document()
}

fn documents(folder: &Path) -> Vec<String> {
    let ports = [("http", 80, 8080), ("http2", 81, 8080)];
    let mut documents = vec![
        node("node-1", 1),
        node("node-2", 2),
        namespace("app", true),
        service_with("app", "red", 1, &ports),
        service_with("app", "blue", 2, &ports),
        service_with("app", "asked", 3, &ports),
    ];
    documents.extend(CLIENTS.map(|(name, node)| pod(name, node).idle().document()));
    for color in COLORS {
        documents.extend([server(color, "near", "node-1", folder), server(color, "far", "node-2", folder)]);
    }
    documents
}

/// Both versions are right; which one a request was routed by is told to its server.
fn routes(version: &str) -> String {
    let either = if version == "first" { "red" } else { "blue" };
    let mut rules = Vec::new();
    for port in [80, 81] {
        for (path, color) in [("/red", "red"), ("/blue", "blue"), ("/either", either)] {
            rules.push(json!({
                "match": [{ "uri": { "exact": path }, "port": port }],
                "headers": { "request": { "set": { "x-version": version } } },
                "route": [{ "destination": { "host": format!("{color}.app.svc.cluster.local"), "port": { "number": port } } }],
            }));
        }
    }
    let route = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": { "name": "asked", "namespace": "app" },
        "spec": { "hosts": ["asked.app.svc.cluster.local"], "http": rules },
    });
    format!("---\n{route}\n")
}

#[test]
fn every_request_is_found_where_it_belongs() {
    let count: u64 = if env::var_os("KEELSON_LONG").is_some() { 100_000 } else { 10_000 };
    let logs = tempfile::Builder::new().prefix("keelson-tally-").tempdir().unwrap();
    let mesh = Mesh::up(&documents(logs.path()));
    mesh.put("routes.yaml", &routes("first"));
    for (client, _) in CLIENTS {
        for (port, path) in [80, 81].into_iter().flat_map(|port| ["red", "blue", "either"].map(|path| (port, path))) {
            let url = format!("http://{ASKED}:{port}/{path}");
            let known =
                || Ok(mesh.exec(client, &["curl", "--fail", "--silent", "--output", "/dev/null", &url])?.status.success());
            harness::wait_until("the routes to be known", PATIENCE, known).unwrap();
        }
    }

    let begin = Instant::now();
    let each = count / CLIENTS.len() as u64;
    let mut clients: Vec<Tally> = CLIENTS.map(|(pod, _)| Tally::begin(&mesh, pod, ASKED, each, RATE)).into_iter().collect();
    let mut rounds = 0;
    while clients.iter_mut().any(Tally::goes_on) {
        change(&mesh, rounds, logs.path());
        rounds += 1;
    }
    let told: Vec<Value> = clients.into_iter().map(Tally::end).collect();
    let took = begin.elapsed();
    println!("{count} requests and {rounds} rounds of changes in {took:.1?}: {told:?}");
    let sent: Vec<u64> = told.iter().map(|told| told["asked"].as_u64().unwrap()).collect();
    assert!(told.iter().all(|told| told["failed"] == json!(0)), "{told:?}");
    assert!(rounds >= 2, "nothing has changed meanwhile");
    reconcile(logs.path(), &sent);
    mesh.down();
}

/// One round: the other routes, an endpoint more of each color, and one less again.
fn change(mesh: &Mesh, round: usize, logs: &Path) {
    let node = ["node-1", "node-2"][round % 2];
    mesh.put("routes.yaml", &routes(["second", "first"][round % 2]));
    let passing = COLORS.map(|color| server(color, &format!("passing-{round}"), node, logs));
    mesh.write("passing.yaml", &passing.concat()).unwrap();
    mesh.put("routes.yaml", &routes(["first", "second"][round % 2]));
    mesh.remove("passing.yaml").unwrap();
}

/// A line of a server's: who got which request, by which routes, at which attempt.
struct Arrival {
    line: String,
    attempt: u32,
}

fn reconcile(logs: &Path, sent: &[u64]) {
    let mut arrivals: HashMap<String, Vec<Arrival>> = HashMap::new();
    let files: Vec<PathBuf> = fs::read_dir(logs).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut by_version: HashMap<String, usize> = HashMap::new();
    let mut passing = 0;
    for file in &files {
        for line in fs::read_to_string(file).unwrap().lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let &[id, _method, path, _size, _sum, server, version, attempt] = &fields[..] else { panic!("{line}") };
            if id == "-" {
                continue; // The test's own, before.
            }
            let color = match (path, version) {
                ("/red", "first" | "second") | ("/either", "first") => "red",
                ("/blue", "first" | "second") | ("/either", "second") => "blue",
                _ => panic!("{line}"),
            };
            assert!(server.starts_with(color), "misrouted: {line}");
            passing += usize::from(server.contains("passing"));
            *by_version.entry(version.to_owned()).or_default() += 1;
            let arrival = Arrival { line: line.to_owned(), attempt: attempt.parse().unwrap() };
            arrivals.entry(id.to_owned()).or_default().push(arrival);
        }
    }
    let (mut lost, mut again) = (Vec::new(), 0);
    for ((client, _), count) in CLIENTS.iter().zip(sent) {
        for number in 0..*count {
            let id = format!("{}-{number}", client.trim_start_matches("app/"));
            let Some(found) = arrivals.remove(&id) else {
                lost.push(id);
                continue;
            };
            // A request that has arrived twice was tried again by the mesh, which says so.
            let mut attempts: Vec<u32> = found.iter().map(|arrival| arrival.attempt).collect();
            attempts.sort_unstable();
            attempts.dedup();
            let lines: Vec<&String> = found.iter().map(|arrival| &arrival.line).collect();
            assert_eq!(attempts.len(), found.len(), "doubled: {lines:?}");
            assert!(found.len() == 1 || lines[0].contains(" GET ") || lines[0].contains(" PUT "), "sent again: {lines:?}");
            again += found.len() - 1;
        }
    }
    println!("routed by {by_version:?}; {passing} by endpoints that came and went; {again} tried again; {} servers", files.len());
    assert!(lost.is_empty(), "{} lost, such as {:?}", lost.len(), &lost[..lost.len().min(5)]);
    assert!(arrivals.is_empty(), "nobody sent {:?}", arrivals.keys().take(5).collect::<Vec<_>>());
    assert!(by_version.len() == 2 && passing > 0, "{by_version:?}, {passing}");
}
