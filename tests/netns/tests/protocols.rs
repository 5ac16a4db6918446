//! HTTP/2, gRPC and WebSocket as others speak them, through the real kernel path: to a server on the client's own node and to
//! one on another.
//!
//! Needs h2spec, whose path is in `KEELSON_H2SPEC` (`cargo xtask test` sees to it).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{env, fs};

use netns_tests::{
    Mesh, PATIENCE,
    manifest::{namespace, node, pod, service_with},
};

const CLIENT: &str = "app/client";
/// The server on the client's node, and the one on the other.
const SERVERS: [&str; 2] = ["10.96.0.1", "10.96.0.2"];

/// How many cases h2spec has, without those of `--strict`.
const CASES: usize = 145;
/// The one that may fail is a preface that is none: the port speaks HTTP/1.1 too, and answers it with 400 in that.
const ENOUGH: usize = 144;

fn documents() -> Vec<String> {
    let ports = [("http2", 80, 8080), ("grpc", 81, 8081), ("http", 82, 8082)];
    let server = |name: &str, node: &str| {
        pod(&format!("app/{name}"), node)
            .runs(&["http-peer", "8080", name], Some(8080))
            .runs(&["grpc-peer", "serve", "8081"], Some(8081))
            .runs(&["ws-peer", "serve", "8082"], Some(8082))
            .document()
    };
    vec![
        node("node-1", 1),
        node("node-2", 2),
        namespace("app", true),
        pod(CLIENT, "node-1").idle().document(),
        server("near", "node-1"),
        server("far", "node-2"),
        service_with("app", "near", 1, &ports),
        service_with("app", "far", 2, &ports),
    ]
}

#[test]
fn others_are_understood() {
    let mesh = Mesh::up(&documents());
    for address in SERVERS {
        harness::wait_until("the servers to be known", PATIENCE, || {
            let url = format!("http://{address}:80/");
            Ok(mesh.exec(CLIENT, &["curl", "--fail", "--silent", "--http2-prior-knowledge", &url])?.status.success())
        })
        .unwrap();
    }
    for check in [grpc, websocket, h2spec] {
        check(&mesh);
    }
    mesh.down();
}

/// Unary calls, streams of all kinds, errors with and without messages, deadlines, cancelling.
fn grpc(mesh: &Mesh) {
    for address in SERVERS {
        says_ok(mesh, &["grpc-peer", "ask", &format!("{address}:81")]);
    }
}

/// Text, binary, long messages, pings, codes of the end.
fn websocket(mesh: &Mesh) {
    for address in SERVERS {
        says_ok(mesh, &["ws-peer", "ask", &format!("{address}:82")]);
    }
}

fn says_ok(mesh: &Mesh, words: &[&str]) {
    let output = mesh.exec(CLIENT, words).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, "ok\n", "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// At the listener in the client's namespace, which is the same for every destination.
fn h2spec(mesh: &Mesh) {
    let program = env::var("KEELSON_H2SPEC").expect("KEELSON_H2SPEC is the path of h2spec; `cargo xtask test` sets it");
    let report = mesh.manifests().join("h2spec.xml");
    let words = [&program, "--host", SERVERS[0], "--port", "80", "--timeout", "5", "--junit-report", report.to_str().unwrap()];
    let output = mesh.exec(CLIENT, &words).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let report = fs::read_to_string(report).unwrap_or_else(|error| panic!("{error}: {text}"));
    let cases = report.matches("<testcase ").count();
    let failed = report.matches("<failure>").count() + report.matches("<error>").count();
    let passed = cases - failed - report.matches("<skipped").count();
    println!("h2spec: {passed} of {cases}");
    assert!(cases >= CASES && passed >= ENOUGH, "{passed} of {cases}:\n{text}");
}
