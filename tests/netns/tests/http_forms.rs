//! Messages of every form that HTTP allows, in both versions and from each to the other, on the client's own node and across
//! nodes: without a body, with trailers, with interim answers, and broken off.

#![allow(clippy::unwrap_used, reason = "tests")]

use netns_tests::{
    Mesh, PATIENCE,
    manifest::{namespace, node, pod, service_with},
};
use serde_json::json;

const CLIENT: &str = "app/client";
const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");
/// The server on the client's node, and the one on the other.
const SERVERS: [&str; 2] = ["10.96.0.1", "10.96.0.2"];

fn documents() -> Vec<String> {
    // What is spoken to the servers is said by their ports' names.
    let ports = [("http", 80, 8080), ("http2", 81, 8081), ("http-raw", 85, 8085)];
    let server = |name: &str, node: &str| {
        pod(&format!("app/{name}"), node)
            .runs(&["http-peer", "8080", name], Some(8080))
            .runs(&["http-peer", "8081", name], Some(8081))
            .runs(&["python3", &format!("{PEERS}/upstream.py"), "8085"], Some(8085))
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
        service_with("app", "nobody", 3, &ports),
    ]
}

#[test]
fn messages_keep_their_form() {
    let mesh = Mesh::up(&documents());
    for address in SERVERS {
        for port in [80, 81, 85] {
            let url = format!("http://{address}:{port}/");
            harness::wait_until("the servers to be known", PATIENCE, || Ok(mesh.curl(CLIENT, &["--fail", &url]).0)).unwrap();
        }
    }
    for check in [heads, forms, broken_answers] {
        check(&mesh);
    }
    mesh.down();
}

/// An answer to HEAD has what the one to GET would have but for the body, and so have those that have none by their status.
fn heads(mesh: &Mesh) {
    for address in SERVERS {
        for port in [80, 81] {
            for client in ["--http1.1", "--http2-prior-knowledge"] {
                let text = mesh.fetched(CLIENT, &[client, "--head", &format!("http://{address}:{port}/whoami")]).to_lowercase();
                assert!(text.contains(" 200") && text.contains("content-length: "), "{client} to {address}:{port}: {text}");
                for code in ["204", "304"] {
                    let url = format!("http://{address}:{port}/status/{code}");
                    for words in [&[client, &url][..], &[client, "--head", &url]] {
                        assert_eq!(mesh.status_of(CLIENT, words), code, "{words:?}");
                    }
                }
            }
        }
        // What a server says of a length that it does not send is no length of what follows.
        for client in ["--http1.1", "--http2-prior-knowledge"] {
            let url = |path: &str| format!("http://{address}:85/{path}");
            for (words, code) in [
                (&[client, &url("not-modified")][..], "304"),
                (&[client, &url("no-content")], "204"),
                (&[client, "--head", &url("not-modified")], "304"),
                (&[client, "--head", &url("length")], "200"),
            ] {
                assert_eq!(mesh.status_of(CLIENT, words), code, "{words:?}");
            }
            let text = mesh.fetched(CLIENT, &[client, "--head", &url("length")]).to_lowercase();
            assert!(text.contains("content-length: 100"), "{text}");
        }
    }
}

/// Of messages that few clients send, whatever the server is spoken to in.
fn forms(mesh: &Mesh) {
    for address in SERVERS {
        for port in ["80", "81"] {
            let found = mesh.json(CLIENT, &["python3", &format!("{PEERS}/forms.py"), address, port]);
            let expected = json!({
                "expect_continue": [100, 200, "hello"],
                "expect_is_not_passed_on": [200, false],
                "trailers_both_ways": [200, "abc", ["x-sum: 6"]],
                "answers_without_a_body": [200, 204, 304, 204, 200, 200, true],
                "broken_uploads": 0,
                "trailers_of_http2": "x-sum: 6\n",
                "heads_of_http2": [true, ["", ""], 1],
                "empty_frames": 1000,
            });
            assert_eq!(found, expected, "{address}:{port}");
        }
        // An answer that does not need the body comes in place of the word to go on.
        let refused = mesh.fetched(CLIENT, &["-v", "-H", "expect: 100-continue", "--data", "hello", "http://10.96.0.3/"]);
        assert!(refused.contains("503") && !refused.contains("100 Continue"), "{refused}");
    }
}

/// What breaks off at the server is no whole answer to anybody, whatever it is broken off with.
fn broken_answers(mesh: &Mesh) {
    for address in SERVERS {
        for port in [80, 81] {
            for client in ["--http1.1", "--http2-prior-knowledge"] {
                // Of HTTP/2: NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL.
                for path in ["/cut", "/cut/0", "/cut/2", "/cut/7", "/cut/8"] {
                    let (whole, text) = mesh.curl(CLIENT, &[client, &format!("http://{address}:{port}{path}")]);
                    assert!(!whole && text.starts_with("half"), "{client} to {address}:{port}{path}: {text}");
                }
            }
        }
    }
}
