//! A node proxy is replaced by another process under load, and back again: no new connection fails, and open ones go on.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs::{self, OpenOptions},
    net::SocketAddr,
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::Instant,
};

use harness::wait_until;
use netns_tests::{
    Held, Mesh, PATIENCE,
    manifest::{namespace, node, peer_authentication, pod},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

const CLIENT: &str = "app/client";
const NEAR: &str = "app/near";
const FAR: &str = "app/far";
const STRANGER: &str = "outside/stranger";

const ROUNDS: usize = 6;

/// A node's process: the first is the laboratory's, each later one the test's.
struct Process {
    pid: u32,
    child: Option<Child>,
}

impl Process {
    /// The same program with the same arguments beside it, which takes over.
    fn replace(&self, mesh: &Mesh, name: &str) -> Self {
        let arguments = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap();
        let words: Vec<&str> = std::str::from_utf8(&arguments).unwrap().split_terminator('\0').collect();
        let status = mesh.node(name).unwrap();
        let log = OpenOptions::new().append(true).open(&status.log).unwrap();
        let took_over = || mesh.logged(name, &["the process that ran no longer accepts connections"]).len();
        let before = took_over();
        let mut command = status.place.command(&words);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        wait_until("the new process to take over", PATIENCE, || Ok(took_over() > before)).unwrap();
        let answers = || Ok(mesh.admin(name, "/status")?["ready"] == true);
        wait_until("the new process to be ready", PATIENCE, answers).unwrap();
        Self { pid: child.id(), child: Some(child) }
    }

    fn terminate(&self) {
        kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGTERM).unwrap();
    }

    fn wait_ended(mut self) {
        if let Some(child) = &mut self.child {
            assert!(child.wait().unwrap().success());
            return;
        }
        wait_until("the old process to end", PATIENCE, || {
            let state = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
            Ok(state.is_empty() || state.contains(") Z "))
        })
        .unwrap();
    }
}

#[test]
fn a_node_is_replaced_under_load_and_no_connection_fails() {
    let mesh = Mesh::up(&[
        node("node-1", 1),
        node("node-2", 2),
        namespace("app", true),
        namespace("outside", false),
        pod(CLIENT, "node-1").idle().document(),
        pod(NEAR, "node-1").ledger(9000).echo().document(),
        pod(FAR, "node-2").ledger(9000).echo().document(),
        pod(STRANGER, "node-1").idle().document(),
        // A moment without HBONE would be seen.
        peer_authentication("app", Some("far"), "STRICT", &[]),
    ]);
    let over = AtomicBool::new(false);
    let made = AtomicU64::new(0);
    let begin = Instant::now();
    let routes = [(CLIENT, FAR), (CLIENT, NEAR), (STRANGER, NEAR), (NEAR, FAR)];
    thread::scope(|scope| {
        for (client, server) in routes {
            let (mesh, over, made) = (&mesh, &over, &made);
            let target = mesh.v4(server).to_string();
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    let report = mesh.load(client, &["connect", &target, "9001", "-c", "2", "-d", "2"]);
                    if report["errors"] != json!({}) {
                        over.store(true, Relaxed);
                    }
                    assert_eq!(report["errors"], json!({}), "{client} to {server}: {report}");
                    made.fetch_add(report["operations"].as_u64().unwrap(), Relaxed);
                }
            });
        }
        let work = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| upgrades(&mesh, &over)));
        over.store(true, Relaxed);
        if let Err(panic) = work {
            std::panic::resume_unwind(panic);
        }
    });
    println!("{ROUNDS} replacements in {:.1?}; {} connections, none failed", begin.elapsed(), made.load(Relaxed));
    mesh.down();
}

/// Forward and back are the same step.
fn upgrades(mesh: &Mesh, over: &AtomicBool) {
    let first = |name: &str| Process { pid: mesh.node(name).unwrap().process.unwrap().pid, child: None };
    let mut running = [("node-1", first("node-1")), ("node-2", first("node-2"))];
    for round in 0..ROUNDS {
        if over.load(Relaxed) {
            return;
        }
        let (name, old) = &mut running[round % 2];
        let ledger = |pod: &str| SocketAddr::new(mesh.v4(pod), 9000);
        let held = [Held::open(mesh, CLIENT, ledger(FAR), 5), Held::open(mesh, CLIENT, ledger(NEAR), 5)];
        let next = old.replace(mesh, name);
        assert_eq!(mesh.admin(name, "/status").unwrap()["pods"], if *name == "node-1" { 2 } else { 1 });
        for held in &held {
            assert_eq!(held.count("closed"), 0, "{:?}", held.events());
        }
        // What is open keeps the old process, also when it is told to end.
        let old = std::mem::replace(old, next);
        old.terminate();
        mesh.wait_logged(name, &["draining"]);
        for held in held {
            held.end_whole();
        }
        old.wait_ended();
        println!("round {round}: {name} replaced");
    }
    for (_, process) in running {
        // The last ones go with the laboratory, which kills its groups; nobody else waits for them.
        drop(process);
    }
}
