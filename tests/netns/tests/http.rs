//! HTTP request by request, through the real kernel path: everything asked on the client's own node and across nodes, and both
//! must agree.

#![allow(clippy::unwrap_used, reason = "tests")]

use netns_tests::{
    Mesh, PATIENCE,
    manifest::{namespace, node, pod, policy, service_with},
};
use serde_json::{Value, json};

const CLIENT: &str = "app/client";
/// On the client's node.
const NEIGHBOR: &str = "app/neighbor";
/// The server on the client's node, and the one on the other.
const SERVERS: [(&str, &str); 2] = [("near", "10.96.0.1"), ("far", "10.96.0.2")];

fn documents() -> Vec<String> {
    let ports = [("http", 80, 8080), ("http2", 81, 8081), ("http-closed", 82, 8099), ("any", 83, 8082), ("lines", 84, 9000)];
    let server = |name: &str, node: &str| {
        pod(&format!("app/{name}"), node)
            .runs(&["http-peer", "8080", name], Some(8080))
            .runs(&["http-peer", "8081", name], Some(8081))
            .runs(&["http-peer", "8082", name], Some(8082))
            .ledger(9000)
            .document()
    };
    vec![
        node("node-1", 1),
        node("node-2", 2),
        namespace("app", true),
        pod(CLIENT, "node-1").idle().document(),
        pod(NEIGHBOR, "node-1").idle().document(),
        server("near", "node-1"),
        server("far", "node-2"),
        service_with("app", "near", 1, &ports),
        service_with("app", "far", 2, &ports),
        service_with("app", "nobody", 3, &ports),
    ]
}

#[test]
fn requests_are_told_apart() {
    let mesh = Mesh::up(&documents());
    for (_, address) in SERVERS {
        let url = format!("http://{address}/");
        harness::wait_until("the servers to be known", PATIENCE, || Ok(mesh.status_of(CLIENT, &[&url]) == "200")).unwrap();
    }
    for check in [answers, bodies, versions, trailers, upgrades, failures, policies, counted, undeclared, routes, outliers] {
        check(&mesh);
    }
    mesh.down();
}

/// The path is normalized, the application learns who asks, forged words are taken away, one connection serves many.
fn answers(mesh: &Mesh) {
    for (name, address) in SERVERS {
        let url = format!("http://{address}/a/./b/../c?d=1");
        let forged = "x-forwarded-client-cert: URI=spiffe://forged";
        let text = mesh.fetched(CLIENT, &["-H", forged, "-H", "x-envoy-attempt-count: 7", "-H", "host: Some.Name:80", &url]);
        let found: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(found["name"], name);
        assert_eq!(found["path"], "/a/c?d=1");
        assert_eq!(found["version"], "HTTP/1.1");
        let fields = &found["fields"];
        assert_eq!(fields["host"], "Some.Name:80");
        let cert = format!("By=spiffe://cluster.local/ns/app/sa/{name};URI=spiffe://cluster.local/ns/app/sa/client");
        assert_eq!(fields["x-forwarded-client-cert"], json!(cert), "{name}");
        assert_eq!(fields["x-envoy-attempt-count"], "1", "{name}");
        assert_eq!(fields["x-request-id"].as_str().unwrap().len(), 36);

        let url = format!("http://{address}/whoami");
        let many = mesh
            .fetched(CLIENT, &["--write-out", "%{num_connects} ", "--output", "/dev/null", &url, "--output", "/dev/null", &url]);
        assert_eq!(many, "1 0 ", "the second request goes over the first one's connection");
        let v6 = format!("http://[fd96::{}]/whoami", if name == "near" { 1 } else { 2 });
        assert_eq!(mesh.status_of(CLIENT, &["--globoff", &v6]), "200");
        assert_eq!(mesh.status_of(CLIENT, &["--http1.0", &url]), "200");
        assert_eq!(mesh.status_of(CLIENT, &["--head", &format!("http://{address}/status/204")]), "204");
        // A pod's own address is that pod.
        let own = format!("http://{}:8080/whoami", mesh.v4(&format!("app/{name}")));
        assert!(mesh.fetched(CLIENT, &[&own]).contains(&format!("\"name\":\"{name}\"")));
    }
}

