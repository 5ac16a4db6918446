//! Clients and servers that do not speak HTTP as they should: each is answered as documented, nobody else notices, and the
//! nodes do not grow.
//!
//! What they say is in `peers/`, in bytes, by hand: no library would send it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, ChildStdout},
};

use netns_tests::{
    Mesh, Options, PATIENCE,
    manifest::{namespace, node, pod, service_with},
};
use serde_json::{Value, json};

const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");
const ATTACKER: &str = "app/attacker";
const NEIGHBOR: &str = "app/neighbor";
/// The server on the client's node, and the one on the other.
const SERVERS: [&str; 2] = ["10.96.0.1", "10.96.0.2"];

/// What a node may have grown by after all of it, in MiB.
const GROWTH: u64 = 64;

/// Half done for so long, a request is given up. Long enough for a machine with much else to do.
const DEADLINES: [&str; 2] = ["--http-head-timeout=2s", "--http-body-timeout=2s"];

fn documents() -> Vec<String> {
    let ports = [("http", 80, 8080), ("http2", 81, 8081), ("http-evil", 82, 8082)];
    let server = |name: &str, node: &str| {
        pod(&format!("app/{name}"), node)
            .runs(&["http-peer", "8080", name], Some(8080))
            .runs(&["http-peer", "8081", name], Some(8081))
            .runs(&["python3", &format!("{PEERS}/upstream.py"), "8082"], Some(8082))
            .document()
    };
    vec![
        node("node-1", 1),
        node("node-2", 2),
        namespace("app", true),
        pod(ATTACKER, "node-1").idle().document(),
        pod(NEIGHBOR, "node-1").idle().document(),
        server("near", "node-1"),
        server("far", "node-2"),
        service_with("app", "near", 1, &ports),
        service_with("app", "far", 2, &ports),
    ]
}

#[test]
fn hostile_peers_hurt_nobody() {
    let options = Options { node: DEADLINES.map(str::to_owned).to_vec(), ..Options::default() };
    let mesh = Mesh::up_with(&options, &documents());
    for address in SERVERS {
        for port in [80, 81, 82] {
            let url = format!("http://{address}:{port}/");
            let known = || Ok(mesh.exec(ATTACKER, &["curl", "--fail", "--silent", &url])?.status.success());
            harness::wait_until("the servers to be known", PATIENCE, known).unwrap();
        }
    }
    let before = NODES.map(|node| resident(&mesh, node));
    let neighbor = Neighbor::begin(&mesh);
    for check in [malformed_requests, malformed_http2, slow_clients, malformed_answers, endless_answers] {
        check(&mesh);
    }
    let told = neighbor.end();
    println!("a neighbor meanwhile: {told}");
    assert!(told["asked"].as_u64().unwrap() >= 10 && told["failed"] == json!([]), "{told}");
    harness::wait_until("the nodes to be as small as before", PATIENCE, || {
        let now = NODES.map(|node| resident(&mesh, node));
        anyhow::ensure!(now.iter().zip(before).all(|(now, before)| *now <= before + GROWTH), "{before:?} MiB, now {now:?}");
        Ok(true)
    })
    .unwrap();
    println!("MiB before and after: {before:?}, {:?}", NODES.map(|node| resident(&mesh, node)));
    mesh.down();
}

const NODES: [&str; 2] = ["node-1", "node-2"];

