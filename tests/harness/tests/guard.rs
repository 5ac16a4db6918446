//! Whatever happens to a lab's owner, nothing is left. Needs root and the workspace's programs.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use harness::{Lab, LabOptions, copy_of, leftovers, status, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);
/// Says to a copy of this program that it shall own a lab of this name.
const OWNER: &str = "KEELSON_TEST_OWNER";

/// Not a test by itself: the process that the others kill.
#[test]
fn own_a_lab_until_killed() {
    let Ok(id) = env::var(OWNER) else { return };
    let folder = copy_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/shop/manifests")).unwrap();
    let lab = Lab::up(LabOptions { id: Some(id), ..LabOptions::plain(folder.path()).unwrap() }).unwrap();
    // A process that has left its session and ignores every polite request.
    let words = ["setsid", "sh", "-c", "trap '' TERM HUP INT; while :; do sleep 1; done"];
    let mut stubborn = lab.spawn_in("shop/client", &words).unwrap();
    fs::write(env::temp_dir().join(format!("keelson-owner-{}", lab.id())), "up").unwrap();
    stubborn.wait().unwrap();
}

fn kill_an_owner(id: &str, signal: &str, when_up: bool) {
    let program = env::current_exe().unwrap();
    let mut owner = Command::new(program)
        .args(["--exact", "own_a_lab_until_killed", "--nocapture"])
        .env(OWNER, id)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let flag = env::temp_dir().join(format!("keelson-owner-{id}"));
    let mut folder = None;
    wait_until("the lab to be there", PATIENCE, || {
        let lab = status(id)?;
        folder = Some(lab.folder.clone());
        // Either all of it, or as soon as there is something to clean.
        Ok(if when_up { flag.exists() } else { lab.pods().next().is_some() })
    })
    .unwrap();
    Command::new("kill").args([signal, &owner.id().to_string()]).status().unwrap();
    owner.wait().unwrap();
    wait_until("the guard to have cleaned", PATIENCE, || Ok(leftovers(id)?.is_empty())).unwrap();
    let _ = fs::remove_file(flag);
    let folder = folder.unwrap();
    wait_until("the folder's status to be gone", PATIENCE, || Ok(!folder.join(".status").exists())).unwrap();
    // The copy that the killed owner could not remove.
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn sigkill_leaves_nothing() {
    kill_an_owner("guardkill", "-KILL", true);
}

#[test]
fn ctrl_c_on_the_way_up_leaves_nothing() {
    kill_an_owner("guardint", "-INT", false);
}
