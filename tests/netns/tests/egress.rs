//! What leaves the mesh, through the real kernel path: ServiceEntries by host, by server name, by port and by resolved names;
//! `outboundTrafficPolicy`; and outlier detection and limits of connections that carry no requests.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use harness::wait_until;
use netns_tests::{
    Held, Mesh, Options, PATIENCE,
    manifest::{namespace, node, pod, service_with},
};
use serde_json::Value;
use tempfile::NamedTempFile;

const CLIENT: &str = "app/client";
/// What applications get from their own servers of names: an address that nobody of the mesh has.
const DIALLED: &str = "203.0.113.10";
/// Where an entry's endpoint is.
const STATIC: &str = "203.0.113.20";
/// The server of names: slot 50,001 of node 1.
const NAMES: &str = "10.65.200.3";

const ENTRIES: &str = r#"
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: app}
spec:
  hosts: [api.example.com]
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 443, name: tls, protocol: TLS}
  - {number: 5432, name: tcp, protocol: TCP}
  resolution: STATIC
  endpoints: [{address: 203.0.113.20}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild, namespace: app}
spec:
  hosts: ["*.example.net"]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
  resolution: NONE
---
# A host that only the wildcard stands for.
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: foo, namespace: app}
spec:
  hosts: [foo.example.net]
  http:
  - match: [{uri: {prefix: /gone}}]
    directResponse: {status: 410}
  - headers: {request: {set: {x-routed: foo}}}
    route: [{destination: {host: foo.example.net}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: private, namespace: app}
spec:
  hosts: [private.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  exportTo: [other]
  endpoints: [{address: 203.0.113.20}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: named, namespace: app}
spec:
  hosts: [db.example.org]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 6000, name: tcp, protocol: TCP}]
  resolution: DNS
"#;

const REGISTRY_ONLY: &str = r"
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    outboundTrafficPolicy: {mode: REGISTRY_ONLY}
";

/// The table of the server of names, and the node's `resolv.conf`.
struct Files {
    table: NamedTempFile,
    resolv: NamedTempFile,
}

impl Files {
    fn new() -> Self {
        let file = || tempfile::Builder::new().prefix("keelson-names-").tempfile().unwrap();
        let files = Self { table: file(), resolv: file() };
        fs::write(files.resolv.path(), format!("nameserver {NAMES}\noptions timeout:1 attempts:2\n")).unwrap();
        files.say(&format!("db.example.org {STATIC}\n"));
        files
    }

    fn say(&self, table: &str) {
        fs::write(self.table.path(), table).unwrap();
    }
}

fn up(files: &Files) -> Mesh {
    let table = files.table.path().to_str().unwrap();
    let server = |name: &str| {
        let web = ["http-peer", "80", name];
        pod(&format!("wild/{name}"), "node-1").runs(&web, Some(80)).ledger(443).ledger(5432).ledger(6000).document()
    };
    let ports = [("tcp-lines", 7000, 7000), ("tcp-closed", 7001, 7001)];
    let documents = [
        node("node-1", 1),
        namespace("app", true),
        namespace("other", true),
        namespace("wild", false),
        pod(CLIENT, "node-1").idle().document(),
        pod("app/neighbour", "node-1").idle().document(),
        pod("other/client", "node-1").idle().document(),
        server("dialled"),
        server("static"),
        pod("wild/names", "node-1").address_slot(50_001).runs(&["name-server", "53", table], None).document(),
        pod("app/lines", "node-1").ledger(7000).document(),
        service_with("app", "lines", 1, &ports),
        ENTRIES.to_owned(),
    ];
    let resolv = files.resolv.path().to_str().unwrap().to_owned();
    let options = Options { node: vec!["--resolv-conf".into(), resolv], ..Options::default() };
    let mesh = Mesh::up_with(&options, &documents);
    // Two hosts of the internet.
    for (name, address) in [("wild/dialled", DIALLED), ("wild/static", STATIC)] {
        let own = mesh.v4(name).to_string();
        run(&mesh.exec(name, &["ip", "addr", "add", &format!("{address}/32"), "dev", "lo"]).unwrap());
        run(&mesh.exec_on_node("node-1", &["ip", "route", "add", &format!("{address}/32"), "via", &own]).unwrap());
    }
    mesh
}

