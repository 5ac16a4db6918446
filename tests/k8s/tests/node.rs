//! The node proxy as a DaemonSet: new pods wait for their capture, the kubelet's probes pass, and a proxy is replaced under load.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::thread;

use anyhow::{Result, ensure};
use k8s_tests::Cluster;
use serde_json::{Value, json};

const DAEMON_SET: &str = "daemonset/keelson-node";

/// A namespace that goes with this value.
struct Namespace<'a> {
    cluster: &'a Cluster,
    name: &'static str,
}

impl<'a> Namespace<'a> {
    fn new(cluster: &'a Cluster, name: &'static str, mode: &str) -> Result<Self> {
        let labels = json!({ "istio.io/dataplane-mode": mode });
        cluster.apply(
            &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } }).to_string(),
        )?;
        Ok(Self { cluster, name })
    }

    /// A pod of the shop's program.
    fn pod(&self, name: &str, node: &str, command: &[&str], probe: Option<u16>) -> Result<()> {
        self.cluster.apply(&shop_pod(self.name, name, node, command, probe).to_string())
    }

    fn ready(&self, pod: &str) -> Result<bool> {
        let pod: Value = self.cluster.json(&["-n", self.name, "get", "pod", pod])?;
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True"))
    }

    fn wait_ready(&self, pod: &str) -> Result<()> {
        self.cluster.wait(&format!("{}/{pod} to be ready", self.name), || self.ready(pod))
    }

    fn is_captured(&self, pod: &str) -> Result<bool> {
        let pod: Value = self.cluster.json(&["-n", self.name, "get", "pod", pod])?;
        Ok(pod["metadata"]["annotations"]["ambient.istio.io/redirection"] == "enabled")
    }

    fn address(&self, pod: &str) -> Result<String> {
        self.cluster.kubectl(&["-n", self.name, "get", "pod", pod, "-o", "jsonpath={.status.podIP}"])
    }

    /// How one connection from a pod ends.
    fn outcome(&self, pod: &str, target: &str) -> Result<String> {
        let words = ["-n", self.name, "exec", pod, "--", "shop", "client", "tcp", target, "-o", "json", "--timeout", "10"];
        let output = self.cluster.kubectl_command(&words).output()?;
        let record: Value = serde_json::from_slice(&output.stdout)?;
        Ok(record["outcome"].as_str().unwrap_or_default().to_owned())
    }

    /// What became of the connections that a pod has made to a port for some seconds.
    fn load(&self, pod: &str, target: &str, seconds: &str) -> Result<Value> {
        let words = ["-n", self.name, "exec", pod, "--", "shop", "load", "connect", target, "9001", "-c", "2", "-d", seconds];
        let output = self.cluster.kubectl_command(&words).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(serde_json::from_str(text.lines().next().unwrap_or_default())?)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let _ = self.cluster.kubectl(&["delete", "namespace", self.name, "--wait=true", "--timeout=60s"]);
    }
}

fn shop_pod(namespace: &str, name: &str, node: &str, command: &[&str], probe: Option<u16>) -> Value {
    let mut container = json!({ "name": "c", "image": "keelson.test/shop:0.1.0", "imagePullPolicy": "Never", "args": command });
    if let Some(port) = probe {
        let probe = json!({ "tcpSocket": { "port": port }, "periodSeconds": 1, "timeoutSeconds": 5 });
        container["readinessProbe"] = probe.clone();
        container["livenessProbe"] = probe;
    }
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [container],
            "tolerations": [{ "operator": "Exists" }],
        },
    })
}

#[test]
fn the_kubelets_probes_pass_under_strict_and_nobody_elses_connections() -> Result<()> {
    let cluster = Cluster::find()?;
    let [first, second] = cluster.nodes() else { panic!("two nodes") };
    let mesh = Namespace::new(&cluster, "probed", "keelson")?;
    let outside = Namespace::new(&cluster, "unprobed", "none")?;
    cluster.apply(
        &json!({
            "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": { "name": "default", "namespace": mesh.name }, "spec": { "mtls": { "mode": "STRICT" } },
        })
        .to_string(),
    )?;
    for node in [first, second] {
        mesh.pod(&format!("server-{}", node.name), &node.name, &["ledger", "--port", "9000"], Some(9000))?;
    }
    mesh.pod("client", &first.name, &["idle"], None)?;
    outside.pod("client", &first.name, &["idle"], None)?;
    let dead = json!({ "tcpSocket": { "port": 9000 }, "periodSeconds": 1 });
    let mut pod = shop_pod(mesh.name, "dead", &second.name, &["idle"], None);
    pod["spec"]["containers"][0]["readinessProbe"] = dead;
    cluster.apply(&pod.to_string())?;

    outside.wait_ready("client")?;
    mesh.wait_ready("client")?;
    for node in [first, second] {
        let server = format!("server-{}", node.name);
        mesh.wait_ready(&server)?;
        let target = format!("{}:9000", mesh.address(&server)?);
        cluster.wait("the mesh to let its own in", || Ok(mesh.outcome("client", &target)? == "ok"))?;
        // The policy was there before the pods.
        cluster.wait("the mesh to keep others out", || Ok(outside.outcome("client", &target)? == "reset"))?;
        ensure!(mesh.ready(&server)?, "its probes failed");
    }
    let unready = || {
        let events = cluster.kubectl(&["-n", mesh.name, "get", "events", "--field-selector", "involvedObject.name=dead"])?;
        Ok(events.contains("Readiness probe failed"))
    };
    cluster.wait("the dead pod's probe to fail", unready)?;
    ensure!(!mesh.ready("dead")?, "nobody listens there, and its probe says that somebody does");
    Ok(())
}

