//! The laboratory's part in a meshed lab: starting the programs in order, enrolling as labels say, killing and starting anew.
//! What the mesh itself does is the matter of other suites. Needs root, the workspace's programs and the kernel object.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{Lab, LabOptions, copy_of, leftovers, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);
const PAGE: [&str; 6] = ["shop", "client", "http", "http://page.shop:9080/", "--fail", "--timeout=5"];

fn shop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/shop/manifests")
}

fn answers(lab: &Lab, pod: &str) -> bool {
    lab.exec(pod, &PAGE).unwrap().status.success()
}

#[test]
fn a_meshed_lab_is_enrolled_restarted_and_gone() {
    let folder = copy_of(&shop()).unwrap();
    let lab = Lab::up(LabOptions::new(folder.path()).unwrap()).unwrap();
    let id = lab.id();
    for (name, pod) in lab.status().pods() {
        assert_eq!(pod.enrolled, name.starts_with("shop/"), "{name}");
        // Each was probed while it started: a captured connection does not keep an application from its port.
        assert_eq!(pod.restarts, 0, "{name}: {}", fs::read_to_string(&pod.log).unwrap());
    }
    wait_until("the page", PATIENCE, || Ok(answers(&lab, "shop/client"))).unwrap();

    // A namespace is labelled while its pod runs, and again not.
    let plain = fs::read_to_string(folder.path().join("outside.yaml")).unwrap();
    let labelled = plain.replacen("{name: outside}", "{name: outside, labels: {istio.io/dataplane-mode: keelson}}", 1);
    assert_ne!(plain, labelled);
    let process = lab.pod("outside/stranger").unwrap().processes;
    lab.write("outside.yaml", &labelled).unwrap();
    assert!(lab.pod("outside/stranger").unwrap().enrolled);
    lab.write("outside.yaml", &plain).unwrap();
    let stranger = lab.pod("outside/stranger").unwrap();
    assert_eq!((stranger.enrolled, stranger.processes), (false, process));

    // A killed proxy takes nobody in; a new one finds its pods again.
    lab.kill_node("node-1").unwrap();
    assert!(lab.node("node-1").unwrap().process.is_none());
    assert!(!answers(&lab, "shop/client"));
    lab.restart_node("node-1").unwrap();
    wait_until("the page after a restart of the node's proxy", PATIENCE, || Ok(answers(&lab, "shop/client"))).unwrap();

    let before = lab.controller().unwrap().process;
    lab.restart_controller().unwrap();
    assert_ne!(lab.controller().unwrap().process, before);
    assert!(answers(&lab, "shop/client"));

    lab.down().unwrap();
    assert_eq!(leftovers(&id).unwrap(), Vec::<String>::new());
}