fn run(output: &std::process::Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_leaves_the_mesh_goes_where_it_says() {
    let files = Files::new();
    let mesh = up(&files);
    wait_until("the entries to be known", PATIENCE, || Ok(whoami(&mesh, CLIENT, "api.example.com").0 == "static")).unwrap();
    by_host(&mesh);
    by_server_name(&mesh);
    by_port(&mesh);
    by_resolved_name(&mesh, &files);
    connections_are_limited(&mesh);
    endpoints_that_fail_connections_are_left_out(&mesh);
    registry_only(&mesh);
    mesh.down();
}

/// What a request for a host to the dialled address comes to: the server's name and its answer, or the status.
fn whoami(mesh: &Mesh, client: &str, host: &str) -> (String, Value) {
    let (status, text) = fetch(mesh, client, host, "/whoami");
    match serde_json::from_str::<Value>(&text) {
        Ok(found) if status == "200" => (found["name"].as_str().unwrap_or_default().to_owned(), found),
        _ => (status, Value::Null),
    }
}

fn fetch(mesh: &Mesh, client: &str, host: &str, path: &str) -> (String, String) {
    let (host, url) = (format!("host: {host}"), format!("http://{DIALLED}{path}"));
    let words = ["curl", "--silent", "--max-time", "20", "--write-out", "\n%{http_code}", "-H", &host, &url];
    let output = mesh.exec(client, &words).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
    (status.to_owned(), body.to_owned())
}

fn by_host(mesh: &Mesh) {
    assert_eq!(whoami(mesh, CLIENT, "api.example.com").0, "static");
    assert_eq!(whoami(mesh, CLIENT, "API.example.com:80").0, "static");
    // Left to the client; the routes of a name count for that name alone.
    let (name, found) = whoami(mesh, CLIENT, "foo.example.net");
    assert_eq!((&*name, &found["fields"]["x-routed"]), ("dialled", &Value::from("foo")));
    let (name, found) = whoami(mesh, CLIENT, "bar.example.net");
    assert_eq!((&*name, &found["fields"]["x-routed"]), ("dialled", &Value::Null));
    assert_eq!(fetch(mesh, CLIENT, "foo.example.net", "/gone/x").0, "410");
    assert_eq!(fetch(mesh, CLIENT, "bar.example.net", "/status/201").0, "201");
    assert_ne!(fetch(mesh, CLIENT, "bar.example.net", "/gone/x").0, "410");
    // What nobody has declared, and what is declared for others, passes.
    assert_eq!(whoami(mesh, CLIENT, "www.elsewhere.example").0, "dialled");
    assert_eq!(whoami(mesh, CLIENT, "private.example.com").0, "dialled");
    assert_eq!(whoami(mesh, "other/client", "private.example.com").0, "static");
    let requests = |service: &str| mesh.metric("node-1", "istio_requests_total", &["reporter=\"source\"", service]);
    for service in ["destination_service=\"api.example.com\"", "destination_service=\"*.example.net\""] {
        assert!(requests(service) > 0.0, "{service}");
    }
}

/// The ClientHello is looked at and passed on: whose it was is seen by who got a connection.
fn by_server_name(mesh: &Mesh) {
    for (name, taker) in
        [("api.example.com", "wild/static"), ("bar.example.net", "wild/dialled"), ("www.elsewhere.example", "wild/dialled")]
    {
        let before = mesh.taken(taker);
        let (resolve, url) = (format!("{name}:443:{DIALLED}"), format!("https://{name}/"));
        let _ = mesh.exec(CLIENT, &["curl", "--silent", "--max-time", "20", "--resolve", &resolve, &url]).unwrap();
        wait_until(&format!("a connection for {name}"), PATIENCE, || Ok(mesh.taken(taker) == before + 1)).unwrap();
    }
    // Without a name it passes, too.
    let before = mesh.taken("wild/dialled");
    assert_eq!(mesh.outcome(CLIENT, format!("{DIALLED}:443")), "ok");
    assert_eq!(mesh.taken("wild/dialled"), before + 1);
}

fn by_port(mesh: &Mesh) {
    let before = mesh.taken("wild/static");
    assert_eq!(mesh.outcome(CLIENT, format!("{DIALLED}:5432")), "ok");
    assert_eq!(mesh.taken("wild/static"), before + 1);
}

/// The node asks its own server of names, follows a changed answer once the old one has ended, and keeps the last good one
/// where no server answers.
fn by_resolved_name(mesh: &Mesh, files: &Files) {
    assert_eq!(whoami(mesh, CLIENT, "db.example.org").0, "static");
    let before = mesh.taken("wild/static");
    assert_eq!(mesh.outcome(CLIENT, format!("{DIALLED}:6000")), "ok");
    assert_eq!(mesh.taken("wild/static"), before + 1);
    files.say(&format!("db.example.org {DIALLED}\n"));
    let moved = || {
        let before = mesh.taken("wild/dialled");
        anyhow::ensure!(mesh.outcome(CLIENT, format!("{DIALLED}:6000")) == "ok");
        Ok(mesh.taken("wild/dialled") == before + 1)
    };
    wait_until("the new address", PATIENCE, moved).unwrap();
    files.say("");
    wait_until("the name to be gone", PATIENCE, || Ok(mesh.outcome(CLIENT, format!("{DIALLED}:6000")) == "reset")).unwrap();
    assert!(mesh.failures("node-1", "NAME_NOT_RESOLVED") > 0.0);
    // One address that nobody has, and one that answers.
    files.say(&format!("db.example.org 203.0.113.99 {STATIC}\n"));
    wait_until("the name to be back", PATIENCE, || Ok(mesh.outcome(CLIENT, format!("{DIALLED}:6000")) == "ok")).unwrap();
    for _ in 0..4 {
        assert_eq!(mesh.outcome(CLIENT, format!("{DIALLED}:6000")), "ok");
    }
}

/// `tcp.maxConnections`, for each client pod.
fn connections_are_limited(mesh: &Mesh) {
    const RULE: &str = r"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: lines, namespace: app}
spec:
  host: lines
  trafficPolicy: {connectionPool: {tcp: {maxConnections: 2}}}
";
    mesh.put("rule.yaml", RULE);
    let target = "10.96.0.1:7000";
    // What an attempt before has left may still be counted.
    let bounded = || {
        let held = Held::begin(mesh, CLIENT, target, 3, &[]);
        let open = held.wait_for("open");
        if (open["open"].as_u64(), open["failed"].as_u64()) != (Some(2), Some(1)) {
            return Ok(false);
        }
        anyhow::ensure!(mesh.outcome("app/neighbour", target) == "ok", "a neighbour has limits of its own");
        Ok(true)
    };
    wait_until("the limit", PATIENCE, bounded).unwrap();
    assert!(mesh.failures("node-1", "UPSTREAM_OVERFLOW") > 0.0);
    wait_until("room again", PATIENCE, || Ok(mesh.outcome(CLIENT, target) == "ok")).unwrap();
    mesh.take_away("rule.yaml");
}

/// Nothing listens on the port: after so many failures the endpoint is not dialled any more, by this pod.
fn endpoints_that_fail_connections_are_left_out(mesh: &Mesh) {
    const RULE: &str = r"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: lines, namespace: app}
spec:
  host: lines
  trafficPolicy:
    outlierDetection:
      {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 300s, maxEjectionPercent: 100}
";
    mesh.put("rule.yaml", RULE);
    let closed = "10.96.0.1:7001";
    let ejected = || {
        let before = mesh.failures("node-1", "ENDPOINTS_EJECTED");
        mesh.outcome(CLIENT, closed);
        Ok(mesh.failures("node-1", "ENDPOINTS_EJECTED") > before)
    };
    wait_until("the endpoint to be ejected", PATIENCE, ejected).unwrap();
    let refused = mesh.failures("node-1", "CONNECT_REFUSED");
    let also = mesh.failures("node-1", "ENDPOINTS_EJECTED");
    for _ in 0..3 {
        mesh.outcome(CLIENT, closed);
    }
    assert!(mesh.failures("node-1", "CONNECT_REFUSED") <= refused, "it was dialled again");
    assert!(mesh.failures("node-1", "ENDPOINTS_EJECTED") >= also + 3.0);
    // A neighbour has its own experience.
    mesh.outcome("app/neighbour", closed);
    assert!(mesh.failures("node-1", "CONNECT_REFUSED") > refused, "the neighbour's attempt was not made");
    mesh.take_away("rule.yaml");
}

fn registry_only(mesh: &Mesh) {
    mesh.put("mesh.yaml", REGISTRY_ONLY);
    wait_until("the registry to be all there is", PATIENCE, || Ok(whoami(mesh, CLIENT, "www.elsewhere.example").0 == "502"))
        .unwrap();
    assert_eq!(fetch(mesh, CLIENT, "www.elsewhere.example", "/whoami"), ("502".into(), String::new()));
    assert_eq!(whoami(mesh, CLIENT, "private.example.com").0, "502");
    assert_eq!(whoami(mesh, CLIENT, "api.example.com").0, "static");
    assert_eq!(whoami(mesh, CLIENT, "bar.example.net").0, "dialled");
    for (name, through) in [("bar.example.net", true), ("www.elsewhere.example", false)] {
        let (before, refused) = (mesh.taken("wild/dialled"), mesh.failures("node-1", "REGISTRY_ONLY"));
        let (resolve, url) = (format!("{name}:443:{DIALLED}"), format!("https://{name}/"));
        let _ = mesh.exec(CLIENT, &["curl", "--silent", "--max-time", "20", "--resolve", &resolve, &url]).unwrap();
        if through {
            wait_until(&format!("the connection for {name}"), PATIENCE, || Ok(mesh.taken("wild/dialled") == before + 1)).unwrap();
        } else {
            let told = || Ok(mesh.failures("node-1", "REGISTRY_ONLY") > refused);
            wait_until(&format!("the refusal of {name}"), PATIENCE, told).unwrap();
            assert_eq!(mesh.taken("wild/dialled"), before, "{name}");
        }
    }
    // Neither an entry's port, nor an entry's name.
    assert_eq!(mesh.outcome(CLIENT, format!("{DIALLED}:22")), "reset");
    assert_eq!(mesh.outcome(CLIENT, format!("{DIALLED}:5432")), "ok");
    assert!(mesh.failures("node-1", "REGISTRY_ONLY") >= 3.0);
}
