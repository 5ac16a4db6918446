//! Many pods, many connections, streams that nobody reads. What is measured is printed; what must hold is asserted.
//!
//! `KEELSON_LONG=1` keeps up the short connections for two minutes. Where this process may not have as many descriptors as
//! a node proxy needs (RLIMIT_NOFILE), there are as many connections as there can be, and the output says so.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    env, fs,
    net::SocketAddr,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use netns_tests::{
    Held, Mesh,
    manifest::{namespace, node, pod},
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const INTRUDER: &str = env!("CARGO_BIN_EXE_intruder");
const CLIENT: &str = "app/client";
const SERVER: &str = "app/server";
const PODS: usize = 200;
/// Every program of the lab inherits it.
const DESCRIPTORS: u64 = 200_000;
/// What a node proxy has open beside connections, with this many pods.
const OTHER_DESCRIPTORS: u64 = 4_000;

fn name(index: usize) -> String {
    format!("app/pod-{index}")
}

#[test]
fn a_node_carries_many_pods_and_connections() {
    raise_descriptors();
    let mut documents = vec![
        node("node-1", 1),
        node("node-2", 2),
        namespace("app", true),
        pod(CLIENT, "node-1").idle().document(),
        pod(SERVER, "node-2").ledger(9000).echo().document(),
    ];
    documents.extend((0..PODS).map(|index| pod(&name(index), "node-2").ledger(9000).document()));
    let mesh = Mesh::up(&documents);
    memory(&mesh, "idle");
    let checks: [netns_tests::Check; 5] = [
        ("every pod answers", every_pod_answers),
        ("unread streams", unread_streams_leave_their_siblings_alone),
        ("short connections", short_connections_go_on_and_on),
        ("one client, one pod", one_client_holds_twenty_thousand_to_one_pod),
        ("one client, many pods", one_client_holds_sixty_thousand_to_many_pods),
    ];
    for (name, check) in checks {
        let begin = Instant::now();
        check(&mesh);
        println!("{name}: {:.1?}", begin.elapsed());
    }
    mesh.down();
}

fn raise_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS.max(hard), DESCRIPTORS.max(hard)).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    }
}

/// As many connections as wanted, or as there can be.
fn possible(wanted: usize) -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let room = soft.saturating_sub(OTHER_DESCRIPTORS) as usize;
    if room < wanted {
        println!("{wanted} connections need more descriptors than {soft}: {room} instead");
    }
    room.min(wanted)
}

fn every_pod_answers(mesh: &Mesh) {
    for index in 0..PODS {
        let pod = name(index);
        let record = mesh.tcp(CLIENT, SocketAddr::new(mesh.v4(&pod), 9000), &[]);
        assert_eq!(record["outcome"], "ok", "{pod}: {record}");
        let body: serde_json::Value = serde_json::from_str(record["body"].as_str().unwrap()).unwrap();
        let own = (body["instance"]["pod"].as_str().unwrap(), body["peer_ip"].as_str().unwrap());
        assert_eq!(own, (pod.trim_start_matches("app/"), mesh.v4(CLIENT).to_string().as_str()));
    }
    let pods = mesh.admin("node-2", "/config_dump").unwrap()["pods"].as_array().unwrap().len();
    assert_eq!(pods, PODS + 1);
    memory(mesh, "200 pods have answered");
}

/// More short connections than one pair has source ports, at 1,500 a second.
fn short_connections_go_on_and_on(mesh: &Mesh) {
    let seconds = if env::var_os("KEELSON_LONG").is_some() { 120 } else { 27 };
    let (count, target) = (1_500 * seconds, SocketAddr::new(mesh.v4(SERVER), 9001));
    let begin = Instant::now();
    let words = ["-n", &count.to_string(), "-c", "64", "--rate", "1500", "--bytes", "1", "--expect-bytes", "1"];
    let records = mesh.tcp_many(CLIENT, target, &words);
    let elapsed = begin.elapsed();
    assert_eq!(records.len(), count);
    let failed: Vec<_> = records.iter().filter(|record| record["outcome"] != "ok").collect();
    assert!(failed.is_empty(), "{} of {count} failed, such as {}", failed.len(), failed[0]);
    let mut latencies: Vec<u64> = records.iter().map(|record| record["latency_us"].as_u64().unwrap()).collect();
    latencies.sort_unstable();
    let at = |share: usize| latencies[(count - 1) * share / 100];
    let rate = count as f64 / elapsed.as_secs_f64();
    println!("{count} connections at {rate:.0} a second; p50 {} µs, p99 {} µs, max {} µs", at(50), at(99), at(100));
    memory(mesh, "short connections");
}

