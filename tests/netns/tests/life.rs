//! Node proxies, the controller and pods come and go; connections and protection stay as they should.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use harness::{OUTSIDE_V4, wait_until};
use netns_tests::{
    Held, Mesh, Options, PATIENCE,
    manifest::{namespace, node, peer_authentication, pod, policy, service},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

const CLIENT: &str = "app/client";
const NEAR: &str = "app/near";
const FAR: &str = "app/far";
const STRANGER: &str = "outside/stranger";

fn documents() -> Vec<String> {
    vec![
        node("node-1", 1),
        node("node-2", 2),
        namespace("app", true),
        namespace("outside", false),
        pod(CLIENT, "node-1").idle().document(),
        pod(NEAR, "node-1").ledger(9000).document(),
        pod(FAR, "node-2").ledger(9000).echo().document(),
        service("app", "far", 1, &[9000]),
        pod("app/guarded", "node-1").ledger(9000).document(),
        pod(STRANGER, "node-1").idle().document(),
    ]
}

#[test]
fn programs_and_pods_come_and_go() {
    let mesh = Mesh::up(&documents());
    let checks: [netns_tests::Check; 6] = [
        ("a node's proxy killed", a_killed_node_fails_closed_and_comes_back),
        ("the controller away", nodes_go_on_without_the_controller),
        ("the controller slow", a_controller_that_does_not_answer_stops_nobody),
        ("an address used again", an_address_used_again_is_never_the_old_identity),
        ("leaving and joining", open_connections_outlive_leaving_and_joining),
        ("a drain", a_node_that_is_told_to_stop_drains),
    ];
    for (name, check) in checks {
        let begin = Instant::now();
        check(&mesh);
        println!("{name}: {:.1?}", begin.elapsed());
    }
    mesh.down();
}

fn ledger(mesh: &Mesh, pod: &str) -> SocketAddr {
    SocketAddr::new(mesh.v4(pod), 9000)
}

/// Open connections break audibly, new ones are refused and never leave the mesh, and all is well soon after the restart.
fn a_killed_node_fails_closed_and_comes_back(mesh: &Mesh) {
    let (near, far) = (ledger(mesh, NEAR), ledger(mesh, FAR));
    let across = Held::open(mesh, CLIENT, far, 5);
    mesh.kill_node("node-2").unwrap();
    assert_eq!(across.wait_broken(5), ["reset"; 5], "the client's node must tell that the server's broke");
    assert_ne!(mesh.outcome(CLIENT, far), "ok");
    back(mesh, "node-2", &[(CLIENT, far, "ok"), (STRANGER, far, "ok")]);

    let (across, here) = (Held::open(mesh, CLIENT, far, 5), Held::open(mesh, CLIENT, near, 5));
    let taken = [NEAR, FAR].map(|pod| mesh.taken(pod));
    mesh.kill_node("node-1").unwrap();
    for held in [across, here] {
        assert_eq!(held.wait_broken(5), ["reset"; 5], "the end must not look like a complete answer");
    }
    let outside = SocketAddr::new(OUTSIDE_V4.into(), 9099);
    for target in [near, far, SocketAddr::new(mesh.v6(FAR), 9000), "10.96.0.1:9000".parse().unwrap(), outside] {
        assert_eq!(mesh.outcome(CLIENT, target), "refused", "{target}");
    }
    assert_ne!(mesh.outcome(STRANGER, near), "ok", "inbound stays captured");
    assert_eq!([NEAR, FAR].map(|pod| mesh.taken(pod)), taken);
    back(mesh, "node-1", &[(CLIENT, near, "ok"), (CLIENT, far, "ok"), (STRANGER, near, "ok")]);
}

fn back(mesh: &Mesh, node: &str, expected: &[(&str, SocketAddr, &str)]) {
    let begin = Instant::now();
    mesh.restart_node(node).unwrap();
    let ready = begin.elapsed();
    mesh.settle_on("the node to serve again", expected);
    println!("{node} is ready {ready:.1?} and serves {:.1?} after its start", begin.elapsed());
}

/// What a node knows is on its disk.
fn nodes_go_on_without_the_controller(mesh: &Mesh) {
    let all = [(CLIENT, ledger(mesh, NEAR), "ok"), (CLIENT, ledger(mesh, FAR), "ok"), (STRANGER, ledger(mesh, FAR), "ok")];
    let rule = json!([{ "from": [{ "source": { "principals": ["cluster.local/ns/app/sa/client"] } }] }]);
    mesh.put("away.yaml", &policy("app", "away", Some("guarded"), "DENY", &rule));
    let denied = (CLIENT, ledger(mesh, "app/guarded"), "reset");
    mesh.settle_on("a policy", &[denied]);
    let held = Held::open(mesh, CLIENT, ledger(mesh, FAR), 3);
    mesh.kill_controller().unwrap();
    mesh.settle_on("the controller to be gone", &all);
    held.end_whole();
    for node in ["node-1", "node-2"] {
        back(mesh, node, &all);
    }
    // Policies are on disk as well.
    assert_eq!(mesh.outcome(CLIENT, denied.1), "reset");
    mesh.take_away("away.yaml");
    mesh.restart_controller().unwrap();
    mesh.settle_on("the nodes to hear of the controller again", &[(CLIENT, denied.1, "ok")]);
}

fn a_controller_that_does_not_answer_stops_nobody(mesh: &Mesh) {
    let process = mesh.controller().unwrap().process.unwrap();
    let signal = |signal| kill(Pid::from_raw(process.pid.cast_signed()), signal).unwrap();
    let all = [(CLIENT, ledger(mesh, NEAR), "ok"), (CLIENT, ledger(mesh, FAR), "ok"), (STRANGER, ledger(mesh, FAR), "ok")];
    signal(Signal::SIGSTOP);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        mesh.settle_on("a stopped controller", &all);
        back(mesh, "node-1", &all);
        let rule = json!([{ "from": [{ "source": { "principals": ["cluster.local/ns/app/sa/client"] } }] }]);
        mesh.put("slow.yaml", &policy("app", "slow", Some("far"), "DENY", &rule));
        mesh.settle_on("a stopped controller", &all);
    }));
    signal(Signal::SIGCONT);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
    mesh.settle_on("the controller to answer again", &[(CLIENT, ledger(mesh, FAR), "reset")]);
    mesh.take_away("slow.yaml");
    mesh.settle_on("the end of it", &all);
}