fn bodies(mesh: &Mesh) {
    for (_, address) in SERVERS {
        let script = format!(
            "head -c 10000000 /dev/urandom > $0 && for how in 'content-length: 10000000' 'transfer-encoding: chunked'; do \
             curl -sS --max-time 60 -H \"$how\" -H 'expect:' --data-binary @$0 http://{address}/echo | cmp - $0 || exit 1; done; \
             rm $0"
        );
        let file = format!("/tmp/keelson-http-{}-{address}", std::process::id());
        let output = mesh.exec(CLIENT, &["sh", "-c", &script, &file]).unwrap();
        assert!(output.status.success(), "{address}: {output:?}");
        // Told to wait, curl waits for the word to go on.
        let text = mesh.fetched(CLIENT, &["-H", "expect: 100-continue", "--data", "hello", &format!("http://{address}/echo")]);
        assert_eq!(text, "hello");
    }
}

/// The port's declaration says what the server is spoken to in, whatever the client speaks.
fn versions(mesh: &Mesh) {
    for (_, address) in SERVERS {
        for (port, spoken) in [(80, "HTTP/1.1"), (81, "HTTP/2.0")] {
            for client in ["--http1.1", "--http2-prior-knowledge"] {
                let text = mesh.fetched(CLIENT, &[client, &format!("http://{address}:{port}/whoami?x")]);
                let found: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(found["version"], spoken, "{client} to {address}:{port}");
                assert_eq!(found["path"], "/whoami?x");
            }
        }
    }
}

fn trailers(mesh: &Mesh) {
    for (_, address) in SERVERS {
        for port in [80, 81] {
            for client in ["--http1.1", "--http2-prior-knowledge"] {
                let url = format!("http://{address}:{port}/trailers");
                let text = mesh.fetched(CLIENT, &[client, "-H", "te: trailers", "--dump-header", "-", &url]);
                assert!(text.contains("one two three"), "{text}");
                assert!(text.to_lowercase().contains("x-sum: 3"), "{client} to {address}:{port}: {text}");
            }
        }
    }
}

/// What one pod finds out about an endpoint, or makes it look like, is its own: its neighbor goes on asking.
fn outliers(mesh: &Mesh) {
    let code = |pod: &str, url: &str| {
        let words = ["curl", "--silent", "--max-time", "20", "--output", "/dev/null", "--write-out", "%{http_code}", url];
        String::from_utf8_lossy(&mesh.exec(pod, &words).unwrap().stdout).into_owned()
    };
    for (name, address) in SERVERS {
        let rule = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": { "name": name, "namespace": "app" },
            "spec": { "host": format!("{name}.app.svc.cluster.local"), "trafficPolicy": { "outlierDetection": {
                "consecutive5xxErrors": 3, "interval": "1s", "baseEjectionTime": "600s", "maxEjectionPercent": 100,
            } } },
        });
        mesh.put("outliers.yaml", &format!("---\n{rule}\n"));
        let (bad, good) = (format!("http://{address}/status/500"), format!("http://{address}/whoami"));
        harness::wait_until("the endpoint to be ejected", PATIENCE, || Ok(code(CLIENT, &bad) == "503")).unwrap();
        for _ in 0..20 {
            assert_eq!((&*code(CLIENT, &good), &*code(NEIGHBOR, &good)), ("503", "200"), "{name}");
        }
        mesh.take_away("outliers.yaml");
        harness::wait_until("the rule to be gone", PATIENCE, || Ok(code(CLIENT, &good) == "200")).unwrap();
    }
}