/// Of a node proxy, in MiB.
fn resident(mesh: &Mesh, node: &str) -> u64 {
    let process = mesh.node(node).unwrap().process.unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Somebody on the attacker's node who goes on asking both servers.
struct Neighbor(Child, BufReader<ChildStdout>);

impl Neighbor {
    fn begin(mesh: &Mesh) -> Self {
        let script = format!("{PEERS}/neighbor.py");
        let words = ["python3", &script, SERVERS[0], "80", SERVERS[1], "80"];
        let mut child = mesh.spawn_in(NEIGHBOR, &words).unwrap();
        let mut told = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        assert_eq!(line, "begun\n");
        Self(child, told)
    }

    fn end(mut self) -> Value {
        drop(self.0.stdin.take());
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Neighbor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn raw(mesh: &Mesh, what: &str, address: &str, port: &str, more: &[&str]) -> Value {
    let script = format!("{PEERS}/raw.py");
    mesh.json(ATTACKER, &[&["python3", script.as_str(), what, address, port][..], more].concat())
}

/// Of HTTP/1: refused, each with its status; what follows on the connection is nobody's request.
fn malformed_requests(mesh: &Mesh) {
    let seen = mesh.failures("node-1", "BAD_REQUEST");
    for address in SERVERS {
        let found = raw(mesh, "http1", address, "80", &[]);
        let mut wrong = Vec::new();
        for (case, found) in found.as_object().unwrap() {
            let expected = match case.as_str() {
                // Of two framings the chunks count, the length is not passed on, and nothing follows (RFC 9112, section 6.3). The
                // end of a line may be said by a bare line feed (section 2.2); it is written anew for the server. Which HTTP is
                // spoken next is not the client's to say.
                "length and chunks" | "chunks and length" | "bare lf" | "h2c upgrade" => json!([200]),
                "long field" | "many fields" | "long target" => json!([431]),
                _ => json!([400]),
            };
            if found["statuses"] != expected || found["smuggled"] != json!(false) {
                wrong.push(format!("{case}: {found}, not {expected}"));
            }
        }
        assert!(wrong.is_empty(), "{address}:\n{}", wrong.join("\n"));
    }
    assert!(mesh.failures("node-1", "BAD_REQUEST") >= seen + 20.0);
}

/// Of HTTP/2: a stream that breaks the rules is reset or answered, a flood ends the connection or is not read on.
fn malformed_http2(mesh: &Mesh) {
    let seen = mesh.failures("node-1", "BAD_REQUEST");
    for address in SERVERS {
        let found = raw(mesh, "http2", address, "81", &[]);
        let mut wrong = Vec::new();
        for (case, found) in found.as_object().unwrap() {
            let (statuses, resets) = (&found["statuses"], &found["resets"]);
            let ended = found["ended"] == json!(true) || !found["goaway"].is_null();
            let right = match case.as_str() {
                "well formed" => *statuses == json!([200]),
                "another host" => *statuses == json!([400]),
                "field of HTTP/1 connections"
                | "chunks"
                | "capital letters"
                | "pseudo field last"
                | "length of another body"
                | "line break in a value" => *resets == json!([1]) || *statuses == json!([400]) || found["goaway"] == json!(1),
                "hpack bomb" | "cookie crumbs" => *statuses == json!([431]) || *resets != json!([]) || ended,
                "rapid reset" | "continuations" | "empty continuations" => ended,
                "zero window" => statuses.as_array().unwrap().iter().all(|status| *status == json!(200)),
                // Survived: what became of the flood is the peer's business.
                _ => true,
            };
            if !right {
                wrong.push(format!("{case}: {found}"));
            }
        }
        println!("http2 floods to {address}: {found}");
        assert!(wrong.is_empty(), "{address}:\n{}", wrong.join("\n"));
    }
    assert!(mesh.failures("node-1", "BAD_REQUEST") > seen);
}

/// Hundreds that never come to an end are given up, in HTTP/1 with a status.
fn slow_clients(mesh: &Mesh) {
    // Whichever node's time is up first.
    let slow = || NODES.map(|node| mesh.failures(node, "REQUEST_SLOW")).iter().sum::<f64>();
    let seen = slow();
    for address in SERVERS {
        let found = raw(mesh, "slow", address, "80", &["50"]);
        for (case, found) in found.as_object().unwrap() {
            let expected = if case == "http/2" { json!(["False"]) } else { json!(["408"]) };
            assert_eq!(*found, expected, "{case} to {address}");
        }
    }
    assert!(slow() >= seen + 600.0);
}

/// What curl heard: whether all was well, the status, the body.
fn curl(mesh: &Mesh, words: &[&str]) -> (bool, String) {
    let argv = ["curl", "--silent", "--max-time", "20", "--write-out", " %{http_code}"];
    let output = mesh.exec(ATTACKER, &[&argv[..], words].concat()).unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A server's answer that is none is not passed on.
fn malformed_answers(mesh: &Mesh) {
    let terminated = "upstream connect error or disconnect/reset before headers. reset reason: connection termination 503";
    let protocol = "upstream connect error or disconnect/reset before headers. reset reason: protocol error 502";
    for address in SERVERS {
        for (path, whole, expected) in [
            ("reset", true, terminated),
            ("close", true, terminated),
            ("garbage", true, protocol),
            ("no-head", true, protocol),
            ("two-lengths", true, protocol),
            ("endless-head", true, protocol),
            ("endless-line", true, protocol),
            ("unasked-switch", true, protocol),
            ("folded", true, "fine 200"),
            ("hints", true, "fine 200"),
            ("long", true, "long 200"),
            ("reset-in-body", false, "half 200"),
            ("short", false, "short 200"),
            ("bad-chunk", false, " 200"),
        ] {
            let found = curl(mesh, &[&format!("http://{address}:82/{path}")]);
            // Of a body that is none from its first byte, a tunnel's reset may overtake the head.
            let overtaken = path == "bad-chunk" && found == (true, terminated.to_owned());
            assert!(overtaken || found == (whole, expected.to_owned()), "{path} of {address}: {found:?}");
            // Whoever asks next gets what it asks for.
            assert_eq!(curl(mesh, &[&format!("http://{address}:82/fine")]), (true, "fine 200".to_owned()), "after {path}");
        }
    }
    for reason in ["UPSTREAM_RESET", "UPSTREAM_PROTOCOL"] {
        assert!(mesh.failures("node-1", reason) > 0.0, "{reason}");
    }
}

/// A server that never ends is left when its client goes, and one that never begins even before.
fn endless_answers(mesh: &Mesh) {
    let terminated = "upstream connect error or disconnect/reset before headers. reset reason: connection termination 503";
    for address in SERVERS {
        let url = |path: &str| format!("http://{address}:82/{path}");
        assert!(!curl(mesh, &["--max-time", "1", "--output", "/dev/null", &url("endless-body")]).0);
        assert_eq!(curl(mesh, &[&url("endless-hints")]), (true, terminated.to_owned()));
        harness::wait_until("the server to be left", PATIENCE, || {
            let found = curl(mesh, &[&url("endless")]);
            anyhow::ensure!(found == (true, "0 200".to_owned()), "{found:?}");
            Ok(true)
        })
        .unwrap();
    }
}