#[test]
fn a_pod_of_the_mesh_waits_for_the_node_proxy_and_others_do_not() -> Result<()> {
    let cluster = Cluster::find()?;
    let node = cluster.nodes()[0].name.clone();
    let mesh = Namespace::new(&cluster, "held", "keelson")?;
    let select = |selector: Value| {
        let patch = json!({ "spec": { "template": { "spec": { "nodeSelector": selector } } } }).to_string();
        cluster.kubectl(&["-n", "keelson-system", "patch", DAEMON_SET, "--type=merge", "-p", &patch])
    };
    select(json!({ "keelson.dev/nowhere": "true" }))?;
    let held = (|| {
        let gone = || {
            let pods = cluster.kubectl(&[
                "-n",
                "keelson-system",
                "get",
                "pods",
                "-l",
                "app.kubernetes.io/name=keelson-node",
                "-o",
                "name",
            ])?;
            Ok(pods.is_empty())
        };
        cluster.wait("no node proxy to run", gone)?;
        mesh.pod("page", &node, &["echo"], Some(9001))?;
        cluster.apply(&shop_pod("kube-system", "exempt", &node, &["echo"], Some(9001)).to_string())?;
        let exempt = Namespace { cluster: &cluster, name: "kube-system" };
        let started = exempt.wait_ready("exempt");
        std::mem::forget(exempt);
        cluster.kubectl(&["-n", "kube-system", "delete", "pod", "exempt", "--wait=false"])?;
        started?;
        let told = || {
            let events = cluster.kubectl(&["-n", mesh.name, "get", "events", "--field-selector", "involvedObject.name=page"])?;
            Ok(events.contains("keelson") && events.contains("meshctl uninstall"))
        };
        cluster.wait("the kubelet to say why the pod does not start", told)?;
        ensure!(!mesh.ready("page")?, "it started outside of the mesh");
        Ok(())
    })();
    select(json!({ "keelson.dev/nowhere": null }))?;
    held?;
    mesh.wait_ready("page")?;
    cluster.wait("its capture to be told", || mesh.is_captured("page"))
}

#[test]
fn a_proxy_is_replaced_under_load_and_no_connection_fails() -> Result<()> {
    let cluster = Cluster::find()?;
    let [first, second] = cluster.nodes() else { panic!("two nodes") };
    let mesh = Namespace::new(&cluster, "replaced", "keelson")?;
    mesh.pod("client", &first.name, &["idle"], None)?;
    mesh.pod("near", &first.name, &["echo"], Some(9001))?;
    mesh.pod("far", &second.name, &["echo"], Some(9001))?;
    for pod in ["client", "near", "far"] {
        mesh.wait_ready(pod)?;
        cluster.wait("its capture to be told", || mesh.is_captured(pod))?;
    }
    let (near, far) = (mesh.address("near")?, mesh.address("far")?);
    for _ in 0..2 {
        let reports = thread::scope(|scope| -> Result<Vec<Value>> {
            let loads = [&near, &far].map(|target| scope.spawn(|| mesh.load("client", target, "45")));
            cluster.kubectl(&["-n", "keelson-system", "rollout", "restart", DAEMON_SET])?;
            cluster.kubectl(&["-n", "keelson-system", "rollout", "status", DAEMON_SET, "--timeout=120s"])?;
            loads.into_iter().map(|load| load.join().expect("no step panics")).collect()
        })?;
        for report in &reports {
            ensure!(report["errors"] == json!({}) && report["operations"].as_u64() > Some(100), "{report}");
        }
        println!("{reports:?}");
    }
    Ok(())
}
