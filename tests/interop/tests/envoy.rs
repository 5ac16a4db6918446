//! Envoy and Keelson, each as the other's peer, with certificates of Keelson's authority.
//!
//! Needs root, the workspace's programs and an Envoy, whose path is in `KEELSON_ENVOY` (`cargo xtask test` sees to all).

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{
    Lab, LabOptions,
    envoy::{
        Envoy,
        config::{Credentials, bootstrap, connect_listener, hbone_cluster, hbone_listener, tcp_cluster, tcp_listener},
    },
    wait_until,
};
use interop_tests::certificates::{ThrowAway, signed};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
/// Of `shop ledger`.
const LEDGER: u16 = 9000;
const HBONE: u16 = 15008;

/// Pods of the mesh on node-1; on node-2 only such as have nothing to do with ours.
const FOLDER: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: interop, labels: {istio.io/dataplane-mode: keelson}}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: interop, labels: {app: client}}
spec:
  nodeName: node-1
  serviceAccountName: client
  containers: [{name: idle, command: [shop, idle]}]
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: interop, labels: {app: server}}
spec:
  nodeName: node-1
  serviceAccountName: server
  containers: [{name: ledger, command: [shop, ledger], readinessProbe: {tcpSocket: {port: 9000}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: foreign-client, namespace: interop, labels: {istio.io/dataplane-mode: none}}
spec:
  nodeName: node-2
  serviceAccountName: foreign-client
  containers: [{name: idle, command: [shop, idle]}]
---
apiVersion: v1
kind: Pod
metadata: {name: stranger, namespace: interop, labels: {istio.io/dataplane-mode: none}}
spec:
  nodeName: node-2
  serviceAccountName: stranger
  containers: [{name: idle, command: [shop, idle]}]
---
apiVersion: v1
kind: Pod
metadata:
  name: foreign-server
  namespace: interop
  labels: {istio.io/dataplane-mode: none}
  annotations: {ambient.istio.io/redirection: enabled}
spec:
  nodeName: node-2
  serviceAccountName: foreign-server
  containers: [{name: ledger, command: [shop, ledger], readinessProbe: {tcpSocket: {port: 9000}}}]
";

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: server, namespace: interop}
spec:
  selector: {matchLabels: {app: server}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/interop/sa/foreign-client]}}]
";

struct Interop {
    lab: Lab,
    folder: TempDir,
}

impl Interop {
    fn up() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("pods.yaml"), FOLDER).unwrap();
        let lab = Lab::up(LabOptions::new(folder.path()).unwrap()).unwrap();
        Self { lab, folder }
    }

    fn address(&self, pod: &str, port: u16) -> SocketAddr {
        (self.lab.pod(&format!("interop/{pod}")).unwrap().v4().unwrap(), port).into()
    }

    /// The certificate of a pod's service account, as its own node would have it.
    fn certificate(&self, pod: &str) -> Credentials {
        let node = self.lab.pod(&format!("interop/{pod}")).unwrap().node;
        let folder = self.folder.path().join(".certificates");
        signed(&self.lab.status(), &node, &folder, pod, &identity(pod).parse().unwrap()).unwrap()
    }

    /// Envoy in the namespace of a pod.
    fn envoy(&self, pod: &str, config: Value) -> Envoy {
        let place = self.lab.pod(&format!("interop/{pod}")).unwrap().place;
        Envoy::start(&program(), &self.lab.status(), &place, pod, 1, config).unwrap()
    }

    /// Says a line to the ledger behind `target` and returns what became of it.
    fn say(&self, pod: &str, target: SocketAddr, line: &str) -> Value {
        let words = ["shop", "client", "tcp", &target.to_string(), "--send", line, "--body", "--timeout", "8", "-o", "json"];
        let output = self.lab.exec(&format!("interop/{pod}"), &words).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// The log of a node's proxy.
    fn log(&self, node: &str) -> String {
        fs::read_to_string(self.lab.node(node).unwrap().log).unwrap()
    }
}

fn identity(account: &str) -> String {
    format!("spiffe://cluster.local/ns/interop/sa/{account}")
}

