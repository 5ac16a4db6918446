//! A lab without a mesh: the network, the pods and the cleaning by themselves. Needs root and the workspace's programs.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use harness::{Lab, LabOptions, OUTSIDE_V4, OUTSIDE_V6, Phase, copy_of, in_netns, leftovers, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

fn shop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/shop/manifests")
}

fn json(lab: &Lab, pod: &str, words: &[&str]) -> Value {
    let output = lab.exec(pod, words).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{words:?}: {text} {}", String::from_utf8_lossy(&output.stderr)))
}

fn ask(lab: &Lab, pod: &str, url: &str) -> Value {
    json(lab, pod, &["shop", "client", "http", url, "--body", "-o", "json"])
}

#[test]
fn the_shop_runs_and_leaves_nothing() {
    let folder = copy_of(&shop()).unwrap();
    let lab = Lab::up(LabOptions::plain(folder.path()).unwrap()).unwrap();
    let id = lab.id();

    // Without a mesh only pod addresses work; the source address is the client's, on both IP versions and across nodes.
    let (client, ratings) = (lab.pod("shop/client").unwrap(), lab.pod("shop/ratings").unwrap());
    assert_ne!(client.node, ratings.node);
    for (from, to) in [(client.v4(), ratings.v4()), (client.v6(), ratings.v6())] {
        let (from, to) = (from.unwrap(), to.unwrap());
        let host = if to.is_ipv6() { format!("[{to}]") } else { to.to_string() };
        let record = ask(&lab, "shop/client", &format!("http://{host}:9080/whoami"));
        assert_eq!(record["outcome"], "ok", "{record}");
        let body: Value = serde_json::from_str(record["body"].as_str().unwrap()).unwrap();
        assert_eq!(body["peer_ip"], from.to_string());
        assert_eq!(body["instance"]["pod"], "ratings");
        assert_eq!(body["instance"]["node"], "node-2");
    }

    // A service's name leads to its address, where nobody answers without a mesh; the page comes all the same.
    let page = lab.pod("shop/page").unwrap().v4().unwrap();
    let record = ask(&lab, "outside/stranger", &format!("http://{page}:9080/"));
    let body: Value = serde_json::from_str(record["body"].as_str().unwrap()).unwrap();
    assert!(body["details"]["error"].as_str().unwrap().contains("10.96.0.11:9080"), "{body}");
    let hosts = String::from_utf8(lab.exec("outside/stranger", &["cat", "/etc/hosts"]).unwrap().stdout).unwrap();
    assert!(hosts.contains("fd96::10 page.shop.svc.cluster.local page.shop.svc page.shop\n"), "{hosts}");

    // The folder knows what the kubelet knows.
    let status = fs::read_to_string(folder.path().join(".status/Pod/shop/ratings.yaml")).unwrap();
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["status"]["podIP"], ratings.v4().unwrap().to_string());
    assert_eq!(status["status"]["conditions"][3]["status"], "True");

    lab.down().unwrap();
    assert_eq!(leftovers(&id).unwrap(), Vec::<String>::new());
    assert!(!folder.path().join(".status").exists());
}

const SINGLE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: lone, namespace: live, annotations: {keelson.dev/ip-families: IPv6}}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  containers:
  - {name: lone, command: [shop, ledger, --banner], readinessProbe: {tcpSocket: {port: 9000}}}
";

#[test]
fn pods_come_and_go_with_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let client =
        SINGLE.replace("lone", "client").replace("IPv6", "'IPv4,IPv6'").replace("shop, ledger, --banner", "shop, ledger");
    fs::write(folder.path().join("client.yaml"), client).unwrap();
    let lab = Lab::up(LabOptions::plain(folder.path()).unwrap()).unwrap();

    lab.write("lone.yaml", SINGLE).unwrap();
    let lone = lab.pod("live/lone").unwrap();
    assert_eq!((lone.v4(), lone.phase), (None, Phase::Running));
    let target = format!("[{}]:9000", lone.v6().unwrap());
    let talk = ["shop", "client", "tcp", &target, "--banner", "--half-close", "--body", "-o", "json"];
    let record = json(&lab, "live/client", &talk);
    let body = record["body"].as_str().unwrap();
    assert!(body.starts_with("HELLO ledger v1 lone\n"), "{record}");
    assert!(body.contains(&lab.pod("live/client").unwrap().v6().unwrap().to_string()), "{record}");

    // Another command line: the pod is made anew, under another address.
    lab.write("lone.yaml", &SINGLE.replace(", --banner", "")).unwrap();
    let second = lab.pod("live/lone").unwrap();
    assert_ne!(second.addresses, lone.addresses);

    // A container that dies is started again.
    let process = second.processes["lone"];
    Command::new("kill").args(["-9", &process.pid.to_string()]).status().unwrap();
    wait_until("the container's second life", PATIENCE, || {
        let pod = lab.pod("live/lone")?;
        Ok(pod.ready && pod.restarts == 1 && pod.processes["lone"] != process)
    })
    .unwrap();

    lab.remove("lone.yaml").unwrap();
    assert!(lab.pod("live/lone").is_err());
    assert!(!folder.path().join(".status/Pod/live/lone.yaml").exists());
    assert!(!second.place.netns.exists());
    let record = json(&lab, "live/client", &["shop", "client", "tcp", &target, "--timeout", "2", "-o", "json"]);
    assert_eq!(record["outcome"], "unreachable", "{record}");
    lab.down().unwrap();
}

#[test]
fn the_outside_and_the_wire_can_be_watched() {
    let folder = copy_of(&shop()).unwrap();
    let lab = Lab::up(LabOptions::plain(folder.path()).unwrap()).unwrap();
    let capture = lab.capture("node-1", "tcp port 9099").unwrap();
    let fabric = lab.status().fabric;
    let mut server =
        fabric.command(&["shop", "ledger", "--port", "9099"]).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    for outside in [OUTSIDE_V4.to_string(), format!("[{OUTSIDE_V6}]")] {
        wait_until("an answer from outside", PATIENCE, || {
            let words = ["shop", "client", "tcp", &format!("{outside}:9099"), "--send", "in plain sight", "-o", "json"];
            Ok(json(&lab, "shop/client", &words)["outcome"] == "ok")
        })
        .unwrap();
    }
    let recorded = capture.bytes().unwrap();
    assert!(recorded.windows(14).any(|window| window == b"in plain sight"));

    lab.nft("node-1", "table inet lab { chain forward { type filter hook forward priority 0; tcp dport 9099 reject; }; }")
        .unwrap();
    let words = ["shop", "client", "tcp", &format!("{OUTSIDE_V4}:9099"), "-o", "json"];
    assert_eq!(json(&lab, "shop/client", &words)["outcome"], "refused");

    let inside = in_netns(&fabric.netns, || std::net::TcpStream::connect((OUTSIDE_V4, 9099)).is_ok());
    assert!(inside.unwrap());
    lab.down().unwrap();
    server.wait().unwrap();
}
