//! `cargo xtask lab` from the outside: a lab that outlives the command that made it. Needs root and the workspace's programs.

use std::{path::Path, process::Command};

use harness::{Binaries, copy_of, leftovers};

const ID: &str = "xtasklab";

/// The command's standard output; the test fails if the command does.
fn lab(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).arg("lab").args(arguments).output().expect("xtask runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("the output is text")
}

#[test]
fn a_lab_is_made_used_and_ended_by_separate_commands() {
    let folder = copy_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/shop/manifests")).expect("a copy");
    let path = folder.path().to_str().expect("the path is text");
    let binaries = Binaries::beside_current().expect("the programs").folder;
    let binaries = binaries.to_str().expect("the path is text");

    lab(&["up", path, "--id", ID, "--no-mesh", "--binaries", binaries]);
    assert!(lab(&["status", "--id", ID]).contains("shop/reviews-v2"));
    let status: serde_json::Value = serde_json::from_str(&lab(&["status", "--id", ID, "-o", "json"])).expect("JSON");
    let ledger = status["pods"]["shop/ledger"]["addresses"][1].as_str().expect("an address");
    let target = format!("[{ledger}]:9000");
    let answer = lab(&["exec", "--id", ID, "shop/client", "--", "shop", "client", "tcp", &target, "--body", "-o", "json"]);
    assert!(answer.contains(r#""outcome":"ok""#), "{answer}");
    assert!(lab(&["logs", "--id", ID, "shop/ledger"]).contains("connection from"));

    // A folder can be in one lab only.
    let second = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["lab", "up", path, "--id", "xtasktwo", "--no-mesh", "--binaries", binaries])
        .output()
        .expect("xtask runs");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("in use by lab xtasklab"), "{said}");

    lab(&["down", "--id", ID]);
    for id in [ID, "xtasktwo"] {
        assert_eq!(leftovers(id).expect("the id is one"), Vec::<String>::new());
    }
}