fn program() -> PathBuf {
    let path = env::var_os("KEELSON_ENVOY").expect("KEELSON_ENVOY is the path of an Envoy; `cargo xtask test` sets it");
    Path::new(&path).to_owned()
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Envoy as a client: a port that leads to the server's ledger, and one that passes any CONNECT on.
fn client_config(server: SocketAddr, own: &Credentials) -> Value {
    let ledger = SocketAddr::new(server.ip(), LEDGER).to_string();
    bootstrap(
        &[tcp_listener(local(10_001), "server", Some(&ledger)), connect_listener(local(10_002), "server")],
        &[hbone_cluster("server", server, own, &[&identity("server")])],
    )
}

#[test]
fn envoy_reaches_a_captured_pod() {
    let interop = Interop::up();
    let (server, other) = (interop.address("server", HBONE), interop.address("client", LEDGER));
    let own = interop.certificate("foreign-client");
    let _client = interop.envoy("foreign-client", client_config(server, &own));

    // The application sees the client pod's own address.
    let answer = interop.say("foreign-client", local(10_001), "WHOAMI");
    assert_eq!(answer["outcome"], "ok", "{answer}");
    let told: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    assert_eq!(told["peer_ip"], interop.address("foreign-client", 0).ip().to_string());

    // A CONNECT may name this pod's application and nothing else.
    let connect = |pod: &str, target: &str| {
        let answer = interop.say(pod, local(10_002), &format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r"));
        let line = answer["body"].as_str().unwrap_or_default().lines().next().unwrap_or_default().to_owned();
        line.split(' ').nth(1).unwrap_or_else(|| panic!("CONNECT {target}: {answer}")).to_owned()
    };
    let ledger = SocketAddr::new(server.ip(), LEDGER).to_string();
    assert_eq!(connect("foreign-client", &ledger), "200");
    for target in [other.to_string(), "127.0.0.1:9000".to_owned(), "server.interop:9000".to_owned()] {
        assert_eq!(connect("foreign-client", &target), "400", "{target}");
    }
    // Nobody listens there; at the port for tunnels only the kernel's steering does, which is not for what comes out of one.
    for port in [9, HBONE] {
        assert_eq!(connect("foreign-client", &SocketAddr::new(server.ip(), port).to_string()), "503", "{port}");
    }

    // Policy knows Envoy by its certificate.
    let own = interop.certificate("stranger");
    let stranger = interop.envoy("stranger", client_config(server, &own));
    assert_eq!(connect("stranger", &ledger), "200");
    interop.lab.write("policy.yaml", POLICY).unwrap();
    wait_until("the policy to hold", PATIENCE, || Ok(connect("stranger", &ledger) == "401")).unwrap();
    assert_eq!(connect("foreign-client", &ledger), "200");
    assert_ne!(interop.say("stranger", local(10_001), "WHOAMI")["outcome"], "ok");
    assert_eq!(interop.say("foreign-client", local(10_001), "WHOAMI")["outcome"], "ok");

    // A certificate of another authority proves nothing, whatever name is in it.
    drop(stranger);
    let forger = ThrowAway::new().unwrap();
    let forged = interop.folder.path().join(".forged");
    let own = Credentials {
        roots: own.roots,
        ..forger.write(&forged, "stranger", &identity("foreign-client").parse().unwrap()).unwrap()
    };
    let _stranger = interop.envoy("stranger", client_config(server, &own));
    assert_eq!(connect("stranger", &ledger), "503");
    interop.lab.down().unwrap();
}

#[test]
fn a_captured_pod_reaches_envoy() {
    let interop = Interop::up();
    let (server, ledger) = (interop.address("foreign-server", HBONE), interop.address("foreign-server", LEDGER));
    let config = |own: &Credentials, peer: &str| {
        let tunnels = hbone_listener(server, own, &[&identity(peer)], &[(ledger.to_string(), "ledger")]);
        bootstrap(&[tunnels], &[tcp_cluster("ledger", local(LEDGER))])
    };

    // It is known to take HBONE: without a tunnel there is no connection, though the application listens in plaintext.
    let plain = interop.say("stranger", ledger, "hello");
    assert_eq!(plain["body"], "ECHO hello\n", "{plain}");
    let refused = interop.say("client", ledger, "hello");
    assert_ne!(refused["outcome"], "ok", "{refused}");

    let own = interop.certificate("foreign-server");
    let envoy = interop.envoy("foreign-server", config(&own, "client"));
    let capture = interop.lab.capture("node-1", "tcp").unwrap();
    let answer = interop.say("client", ledger, "a line that nobody reads on the way");
    assert_eq!(answer["body"], "ECHO a line that nobody reads on the way\n", "{answer}");
    let recorded = capture.bytes().unwrap();
    assert!(!recorded.windows(11).any(|window| window == b"that nobody"), "the line is on the wire in plaintext");
    assert!(recorded.windows(4).any(|window| window == [0x17, 0x03, 0x03, 0x00]), "nothing of TLS was recorded");
    drop(envoy);

    // Another pod of the mesh is not the one that was asked for.
    let wrong = interop.certificate("stranger");
    let envoy = interop.envoy("foreign-server", config(&wrong, "client"));
    let refused = interop.say("client", ledger, "hello");
    assert_ne!(refused["outcome"], "ok", "{refused}");
    let log = interop.log("node-1");
    assert!(log.contains("IDENTITY_MISMATCH"), "{log}");
    drop(envoy);

    // Nor does Envoy take anybody.
    let envoy = interop.envoy("foreign-server", config(&own, "somebody-else"));
    let refused = interop.say("client", ledger, "hello");
    assert_ne!(refused["outcome"], "ok", "{refused}");
    drop(envoy);

    let _envoy = interop.envoy("foreign-server", config(&own, "client"));
    wait_until("Envoy to be reached again", PATIENCE, || Ok(interop.say("client", ledger, "hello")["outcome"] == "ok")).unwrap();
    interop.lab.down().unwrap();
}
