//! Who may reach whom: every kind of L4 rule, on the same node and across, while connections are open, and when an object is
//! wrong.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{net::SocketAddr, time::Instant};

use netns_tests::{
    Held, Mesh,
    manifest::{namespace, node, peer_authentication, pod, policy, service},
};
use serde_json::{Value, json};

const FILE: &str = "policy.yaml";
/// Whoever asks, and on which node; the server is on node-2.
const ALICE: &str = "app/alice";
const ALICE_NEAR: &str = "app/alice-near";
const BOB: &str = "app/bob";
const BOB_NEAR: &str = "app/bob-near";
const CAROL: &str = "other/carol";
const STRANGER: &str = "outside/stranger";
const TWIN: &str = "app/twin";
const OTHER_TWIN: &str = "app/other-twin";

fn documents() -> Vec<String> {
    vec![
        node("node-1", 1),
        node("node-2", 2),
        namespace("app", true),
        namespace("other", true),
        namespace("outside", false),
        pod("app/server", "node-2").ledger(9000).ledger(9100).document(),
        service("app", "server", 1, &[9000, 9100]),
        pod(ALICE, "node-1").idle().document(),
        pod(ALICE_NEAR, "node-2").account("alice").idle().document(),
        pod(BOB, "node-1").idle().document(),
        pod(BOB_NEAR, "node-2").account("bob").idle().document(),
        pod(TWIN, "node-1").account("twin").idle().document(),
        pod(OTHER_TWIN, "node-1").account("twin").idle().document(),
        pod("app/near-twin", "node-2").account("twin").idle().document(),
        pod(CAROL, "node-1").idle().document(),
        pod(STRANGER, "node-1").idle().document(),
    ]
}

#[test]
fn policy_is_enforced_on_proved_identities() {
    let scene = Scene { mesh: Mesh::up(&documents()) };
    scene.expect("no policy", &[ALICE, ALICE_NEAR, BOB, BOB_NEAR, CAROL, STRANGER, TWIN, OTHER_TWIN], &[]);

    let rule = json!([{ "from": [{ "source": { "principals": ["cluster.local/ns/app/sa/alice"] } }] }]);
    scene.with("ALLOW", &rule, &[ALICE, ALICE_NEAR], &[BOB, BOB_NEAR, CAROL, STRANGER, TWIN]);
    scene.with("DENY", &rule, &[BOB, BOB_NEAR, CAROL, STRANGER, TWIN], &[ALICE, ALICE_NEAR]);
    let rule = json!([{ "from": [{ "source": { "namespaces": ["other"] } }] }]);
    scene.with("ALLOW", &rule, &[CAROL], &[ALICE, ALICE_NEAR, STRANGER]);
    scene.with("DENY", &rule, &[ALICE, ALICE_NEAR, STRANGER], &[CAROL]);
    // Nobody proved an identity: a rule about those who have none.
    let rule = json!([{ "from": [{ "source": { "notPrincipals": ["*"] } }] }]);
    scene.with("DENY", &rule, &[ALICE, ALICE_NEAR, CAROL], &[STRANGER]);

    addresses(&scene);
    ports(&scene);
    open_connections(&scene);
    mutual_tls(&scene);
    attributes_of_requests(&scene);
    invalid_objects(&scene);
    how_fast(&scene);
    scene.mesh.down();
}

struct Scene {
    mesh: Mesh,
}

impl Scene {
    fn server(&self) -> SocketAddr {
        SocketAddr::new(self.mesh.v4("app/server"), 9000)
    }

    fn server_v6(&self) -> SocketAddr {
        SocketAddr::new(self.mesh.v6("app/server"), 9000)
    }

    fn targets(&self) -> [SocketAddr; 2] {
        [self.server(), self.server_v6()]
    }

    /// Waits until these are let in and those are not, by either IP version.
    fn expect(&self, what: &str, allowed: &[&str], denied: &[&str]) {
        let mut expected = Vec::new();
        for target in self.targets() {
            expected.extend(allowed.iter().map(|pod| (*pod, target, "ok")));
            expected.extend(denied.iter().map(|pod| (*pod, target, "reset")));
        }
        self.mesh.settle_on(what, &expected);
        // Once more: the wait has seen the moment of change, this sees that it stays so.
        for (pod, target, outcome) in expected {
            assert_eq!(self.mesh.outcome(pod, target), outcome, "{what}: {pod} to {target}");
        }
    }

    /// One policy at the server, and then none again.
    fn with(&self, action: &str, rules: &Value, allowed: &[&str], denied: &[&str]) {
        self.mesh.put(FILE, &policy("app", "one", Some("server"), action, rules));
        self.expect(&format!("{action} {rules}"), allowed, denied);
        self.without(denied);
    }