fn upgrades(mesh: &Mesh) {
    const SCRIPT: &str = r"
import socket, sys
s = socket.create_connection((sys.argv[1], 80), 20)
s.sendall(b'GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
head = b''
while not head.endswith(b'\r\n\r\n'):
    more = s.recv(1)
    assert more, head
    head += more
assert head.startswith(b'HTTP/1.1 101 '), head
assert b'upgrade: websocket' in head.lower(), head
for size in (1, 1000, 1000000):
    sent = bytes(i % 251 for i in range(size))
    s.sendall(sent)
    got = b''
    while len(got) < size:
        more = s.recv(65536)
        assert more, len(got)
        got += more
    assert got == sent
s.shutdown(socket.SHUT_WR)
assert s.recv(1) == b''
print('ok')
";
    for (_, address) in SERVERS {
        let output = mesh.exec(CLIENT, &["python3", "-c", SCRIPT, address]).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "ok\n", "{address}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn failures(mesh: &Mesh) {
    for (_, address) in SERVERS {
        assert_eq!(mesh.status_of(CLIENT, &[&format!("http://{address}/status/404")]), "404");
        assert_eq!(mesh.status_of(CLIENT, &[&format!("http://{address}/status/500")]), "500");
        let refused = mesh.fetched(CLIENT, &["--write-out", " %{http_code}", &format!("http://{address}:82/")]);
        assert!(refused.starts_with("upstream connect error or disconnect/reset before headers."), "{refused}");
        assert!(refused.ends_with(" 503"), "{refused}");
        assert_eq!(mesh.status_of(CLIENT, &["--path-as-is", &format!("http://{address}/a%00b")]), "400");
        // What breaks off at the server breaks off at the client.
        let (whole, text) = mesh.curl(CLIENT, &[&format!("http://{address}/cut")]);
        assert!(!whole && text.starts_with("half"), "{text}");
    }
    let text = mesh.fetched(CLIENT, &["--write-out", " %{http_code}", "http://10.96.0.3/"]);
    assert_eq!(text, "no healthy upstream 503");
    let grpc = ["-H", "content-type: application/grpc", "--http2-prior-knowledge", "--dump-header", "-", "http://10.96.0.3:81/"];
    let text = mesh.fetched(CLIENT, &grpc).to_lowercase();
    assert!(text.starts_with("http/2 200") && text.contains("grpc-status: 14"), "{text}");
}

/// Of one path, on the identity that was proved, before the application sees it; at once for requests of open connections.
fn policies(mesh: &Mesh) {
    let rule = json!([{
        "from": [{ "source": { "principals": ["cluster.local/ns/app/sa/client"] } }],
        "to": [{ "operation": { "methods": ["GET"], "paths": ["/secret*"] } }],
    }]);
    for (name, address) in SERVERS {
        mesh.put("policy.yaml", &policy("app", "no-secrets", Some(name), "DENY", &rule));
        let secret = format!("http://{address}/x/../secret/1");
        harness::wait_until("the policy to deny", PATIENCE, || {
            Ok(mesh.fetched(CLIENT, &["--path-as-is", "--write-out", " %{http_code}", &secret]) == "RBAC: access denied 403")
        })
        .unwrap();
        assert_eq!(mesh.status_of(CLIENT, &[&format!("http://{address}/open")]), "200");
        assert_eq!(mesh.status_of(CLIENT, &["--request", "PUT", &secret]), "200", "another method");
        let text = mesh
            .fetched(
                CLIENT,
                &[
                    "--http2-prior-knowledge",
                    "-H",
                    "content-type: application/grpc",
                    "--dump-header",
                    "-",
                    &format!("http://{address}:81/secret"),
                ],
            )
            .to_lowercase();
        assert!(text.starts_with("http/2 200") && text.contains("grpc-status: 7"), "{text}");
        mesh.take_away("policy.yaml");
        harness::wait_until("the policy to be gone", PATIENCE, || Ok(mesh.status_of(CLIENT, &[&secret]) == "200")).unwrap();
    }
}

/// What nobody has declared is looked at because a policy speaks of requests; what is not HTTP fails closed.
fn undeclared(mesh: &Mesh) {
    let rule = json!([{ "to": [{ "operation": { "paths": ["/open*"] } }] }]);
    for (name, address) in SERVERS {
        let (open, closed) = (format!("http://{address}:83/open"), format!("http://{address}:83/closed"));
        let lines = format!("{address}:84");
        assert_eq!(mesh.status_of(CLIENT, &[&closed]), "200");
        assert_eq!(mesh.outcome(CLIENT, &lines), "ok");
        mesh.put("policy.yaml", &policy("app", "only-open", Some(name), "ALLOW", &rule));
        harness::wait_until("the policy to deny", PATIENCE, || {
            Ok(mesh.curl(CLIENT, &["--write-out", " %{http_code}", &closed]).1 == "RBAC: access denied 403")
        })
        .unwrap();
        assert_eq!(mesh.status_of(CLIENT, &[&open]), "200");
        assert_eq!(mesh.outcome(CLIENT, &lines), "reset", "no HTTP");
        mesh.take_away("policy.yaml");
        harness::wait_until("the policy to be gone", PATIENCE, || Ok(mesh.outcome(CLIENT, &lines) == "ok")).unwrap();
    }
}

/// By a header to the other service, by weight to both, an answer of the route's own, and none where no rule matches.
fn routes(mesh: &Mesh) {
    let near = json!({ "host": "near.app.svc.cluster.local", "port": { "number": 80 } });
    let far = json!({ "host": "far.app.svc.cluster.local", "port": { "number": 80 } });
    let route = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": { "name": "nobody", "namespace": "app" },
        "spec": { "hosts": ["nobody.app.svc.cluster.local"], "http": [
            { "match": [{ "uri": { "prefix": "/x" }, "headers": { "to": { "exact": "far" } } }],
              "rewrite": { "uri": "/rewritten" }, "headers": { "request": { "set": { "x-by": "route" } } },
              "route": [{ "destination": far }] },
            { "match": [{ "uri": { "prefix": "/both" } }],
              "route": [{ "destination": near, "weight": 50 }, { "destination": far, "weight": 50 }] },
            { "match": [{ "uri": { "exact": "/gone" } }], "directResponse": { "status": 410, "body": { "string": "gone" } } },
            { "match": [{ "uri": { "exact": "/old" } }], "redirect": { "uri": "/new" } },
            { "match": [{ "uri": { "prefix": "/slow" } }], "fault": { "abort": { "httpStatus": 418, "percentage": { "value": 100 } } },
              "route": [{ "destination": near }] },
            { "match": [{ "uri": { "exact": "/never" } }], "timeout": "0.3s", "route": [{ "destination": near }] },
        ] },
    });
    mesh.put("route.yaml", &format!("---\n{route}\n"));
    let url = |path: &str| format!("http://10.96.0.3{path}");
    let waited = harness::wait_until("the route", PATIENCE, || Ok(mesh.status_of(CLIENT, &[&url("/gone")]) == "410"));
    waited.unwrap_or_else(|error| panic!("{error}: {}", mesh.object_status("VirtualService", "app", "nobody")));
    let text = mesh.fetched(CLIENT, &["-H", "to: far", &url("/x?q")]);
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&found["name"], &found["path"], &found["fields"]["x-by"]),
        (&json!("far"), &json!("/rewritten?q"), &json!("route"))
    );
    let names: Vec<String> = (0..20).map(|_| mesh.fetched(CLIENT, &[&url("/both")])).collect();
    for name in ["near", "far"] {
        assert!(names.iter().any(|text| text.contains(&format!("\"name\":\"{name}\""))), "{name} in {names:?}");
    }
    let moved = mesh.fetched(CLIENT, &["--output", "/dev/null", "--write-out", "%{http_code} %{redirect_url}", &url("/old")]);
    assert_eq!(moved, "301 http://10.96.0.3/new");
    assert_eq!(mesh.fetched(CLIENT, &["--write-out", " %{http_code}", &url("/slow")]), "fault filter abort 418");
    assert_eq!(mesh.fetched(CLIENT, &["--write-out", " %{http_code}", &url("/never")]), "upstream request timeout 504");
    assert_eq!(mesh.status_of(CLIENT, &[&url("/no/rule")]), "404");
    mesh.take_away("route.yaml");
    harness::wait_until("no route", PATIENCE, || Ok(mesh.status_of(CLIENT, &[&url("/gone")]) == "503")).unwrap();
}

/// Each half has told of every request, also where both are one process.
fn counted(mesh: &Mesh) {
    for (name, node) in [("near", "node-1"), ("far", "node-2")] {
        let to = format!("destination_workload=\"{name}\"");
        let count = |node: &str, reporter: &str, code: &str| {
            let labels = [format!("reporter=\"{reporter}\""), to.clone(), format!("response_code=\"{code}\"")];
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            mesh.metric(node, "istio_requests_total", &labels)
        };
        for code in ["200", "404", "500", "403"] {
            let (source, destination) = (count("node-1", "source", code), count(node, "destination", code));
            assert!(source > 0.0, "{name}: no {code} at the source");
            assert!(
                (source - destination).abs() < 0.5,
                "{name}: {code}: {source} at the source, {destination} at the destination"
            );
        }
    }
}