/// The same address, within a second, for a pod of another account: what the old one might do, the new one never may.
fn an_address_used_again_is_never_the_old_identity(mesh: &Mesh) {
    let guarded = ledger(mesh, "app/guarded");
    let rule = json!([{ "from": [{ "source": { "principals": ["cluster.local/ns/app/sa/first"] } }] }]);
    mesh.put("first-only.yaml", &policy("app", "first-only", Some("guarded"), "ALLOW", &rule));
    let mut gaps = Vec::new();
    for (round, node) in ["node-2", "node-1", "node-2"].into_iter().enumerate() {
        let (first, second) = (format!("app/first-{round}"), format!("app/second-{round}"));
        let slot = 50_000 + round as u32;
        let make = |name: &str, account: &str| pod(name, node).account(account).address_slot(slot).ledger(9000).document();
        mesh.write("tenant.yaml", &make(&first, "first")).unwrap();
        let address = mesh.v4(&first);
        mesh.settle_on("the first tenant", &[(&first, guarded, "ok"), (CLIENT, guarded, "reset")]);
        // With an open tunnel in either direction.
        assert_eq!(mesh.outcome(CLIENT, SocketAddr::new(address, 9000)), "ok");

        let begin = Instant::now();
        let taken = mesh.taken("app/guarded");
        mesh.write("tenant.yaml", &make(&second, "second")).unwrap();
        gaps.push(begin.elapsed());
        assert_eq!(mesh.v4(&second), address);
        for _ in 0..10 {
            assert_ne!(mesh.outcome(&second, guarded), "ok", "the second tenant passes for the first");
        }
        assert_eq!(mesh.taken("app/guarded"), taken);
        let record = loop {
            // Until its node is known to all, a connection to it may be refused; it must never lead to somebody else.
            let record = mesh.tcp(CLIENT, SocketAddr::new(address, 9000), &[]);
            if record["outcome"] == "ok" {
                break record;
            }
            assert!(begin.elapsed() < PATIENCE, "{record}");
        };
        let body: Value = serde_json::from_str(record["body"].as_str().unwrap()).unwrap();
        assert_eq!(format!("app/{}", body["instance"]["pod"].as_str().unwrap()), second);
    }
    println!("addresses had a new tenant after {gaps:.1?}");
    mesh.remove("tenant.yaml").unwrap();
    mesh.take_away("first-only.yaml");
    mesh.settle_on("no policy", &[(CLIENT, guarded, "ok")]);
}

