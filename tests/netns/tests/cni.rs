//! The CNI plugin and the node that installs it: real programs, real network namespaces, a real socket between them. Only the API
//! server is the test's own.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, mpsc},
    thread,
};

use harness::{Binaries, wait_until};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use netns_tests::{
    Mesh, Options, PATIENCE,
    manifest::{namespace, node, pod},
};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::{ServerConfig, crypto::aws_lc_rs, version::TLS13};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const LIST: &str = r#"{ "cniVersion": "1.0.0", "name": "pods", "plugins": [ { "type": "bridge" } ] }"#;

/// The folders of a host, and an API server that knows three pods.
struct Host {
    folder: tempfile::TempDir,
    api: String,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["bin", "net.d", "account"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("net.d/10-pods.conflist"), LIST).unwrap();
        fs::write(folder.path().join("account/token"), "secret").unwrap();
        let api = serve(&folder.path().join("account/ca.crt"), objects());
        Self { folder, api }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn node_arguments(&self) -> Vec<String> {
        let plugin = Binaries::beside_current().unwrap().folder.join("keelson-cni");
        let path = |name: &str| self.path(name).display().to_string();
        vec![
            format!("--cni-plugin={}", plugin.display()),
            format!("--cni-bin-dir={}", path("bin")),
            format!("--cni-conf-dir={}", path("net.d")),
            format!("--cni-service-account={}", path("account")),
            format!("--cni-api-server={}", self.api),
            "--cni-exempt=exempt".to_owned(),
        ]
    }

    /// The list as the node has left it.
    fn list(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path("net.d/10-pods.conflist")).unwrap()).unwrap()
    }

    /// Starts the plugin as a container runtime does, by the entry of the list.
    fn begin(&self, command: &str, namespace: &str, name: &str, netns: &Path, result: &Value) -> Child {
        let mut conf = self.list()["plugins"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(conf["type"], "keelson-cni");
        conf["cniVersion"] = json!("1.0.0");
        conf["name"] = json!("pods");
        conf["prevResult"] = result.clone();
        let mut child = Command::new(self.path("bin/keelson-cni"))
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "c1")
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env(
                "CNI_ARGS",
                format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID=uid-of-{name}"),
            )
            .env("CNI_PATH", self.path("bin"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
        child
    }

    /// The same for a pod of the laboratory, to its end.
    fn run(&self, mesh: &Mesh, command: &str, name: &str) -> Output {
        let (netns, result) = of_pod(mesh, name);
        self.begin(command, "app", name, &netns, &result).wait_with_output().unwrap()
    }

    /// Has the plugin give up at once where it would wait.
    fn impatient(&self) {
        let path = self.path("net.d/keelson-cni/plugin.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        config["waitSeconds"] = json!(0);
        fs::write(path, config.to_string()).unwrap();
    }
}

/// A pod's namespace, and what a pod network would have said of it.
fn of_pod(mesh: &Mesh, name: &str) -> (PathBuf, Value) {
    let pod = mesh.pod(&format!("app/{name}")).unwrap();
    let netns = pod.place.netns.clone();
    let ips = pod
        .addresses
        .iter()
        .map(|ip| json!({ "address": format!("{ip}/{}", if ip.is_ipv4() { 24 } else { 64 }), "interface": 0 }));
    let interfaces = json!([{ "name": "eth0", "sandbox": netns }]);
    let result =
        json!({ "cniVersion": "1.0.0", "interfaces": interfaces, "ips": ips.collect::<Vec<_>>(), "dns": { "search": ["x"] } });
    (netns, result)
}

fn objects() -> BTreeMap<String, Value> {
    let pod = |name: &str, mode: &str| {
        let metadata = json!({ "name": name, "uid": format!("uid-of-{name}"), "labels": { "istio.io/dataplane-mode": mode } });
        let object = json!({ "metadata": metadata, "spec": { "containers": [], "serviceAccountName": name } });
        (format!("/api/v1/namespaces/app/pods/{name}"), object)
    };
    let namespace = ("/api/v1/namespaces/app".to_owned(), json!({ "metadata": { "name": "app" } }));
    BTreeMap::from([namespace, pod("first", "keelson"), pod("second", "keelson"), pod("plain", "none")])
}

/// Serves objects over TLS to whoever has the token, for as long as the test runs; writes the root that it is checked with.
fn serve(root: &Path, objects: BTreeMap<String, Value>) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
    let certificate = params.self_signed(&key).unwrap();
    fs::write(root, certificate.pem()).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let (acceptor, objects) = (TlsAcceptor::from(Arc::new(config)), Arc::new(objects));
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, objects) = (acceptor.clone(), objects.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
                        let known = request.headers().get("authorization").is_some_and(|found| found == "Bearer secret");
                        let found = objects.get(request.uri().path()).filter(|_| known);
                        let status = if found.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
                        let body = Full::new(Bytes::from(found.cloned().unwrap_or(json!({})).to_string()));
                        async move { Response::builder().status(status).body(body) }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
    });
    format!("https://{}", told.recv().unwrap())
}