    fn without(&self, denied: &[&str]) {
        self.mesh.take_away(FILE);
        self.expect("no policy again", denied, &[]);
    }
}

/// Two pods of one account: only the address tells them apart, and it is the one that the pod really has.
fn addresses(scene: &Scene) {
    let mesh = &scene.mesh;
    let own = [format!("{}/32", mesh.v4(TWIN)), format!("{}/128", mesh.v6(TWIN))];
    let near = [mesh.v4("app/near-twin").to_string(), mesh.v6("app/near-twin").to_string()];
    scene.with(
        "ALLOW",
        &json!([{ "from": [{ "source": { "ipBlocks": own } }] }]),
        &[TWIN],
        &[OTHER_TWIN, "app/near-twin", STRANGER],
    );
    scene.with(
        "DENY",
        &json!([{ "from": [{ "source": { "ipBlocks": own } }] }]),
        &[OTHER_TWIN, "app/near-twin", STRANGER],
        &[TWIN],
    );
    scene.with(
        "ALLOW",
        &json!([{ "from": [{ "source": { "ipBlocks": near } }] }]),
        &["app/near-twin"],
        &[TWIN, OTHER_TWIN, STRANGER],
    );
    // A range and an exception; the stranger's plaintext is judged by its address as well.
    let rule = json!([{ "from": [{ "source": { "ipBlocks": ["10.65.0.0/16", "fd64:0:0:1::/64"], "notIpBlocks": own } }] }]);
    scene.with("ALLOW", &rule, &[OTHER_TWIN, ALICE, STRANGER], &[TWIN, "app/near-twin"]);
}

fn ports(scene: &Scene) {
    let mesh = &scene.mesh;
    let other = SocketAddr::new(mesh.v4("app/server"), 9100);
    let by_service: SocketAddr = "10.96.0.1:9100".parse().unwrap();
    mesh.put(FILE, &policy("app", "one", Some("server"), "DENY", &json!([{ "to": [{ "operation": { "ports": ["9100"] } }] }])));
    let all = [ALICE, ALICE_NEAR, STRANGER];
    let mut expected: Vec<_> = all.iter().flat_map(|pod| [(*pod, scene.server(), "ok"), (*pod, other, "reset")]).collect();
    expected.push((ALICE, by_service, "reset"));
    mesh.settle_on("DENY of a port", &expected);
    scene.mesh.take_away(FILE);
    mesh.settle_on("no policy again", &all.map(|pod| (pod, other, "ok")));
}

/// A change closes what it denies, by a reset, and leaves the rest alone.
fn open_connections(scene: &Scene) {
    let mesh = &scene.mesh;
    let hold = |pod| Held::open(mesh, pod, scene.server(), 5);
    let (alice, alice_near, stranger) = (hold(ALICE), hold(ALICE_NEAR), hold(STRANGER));
    let bobs = [hold(BOB), hold(BOB_NEAR)];
    let begin = Instant::now();
    let rule = json!([{ "from": [{ "source": { "principals": ["cluster.local/ns/app/sa/bob"] } }] }]);
    mesh.put(FILE, &policy("app", "one", Some("server"), "DENY", &rule));
    for bob in &bobs {
        assert_eq!(bob.wait_broken(5), ["reset"; 5]);
    }
    println!("a policy closes open connections {:.0?} after the edit", begin.elapsed());
    for revoked in ["node-1", "node-2"] {
        println!("{revoked}: {} connections revoked", mesh.failures(revoked, "POLICY_REVOKED"));
    }
    assert!(mesh.failures("node-2", "POLICY_REVOKED") >= 10.0);
    for held in [alice, alice_near, stranger] {
        held.end_whole();
    }
    for bob in bobs {
        assert_eq!(bob.end(), (0, 5));
    }
    scene.without(&[BOB, BOB_NEAR]);
}

fn mutual_tls(scene: &Scene) {
    let mesh = &scene.mesh;
    let other = SocketAddr::new(mesh.v4("app/server"), 9100);
    let stranger = Held::open(mesh, STRANGER, scene.server(), 3);
    mesh.put(FILE, &peer_authentication("app", None, "STRICT", &[]));
    scene.expect("STRICT", &[ALICE, ALICE_NEAR, CAROL], &[STRANGER]);
    // What was open in plaintext ends too.
    stranger.wait_broken(3);
    drop(stranger);
    mesh.put(FILE, &peer_authentication("app", None, "PERMISSIVE", &[]));
    scene.expect("PERMISSIVE", &[ALICE, ALICE_NEAR, STRANGER], &[]);
    mesh.put(FILE, &peer_authentication("app", Some("server"), "STRICT", &[(9100, "PERMISSIVE")]));
    scene.expect("STRICT but for a port", &[ALICE, ALICE_NEAR], &[STRANGER]);
    assert_eq!(mesh.outcome(STRANGER, other), "ok");
    mesh.put(FILE, &peer_authentication("app", Some("server"), "PERMISSIVE", &[(9100, "STRICT")]));
    scene.expect("STRICT at one port", &[ALICE, ALICE_NEAR, STRANGER], &[]);
    mesh.settle_on("STRICT at one port", &[(STRANGER, other, "reset"), (ALICE, other, "ok"), (ALICE_NEAR, other, "ok")]);
    scene.without(&[STRANGER]);
}

