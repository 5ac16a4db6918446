//! What `meshctl explain` says of a running mesh is what its traffic does: on generated manifests and requests, through the real
//! kernel path. `KEELSON_SEED` repeats a run; the seed of a failed one is in its message.

#![allow(clippy::unwrap_used, reason = "tests")]

mod generated {
    pub(crate) mod manifests;
    pub(crate) mod random;
}

use std::process::{Command, Output};

use generated::{
    manifests::{Request, SERVICES, manifests, request},
    random::Random,
};
use harness::{Binaries, wait_until};
use netns_tests::{
    Mesh, PATIENCE,
    manifest::{namespace, node, pod, service_with},
};
use serde_json::Value;

const CLIENT: &str = "app/client";
const SETS: usize = 3;
const REQUESTS: usize = 25;
/// Under which every kind of answer comes up.
const SEED: u64 = 4;

fn documents() -> Vec<String> {
    let server = |name: &str, node: &str, version: &str| {
        pod(&format!("app/{name}"), node)
            .app("shop")
            .account(name)
            .label("version", version)
            .runs(&["http-peer", "8080", name], Some(8080))
            .document()
    };
    let behind = |name: &str, host: u8, selector: &str| {
        service_with("app", name, host, &[("http", 80, 8080)]).replace(&format!("{{\"app\":\"{name}\"}}"), selector)
    };
    vec![
        node("node-1", 1),
        node("node-2", 2),
        namespace("app", true),
        pod(CLIENT, "node-1").idle().document(),
        server("near-1", "node-1", "v1"),
        server("far-1", "node-2", "v1"),
        server("near-2", "node-1", "v2"),
        server("far-2", "node-2", "v2"),
        behind("shop", 1, r#"{"app":"shop"}"#),
        behind("one", 2, r#"{"app":"shop","version":"v1"}"#),
        behind("two", 3, r#"{"app":"shop","version":"v2"}"#),
        behind("nobody", 4, r#"{"app":"nobody"}"#),
    ]
}

#[test]
fn explain_says_what_traffic_does() {
    let seed = std::env::var("KEELSON_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(SEED);
    let mut random = Random::new(seed);
    let mesh = Mesh::up(&documents());
    let mut kinds = std::collections::BTreeMap::<String, usize>::new();
    for set in 0..SETS {
        let text = manifests(set, &mut random);
        mesh.put("set.yaml", &text);
        in_force(&mesh, set);
        for number in 0..REQUESTS {
            let request = request(&mesh, &mut random);
            let explained = explain(&mesh, &request);
            let seen = Seen::of(&mesh, &request);
            if let Err(fault) = seen.is_as(&explained) {
                panic!("seed {seed}, set {set}, request {number}: {fault}\n{request:?}\n{explained:#}\n{seen:?}\n{text}");
            }
            *kinds.entry(explained["outcome"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    println!("{kinds:?}");
    // What is generated is worth the while.
    for kind in ["routed", "redirected", "responded", "denied", "no-route"] {
        assert!(seed != SEED || kinds.contains_key(kind), "nothing was {kind}: {kinds:?}");
    }
    mesh.down();
}

/// Waits until the set's marks show at every server: its routes, and its policies on both nodes.
fn in_force(mesh: &Mesh, set: usize) {
    for (name, at) in [("near-1", "node-1"), ("far-1", "node-2")] {
        let denied = Request::plain(format!("http://{}:8080/denied-{set}", mesh.v4(&format!("app/{name}"))));
        wait_until(&format!("the policies of set {set} on {at}"), PATIENCE, || Ok(Seen::of(mesh, &denied).status == 403))
            .unwrap();
    }
    for (name, address) in SERVICES {
        let routed = Request::plain(format!("http://{address}/set-{set}"));
        wait_until(&format!("the routes of set {set} at {name}"), PATIENCE, || Ok(Seen::of(mesh, &routed).marks(set))).unwrap();
    }
}

/// `meshctl explain -o json`, asked of the running mesh.
fn explain(mesh: &Mesh, request: &Request) -> Value {
    let id = mesh.id();
    let mut words = vec!["--lab", &id, "-o", "json", "explain", CLIENT, &request.to, "--method", &request.method];
    let port = request.port.to_string();
    words.extend(["--port", &port, "--path", &request.path]);
    let headers: Vec<String> = request.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    words.extend(headers.iter().flat_map(|header| ["-H", header]));
    let program = Binaries::beside_current().unwrap().folder.join("meshctl");
    let Output { status, stdout, stderr } = Command::new(program).args(&words).output().unwrap();
    assert!(status.success(), "{words:?}: {}", String::from_utf8_lossy(&stderr));
    serde_json::from_slice(&stdout).unwrap()
}

/// What a client and the server have seen.
#[derive(Debug)]
struct Seen {
    status: u16,
    /// Of the answer, in lower case.
    headers: Vec<(String, String)>,
    body: String,
    /// What the server has seen; null where none was asked.
    server: Value,
}

impl Seen {
    fn of(mesh: &Mesh, request: &Request) -> Self {
        let mut words = vec!["curl", "--silent", "--show-error", "--path-as-is", "--include", "--max-time", "20"];
        words.extend(["--request", &request.method, &request.url]);
        let headers: Vec<String> = request.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        words.extend(headers.iter().flat_map(|header| ["-H", header]));
        let output = mesh.exec(CLIENT, &words).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
        let field = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
        Self {
            status,
            headers: lines.filter_map(field).collect(),
            server: serde_json::from_str(body).unwrap_or_default(),
            body: body.to_owned(),
        }
    }

    /// By a rule of this set's own.
    fn marks(&self, set: usize) -> bool {
        self.status == 299 || self.header("location").is_some_and(|location| location.contains(&format!("set-{set}.example")))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Whether that can have come of what was explained.
    fn is_as(&self, explained: &Value) -> Result<(), String> {
        let same = |what: &str, found: Value, expected: &Value| {
            if found == *expected { Ok(()) } else { Err(format!("{what}: {found}, not {expected}")) }
        };
        match explained["outcome"].as_str().unwrap() {
            "routed" => self.is_routed_as(explained),
            "redirected" => {
                same("location", self.header("location").into(), &explained["location"])?;
                same("status", self.status.into(), &explained["status"])
            }
            // Beside a backend that nobody is behind, or that is none.
            "denied" if matches!(self.status, 500 | 503) && used(explained).any(|backend| !backend["unavailable"].is_null()) => {
                Ok(())
            }
            // The first backend's; each has its own.
            "no-endpoint"
                if used(explained).any(|backend| self.status == if backend["service"].is_null() { 500 } else { 503 }) =>
            {
                Ok(())
            }
            "denied" => {
                same("body", self.body.as_str().into(), &"RBAC: access denied".into())?;
                same("status", self.status.into(), &explained["status"])
            }
            _ => same("status", self.status.into(), &explained["status"]),
        }
    }

    /// By one of the backends with a weight, at one of its endpoints that may be picked.
    fn is_routed_as(&self, explained: &Value) -> Result<(), String> {
        let mut ways = Vec::new();
        for backend in used(explained) {
            if !backend["unavailable"].is_null() {
                ways.push(format!("{} unavailable", backend["service"]));
                if matches!(self.status, 500 | 503) {
                    return Ok(());
                }
            }
            for endpoint in list(&backend["endpoints"]).filter(|endpoint| !endpoint["tier"].is_null()) {
                let allowed = endpoint.pointer("/authorization/Judged/outcome/allowed") != Some(&Value::Bool(false));
                let server = endpoint["workload"].as_str().unwrap().trim_start_matches("app/");
                ways.push(format!("{server} {allowed} {} {}", backend["path"], backend["host"]));
                let arrived =
                    self.server["name"] == server && self.server["path"] == backend["path"] && self.host() == backend["host"];
                if (allowed && self.status == 200 && arrived) || (!allowed && self.status == 403) {
                    return self.has_headers(&explained["explanation"]["treatment"]);
                }
            }
        }
        Err(format!("none of {ways:?}"))
    }

    /// What the server was called, without port.
    fn host(&self) -> &str {
        let host = self.server["fields"]["host"].as_str().unwrap_or_default();
        host.split_once(':').map_or(host, |(host, _)| host)
    }

    /// The header operations of the rule have been carried out.
    fn has_headers(&self, treatment: &Value) -> Result<(), String> {
        if self.status != 200 {
            return Ok(());
        }
        let fields = &self.server["fields"];
        for (ops, of_server) in [(&treatment["request_headers"], true), (&treatment["response_headers"], false)] {
            let value = |name: &str| if of_server { fields[name].clone() } else { self.header(name).into() };
            for set in list(&ops["set"]) {
                let name = set["name"].as_str().unwrap();
                if value(name) != set["value"] {
                    return Err(format!("{name} is {}, not {}", value(name), set["value"]));
                }
            }
            for removed in list(&ops["remove"]) {
                if !value(removed.as_str().unwrap()).is_null() {
                    return Err(format!("{removed} is still there"));
                }
            }
        }
        Ok(())
    }
}

/// The backends that get a share of the requests.
fn used(explained: &Value) -> impl Iterator<Item = &Value> {
    list(&explained["explanation"]["backends"]).filter(|backend| backend["weight"] != 0)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