fn captured(mesh: &Mesh) -> Vec<String> {
    let dump = mesh.admin("node-1", "/config_dump").unwrap();
    dump["pods"].as_array().unwrap().iter().map(|pod| pod["name"].as_str().unwrap().to_owned()).collect()
}

fn said(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

#[test]
fn a_pods_start_waits_for_its_capture() {
    let host = Host::new();
    let options = Options { node: host.node_arguments(), ..Options::default() };
    // For the laboratory they are outside of the mesh: only the plugin takes them in.
    let mut documents = vec![node("node-1", 1), namespace("app", false)];
    documents.extend(["first", "second", "plain"].map(|name| pod(&format!("app/{name}"), "node-1").idle().document()));
    let mesh = Mesh::up_with(&options, &documents);

    let added = host.run(&mesh, "ADD", "first");
    assert_eq!((added.status.success(), said(&added)), (true, of_pod(&mesh, "first").1));
    assert_eq!(captured(&mesh), ["first"]);
    assert!(host.run(&mesh, "CHECK", "first").status.success());
    let plain = host.run(&mesh, "ADD", "plain");
    assert_eq!((plain.status.success(), said(&plain)), (true, of_pod(&mesh, "plain").1));
    assert_eq!(captured(&mesh), ["first"]);
    let unchecked = host.run(&mesh, "CHECK", "second");
    assert!(!unchecked.status.success() && said(&unchecked)["msg"].as_str().unwrap().contains("not captured"), "{unchecked:?}");

    // Somebody writes the network's configuration anew.
    fs::write(host.path("net.d/10-pods.conflist"), LIST).unwrap();
    wait_until("the node to repair it", PATIENCE, || Ok(host.list()["plugins"].as_array().unwrap().len() == 2)).unwrap();

    // The node is away: a pod of the mesh waits for it.
    mesh.kill_node("node-1").unwrap();
    let (netns, result) = of_pod(&mesh, "second");
    let mut waiting = host.begin("ADD", "app", "second", &netns, &result);
    let exempt = host.begin("ADD", "exempt", "second", &netns, &result).wait_with_output().unwrap();
    assert_eq!((exempt.status.success(), said(&exempt)), (true, result.clone()));
    assert!(waiting.try_wait().unwrap().is_none(), "it is held");
    mesh.restart_node("node-1").unwrap();
    let waited = waiting.wait_with_output().unwrap();
    assert_eq!((waited.status.success(), said(&waited)), (true, result.clone()), "{waited:?}");
    assert_eq!(captured(&mesh), ["first", "second"]);

    // Not for ever; and whatever is down, pods end.
    mesh.kill_node("node-1").unwrap();
    host.impatient();
    let failed = host.run(&mesh, "ADD", "second");
    assert_eq!((failed.status.success(), &said(&failed)["code"]), (false, &json!(11)));
    let (message, remedy) = (said(&failed)["msg"].to_string(), said(&failed)["details"].to_string());
    assert!(message.contains("app/second") && message.contains("enrol.sock") && remedy.contains("keelson-node"), "{failed:?}");
    let ended = host.run(&mesh, "DEL", "second");
    assert!(ended.status.success() && ended.stdout.is_empty(), "{ended:?}");
    mesh.restart_node("node-1").unwrap();
    mesh.down();
}