fn one_client_holds_twenty_thousand_to_one_pod(mesh: &Mesh) {
    let count = possible(20_000);
    let held = Held::begin(mesh, CLIENT, SocketAddr::new(mesh.v4(SERVER), 9000), count, &["--rate", "2500"]);
    hold_all(mesh, vec![held], count);
}

/// Every destination shares the pod's own address: sixty thousand need more than one of the proxy's ports.
fn one_client_holds_sixty_thousand_to_many_pods(mesh: &Mesh) {
    let each = possible(60_000) / PODS;
    let begin = |index| Held::begin(mesh, CLIENT, SocketAddr::new(mesh.v4(&name(index)), 9000), each, &["--rate", "12"]);
    hold_all(mesh, (0..PODS).map(begin).collect(), each * PODS);
}

/// Waits until all are open, has each answer once more, and none must have broken.
fn hold_all(mesh: &Mesh, clients: Vec<Held>, count: usize) {
    let begin = Instant::now();
    let mut open = 0;
    for client in &clients {
        let news = client.wait_for_within("open", Duration::from_mins(3));
        assert_eq!(news["failed"], 0, "{:?}", client.events().first());
        open += news["open"].as_u64().unwrap();
    }
    assert_eq!(open, count as u64);
    let listed = mesh.admin("node-1", "/status").unwrap()["connections"].as_u64().unwrap();
    assert!(listed >= count as u64, "{listed}");
    println!("{count} connections are open after {:.1?}", begin.elapsed());
    memory(mesh, "with them open");
    let (mut held, mut broken) = (0, 0);
    thread::scope(|scope| {
        let ends: Vec<_> = clients.into_iter().map(|client| scope.spawn(|| client.end())).collect();
        for end in ends {
            let (of_one, broken_of_one) = end.join().unwrap();
            held += of_one;
            broken += broken_of_one;
        }
    });
    assert_eq!((held, broken), (count as u64, 0));
    memory(mesh, "when they have ended");
}

/// Twenty streams of the same tunnel that want to send without end, and a client that does not read.
fn unread_streams_leave_their_siblings_alone(mesh: &Mesh) {
    let (target, source) = (mesh.v4(SERVER).to_string(), SocketAddr::new(mesh.v4(SERVER), 9003).to_string());
    let p99 = || {
        let report = mesh.load(CLIENT, &["rr", &target, "9001", "-c", "4", "-d", "2"]);
        assert_eq!(report["errors"], serde_json::json!({}), "{report}");
        report["latency_us"]["p99"].as_u64().unwrap()
    };
    p99();
    let mut rounds = Vec::new();
    for _ in 0..5 {
        let without = p99();
        let unread: Vec<Stalled> = (0..20).map(|_| Stalled::begin(mesh, &source)).collect();
        wait_for_stall(mesh);
        let with = p99();
        drop(unread);
        rounds.push((with as f64 / without as f64, without, with));
    }
    rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
    println!("p99 beside 20 unread streams, in times of that without, with both in µs: {rounds:.2?}");
    // Two measurements next to each other; streams that hold each other up would do so in every round.
    assert!(rounds[0].0 <= 1.2, "{rounds:?}");
}

/// Until nothing more flows into the streams that nobody reads.
fn wait_for_stall(mesh: &Mesh) {
    let flowed = || mesh.metric("node-1", "istio_tcp_sent_bytes_total", &["destination_workload=\"server\""]);
    let mut last = 0.0;
    harness::wait_until("the streams to stall", netns_tests::PATIENCE, || {
        thread::sleep(Duration::from_millis(100));
        let before = std::mem::replace(&mut last, flowed());
        Ok(last > 0.0 && last <= before)
    })
    .unwrap();
}

/// A client that asks for bytes without end and reads none.
struct Stalled(Child);

impl Stalled {
    fn begin(mesh: &Mesh, source: &str) -> Self {
        Self(mesh.spawn_in(CLIENT, &[INTRUDER, "tcp", source, "send:0\n", "sleep"]).unwrap())
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Resident sizes of the node proxies, in MiB.
fn memory(mesh: &Mesh, when: &str) {
    let resident = |node: &str| {
        let process = mesh.node(node).unwrap().process.unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    };
    println!("{when}: node-1 {} MiB, node-2 {} MiB", resident("node-1"), resident("node-2"));
}
