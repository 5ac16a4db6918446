//! Which nodes are asked, and what is said where there is none.

use std::fs;

use crate::machine::{Answers, Machine};

/// The first column of `meshctl log`: the names of the nodes that were asked.
async fn asked(machine: &Machine, options: &str) -> Vec<String> {
    let table = machine.run(&format!("log {options}")).await.succeeded();
    table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(ToOwned::to_owned).collect()
}

fn fixture() -> Answers {
    Answers::fixture("node-1")
}

#[tokio::test]
async fn the_only_mesh_is_found() {
    let machine = Machine::with_demo();
    assert_eq!(asked(&machine, "").await, ["node-1", "node-2"]);
    assert_eq!(asked(&machine, "--node node-2").await, ["node-2"]);
    assert_eq!(asked(&machine, "--node node-2 --node node-1").await, ["node-1", "node-2"]);
    assert_eq!(asked(&machine, "--lab demo").await, ["node-1", "node-2"]);
}

#[tokio::test]
async fn a_node_of_this_machine_says_its_name_itself() {
    let machine = Machine::new();
    machine.start("node", fixture().named("alpha"));
    machine.start("second", fixture().named("beta"));
    assert_eq!(asked(&machine, "").await, ["alpha", "beta"]);
    assert_eq!(asked(&machine, "--node beta").await, ["beta"]);
}

#[tokio::test]
async fn sockets_and_directories_can_be_named() {
    let machine = Machine::with_demo();
    machine.start("elsewhere", fixture().named("alpha"));
    for path in ["elsewhere", "elsewhere/admin.sock", "elsewhere/enrol.sock"] {
        let option = format!("--socket {}", machine.path(path).display());
        assert_eq!(asked(&machine, &option).await, ["alpha"], "{path}");
    }
}

#[tokio::test]
async fn several_meshes_want_a_choice() {
    let machine = Machine::with_demo();
    machine.start("lab/other/nodes/node-1", fixture());
    let error = machine.run("status").await.failed();
    assert_eq!(error, "error: several meshes run here: there are labs demo, other. Choose one with --lab ID\n");
    let error = machine.run("status --node node-1").await.failed();
    assert!(error.contains("Choose one"), "{error}");
    assert_eq!(asked(&machine, "--node node-2").await, ["node-2"]);
    assert_eq!(asked(&machine, "--lab other").await, ["node-1"]);

    machine.start("node", fixture().named("alpha"));
    let error = machine.run("status").await.failed();
    assert!(
        error.contains("labs demo, other and this machine's own node. Choose one with --lab ID, or with --socket"),
        "{error}"
    );
    assert_eq!(asked(&machine, "--node alpha").await, ["alpha"]);
}

#[tokio::test]
async fn what_a_dead_lab_has_left_is_no_choice() {
    let machine = Machine::with_demo();
    machine.leave_behind("lab/old/nodes/node-1");
    assert_eq!(asked(&machine, "").await, ["node-1", "node-2"]);
    let error = machine.run("status --lab old").await.failed();
    assert_eq!(error, "error: node-1: nobody serves [run]/lab/old/nodes/node-1/admin.sock: the node proxy has ended\n");
}

#[tokio::test]
async fn what_is_not_found_is_named_with_its_remedy() {
    let machine = Machine::new();
    for command in ["status", "workloads", "connections", "log", "drain", "unenrol shop/page"] {
        let error = machine.run(command).await.failed();
        for part in ["no node found", "[run]/lab/*/nodes/*/admin.sock", "Is a node proxy running", "--socket DIR"] {
            assert!(error.contains(part), "{command}: {error}");
        }
    }
    machine.start("lab/demo/nodes/node-1", fixture());
    let error = machine.run("status --lab other").await.failed();
    assert_eq!(error, "error: no lab other runs here; there is lab demo\n");
    let error = machine.run("status --node node-9").await.failed();
    assert_eq!(error, "error: there is no node node-9; known: node-1\n");
    let error = machine.run("status --socket /nowhere/at/all").await.failed();
    assert_eq!(error, "error: there is no socket /nowhere/at/all: is a node proxy running there?\n");
    fs::write(machine.path("file"), "").unwrap();
    let error = machine.run(&format!("status --socket {}", machine.path("file").display())).await.failed();
    assert_eq!(error, "error: [run]/file is neither a socket nor a directory\n");
}

#[tokio::test]
async fn a_wrong_command_line_is_another_exit_code() {
    let machine = Machine::with_demo();
    for wrong in ["", "nonsense", "status --socket x --lab y", "status -o xml", "enrol", "unenrol page", "workloads a b"] {
        assert_eq!(machine.run(wrong).await.code, Some(2), "{wrong}");
    }
}