/// A pod's label changes as it runs, at either end of a connection.
fn open_connections_outlive_leaving_and_joining(mesh: &Mesh) {
    let far = ledger(mesh, FAR);
    let in_mesh = Held::open(mesh, CLIENT, far, 5);
    let same_node = Held::open(mesh, CLIENT, ledger(mesh, NEAR), 5);
    let base = fs::read_to_string(mesh.manifests().join("base.yaml")).unwrap();
    let set = |mode: &str| {
        let mut text = base.clone();
        for (name, node) in [(CLIENT, "node-1"), (NEAR, "node-1"), (FAR, "node-2")] {
            let plain = pod(name, node);
            let plain = if name == CLIENT { plain.idle() } else { plain.ledger(9000) };
            let plain = if name == FAR { plain.echo() } else { plain };
            assert!(text.contains(&plain.document()), "{name}");
            text = text.replace(&plain.document(), &plain.mode(mode).document());
        }
        mesh.write("base.yaml", &text).unwrap();
        let expected = mode == "keelson";
        wait_until("the pods to have left or joined", PATIENCE, || {
            Ok([CLIENT, NEAR, FAR].iter().all(|name| mesh.pod(name).is_ok_and(|pod| pod.enrolled == expected)))
        })
        .unwrap();
    };
    set("none");
    let tunnelled = || mesh.logged("node-2", &["connection complete", "direction=\"inbound\"", "dst.workload=\"far\""]).len();
    let before = tunnelled();
    let outside = Held::open(mesh, CLIENT, far, 5);
    assert_eq!(mesh.outcome(CLIENT, far), "ok");
    assert_eq!(tunnelled(), before, "outside of the mesh nothing passes through it");
    assert!(mesh.admin("node-1", "/config_dump").unwrap()["pods"].as_array().unwrap().iter().all(|pod| pod["name"] != "client"));
    set("keelson");
    wait_until("new connections to pass through the mesh again", PATIENCE, || {
        Ok(mesh.outcome(CLIENT, far) == "ok" && tunnelled() > before)
    })
    .unwrap();
    for held in [in_mesh, same_node, outside] {
        held.end_whole();
    }
    // With the connections that it left with, a pod must not lose what it has joined with.
    thread::sleep(Duration::from_millis(500));
    for target in [far, ledger(mesh, NEAR)] {
        assert_eq!((mesh.outcome(CLIENT, target), mesh.outcome(STRANGER, target)), ("ok".to_owned(), "ok".to_owned()));
    }
    mesh.write("base.yaml", &base).unwrap();
}

/// After SIGTERM what is open goes on until it ends, and then the process does.
fn a_node_that_is_told_to_stop_drains(mesh: &Mesh) {
    let across = Held::open(mesh, CLIENT, ledger(mesh, FAR), 5);
    let here = Held::open(mesh, CLIENT, ledger(mesh, NEAR), 5);
    let process = mesh.node("node-1").unwrap().process.unwrap();
    kill(Pid::from_raw(process.pid.cast_signed()), Signal::SIGTERM).unwrap();
    mesh.wait_logged("node-1", &["draining"]);
    assert!(mesh.admin("node-1", "/status").unwrap()["reasons"].to_string().contains("draining"));
    across.end_whole();
    assert!(process.alive(), "it waits for the last connection");
    here.end_whole();
    wait_until("the process to end", PATIENCE, || Ok(!process.alive())).unwrap();
    mesh.wait_logged("node-1", &["drained"]);
    assert_eq!(mesh.outcome(CLIENT, ledger(mesh, FAR)), "refused");
    back(mesh, "node-1", &[(CLIENT, ledger(mesh, FAR), "ok"), (CLIENT, ledger(mesh, NEAR), "ok")]);
}