/// There are no requests here to have a method or a path: such a DENY denies whom it names, such an ALLOW allows nobody.
fn attributes_of_requests(scene: &Scene) {
    let from = json!([{ "source": { "principals": ["cluster.local/ns/app/sa/alice"] } }]);
    let to = json!([{ "operation": { "methods": ["GET"], "paths": ["/public"] } }]);
    let rule = json!([{ "from": from, "to": to }]);
    scene.with("DENY", &rule, &[BOB, BOB_NEAR, STRANGER], &[ALICE, ALICE_NEAR]);
    scene.with("ALLOW", &rule, &[], &[ALICE, ALICE_NEAR, BOB, STRANGER]);
    scene.with("DENY", &json!([{ "to": to }]), &[], &[ALICE, ALICE_NEAR, BOB, STRANGER]);
    scene.with(
        "DENY",
        &json!([{ "from": from, "when": [{ "key": "request.headers[x]", "values": ["y"] }] }]),
        &[BOB],
        &[ALICE, ALICE_NEAR],
    );
}

/// An object that is not understood changes nothing; its last good version stays, and its status says so.
fn invalid_objects(scene: &Scene) {
    let mesh = &scene.mesh;
    let from = json!([{ "source": { "principals": ["cluster.local/ns/app/sa/bob"] } }]);
    let good = policy("app", "one", Some("server"), "DENY", &json!([{ "from": from }]));
    mesh.put(FILE, &good);
    scene.expect("the good version", &[ALICE], &[BOB, BOB_NEAR]);

    let broken = [
        policy("app", "one", Some("server"), "PERHAPS", &json!([{ "from": from }])),
        policy("app", "one", Some("server"), "DENY", &json!([{ "from": [{ "source": { "ipBlocks": ["not an address"] } }] }])),
    ];
    for text in broken {
        mesh.put(FILE, &text);
        // Another file of the same edit, to know when both have been read.
        let rule = json!([{ "from": [{ "source": { "principals": ["cluster.local/ns/other/sa/carol"] } }] }]);
        mesh.put("second.yaml", &policy("app", "two", Some("server"), "DENY", &rule));
        scene.expect("a broken version beside a good object", &[ALICE, ALICE_NEAR], &[BOB, BOB_NEAR, CAROL]);
        harness::wait_until("the object's status", netns_tests::PATIENCE, || {
            Ok(mesh.object_status("AuthorizationPolicy", "app", "one").contains("the last good version stays in force"))
        })
        .unwrap();
        mesh.take_away("second.yaml");
        mesh.put(FILE, &good);
        scene.expect("the good version again", &[ALICE, CAROL], &[BOB, BOB_NEAR]);
        harness::wait_until("the object's status", netns_tests::PATIENCE, || {
            Ok(!mesh.object_status("AuthorizationPolicy", "app", "one").contains("refused"))
        })
        .unwrap();
    }
    // A file that is no YAML keeps its objects too.
    mesh.put(FILE, "{ apiVersion: security.istio.io/v1, kind: [\n");
    harness::wait_until("the file's error", netns_tests::PATIENCE, || {
        Ok(std::fs::read_to_string(mesh.manifests().join(".status/keelson/errors.yaml")).unwrap_or_default().contains(FILE))
    })
    .unwrap();
    scene.expect("a broken file", &[ALICE], &[BOB, BOB_NEAR]);
    scene.without(&[BOB, BOB_NEAR]);
}

/// From the edit to the first refused connection, and to the first that is let in again.
fn how_fast(scene: &Scene) {
    let mesh = &scene.mesh;
    let rule = json!([{ "from": [{ "source": { "principals": ["cluster.local/ns/app/sa/alice"] } }] }]);
    let mut times = Vec::new();
    for _ in 0..5 {
        mesh.put(FILE, &policy("app", "one", Some("server"), "DENY", &rule));
        times.push(mesh.settle_on("the edit", &[(ALICE, scene.server(), "reset")]));
        mesh.take_away(FILE);
        times.push(mesh.settle_on("its end", &[(ALICE, scene.server(), "ok")]));
    }
    times.sort();
    println!("an edit is in force after {:.0?} to {:.0?}, median {:.0?}", times[0], times[9], times[5]);
    assert!(times[9].as_secs() < 5, "{times:?}");
}