/// A pod joins and leaves a hundred times while others dial it without a pause.
#[test]
fn a_hundred_times_in_and_out_fail_no_connection() {
    let churn = pod("app/churn", "node-2").ledger(9000).echo();
    let mesh = Mesh::up(&[
        node("node-1", 1),
        node("node-2", 2),
        namespace("app", true),
        namespace("outside", false),
        pod(CLIENT, "node-1").idle().document(),
        pod("app/neighbour", "node-2").idle().document(),
        churn.document(),
        pod(STRANGER, "node-1").idle().document(),
    ]);
    rounds(&mesh, 100, &[CLIENT, "app/neighbour", STRANGER], |_| ());

    mesh.put("strict.yaml", &peer_authentication("app", None, "STRICT", &[]));
    let target = ledger(&mesh, "app/churn");
    mesh.settle_on("STRICT", &[(STRANGER, target, "reset")]);
    rounds(&mesh, 100, &[CLIENT, "app/neighbour"], |round| {
        // Protected again soon after every node knows; until the pod leaves again.
        if round % 10 == 9 {
            mesh.settle_on("the stranger to be refused", &[(STRANGER, target, "reset")]);
            assert_eq!(mesh.outcome(STRANGER, target), "reset");
        }
    });
    mesh.down();
}

fn rounds(mesh: &Mesh, count: usize, clients: &[&str], joined: impl Fn(usize)) {
    let status = mesh.pod("app/churn").unwrap();
    let socket = mesh.node("node-2").unwrap().runtime.display().to_string();
    let netns = status.place.netns.display().to_string();
    let addresses = status.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let enrol = [
        "enrol",
        "--socket",
        &socket,
        "--netns",
        &netns,
        "--namespace",
        "app",
        "--name",
        "churn",
        "--service-account",
        "churn",
        "--ip",
        &addresses,
        "--running",
    ];
    let (v4, v6) = (status.v4().unwrap().to_string(), status.v6().unwrap().to_string());
    let over = AtomicBool::new(false);
    let made = AtomicU64::new(0);
    let begin = Instant::now();
    thread::scope(|scope| {
        for client in clients {
            for address in [&v4, &v6] {
                let (over, made) = (&over, &made);
                scope.spawn(move || {
                    while !over.load(Relaxed) {
                        let report = mesh.load(client, &["connect", address, "9001", "-c", "2", "-d", "2"]);
                        if report["errors"] != json!({}) {
                            over.store(true, Relaxed);
                        }
                        assert_eq!(report["errors"], json!({}), "{client} to {address}: {report}");
                        made.fetch_add(report["operations"].as_u64().unwrap(), Relaxed);
                    }
                });
            }
        }
        // Whatever happens, the clients come to an end.
        let work = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..count {
                if over.load(Relaxed) {
                    break;
                }
                mesh.meshctl(&["unenrol", "--socket", &socket, "app/churn"]).unwrap();
                mesh.meshctl(&enrol).unwrap();
                joined(round);
            }
        }));
        over.store(true, Relaxed);
        if let Err(panic) = work {
            std::panic::resume_unwind(panic);
        }
    });
    println!("{count} times in and out in {:.1?}; {} connections, none failed", begin.elapsed(), made.load(Relaxed));
}

/// Certificates that live ten seconds, for three of their lives, with new connections all the time.
#[test]
fn certificates_rotate_under_load() {
    let options = Options { controller: vec!["--leaf-lifetime=10s".to_owned()], ..Options::default() };
    let mesh = Mesh::up_with(
        &options,
        &[
            node("node-1", 1),
            node("node-2", 2),
            namespace("app", true),
            pod(CLIENT, "node-1").idle().document(),
            pod(FAR, "node-2").echo().document(),
        ],
    );
    let target = mesh.v4(FAR);
    let serials = || -> BTreeSet<String> {
        let dump = mesh.admin("node-1", "/config_dump").unwrap();
        let chains =
            dump["certificates"].as_array().unwrap().iter().map(|entry| entry["certChain"][0]["serialNumber"].to_string());
        chains.collect()
    };
    let mut seen = BTreeSet::new();
    let report = thread::scope(|scope| {
        let load = scope.spawn(|| mesh.load(CLIENT, &["connect", &target.to_string(), "9001", "-c", "4", "-d", "30"]));
        while !load.is_finished() {
            seen.extend(serials());
            thread::sleep(Duration::from_millis(200));
        }
        load.join().unwrap()
    });
    println!("{} certificates in {} s; {}", seen.len(), report["seconds"], report);
    assert_eq!(report["errors"], json!({}), "{report}");
    assert!(report["operations"].as_u64().unwrap() > 1000 && seen.len() >= 4, "{seen:?} {report}");
    mesh.down();
}
