//! Whole runs, with everything down or with an API server that is one: TLS, token, objects.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use mesh_proto::cni::ApiServer;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::{ServerConfig, crypto::aws_lc_rs, version::TLS13};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A node's folder, with the plugin's configuration.
struct Node {
    folder: tempfile::TempDir,
    config: PluginConfig,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        fs::write(file("token"), "secret\n").unwrap();
        let config = PluginConfig {
            cluster: "Kubernetes".into(),
            socket: file("enrol.sock"),
            exempt_namespaces: ["kube-system".to_owned()].into(),
            // Nobody listens at port 1.
            api: ApiServer { server: "https://127.0.0.1:1".into(), ca: file("ca.crt"), token: file("token") },
            ambient: true,
            wait_seconds: 0,
            log: file("cni.log"),
        };
        Self { folder, config }
    }

    fn run(&self, command: &str, pod: &str) -> Result<Option<Value>, Failure> {
        let path = self.folder.path().join("plugin.json");
        fs::write(&path, serde_json::to_vec(&self.config).unwrap()).unwrap();
        run(&environment(command, pod), &netconf(&path))
    }

    fn journal(&self) -> String {
        fs::read_to_string(&self.config.log).unwrap_or_default()
    }
}

fn environment(command: &str, pod: &str) -> Environment {
    let (namespace, name) = pod.split_once('/').unwrap();
    Environment {
        command: Some(command.to_owned()),
        netns: Some("/proc/self/ns/net".to_owned()),
        args: Some(format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID=uid-of-{name}")),
    }
}

fn result() -> Value {
    json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.0.0.7/24" }], "dns": {}, "foreign": [1, { "kept": true }] })
}

fn netconf(configuration: &Path) -> Vec<u8> {
    let conf = json!({
        "cniVersion": "1.0.0", "name": "pods", "type": "keelson-cni", "configuration": configuration, "prevResult": result(),
    });
    conf.to_string().into_bytes()
}

/// Answers GETs with these objects, by path, to whoever has the token.
async fn serve(listener: TcpListener, acceptor: TlsAcceptor, objects: Arc<BTreeMap<String, Value>>) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (acceptor, objects) = (acceptor.clone(), objects.clone());
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
                let token = request.headers().get("authorization").is_some_and(|found| found == "Bearer secret");
                let found = objects.get(request.uri().path()).cloned();
                let (status, body) = match (token, found) {
                    (false, _) => (StatusCode::UNAUTHORIZED, json!({ "message": "who?" })),
                    (true, None) => (StatusCode::NOT_FOUND, json!({ "message": "no such object" })),
                    (true, Some(object)) => (StatusCode::OK, object),
                };
                let answer = Response::builder().status(status).body(Full::new(Bytes::from(body.to_string())));
                async move { answer }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
        });
    }
}

/// Starts a server with these objects on a thread of its own and tells the node of it.
fn start(node: &mut Node, objects: BTreeMap<String, Value>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
    let certificate = params.self_signed(&key).unwrap();
    fs::write(&node.config.api.ca, certificate.pem()).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let (tell, told) = std::sync::mpsc::channel::<SocketAddr>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            serve(listener, TlsAcceptor::from(Arc::new(config)), Arc::new(objects)).await;
        });
    });
    node.config.api.server = format!("https://{}", told.recv().unwrap());
}

fn objects() -> BTreeMap<String, Value> {
    let pod = |name: &str, mode: &str, spec: Value| {
        let labels = json!({ "istio.io/dataplane-mode": mode });
        let object = json!({ "metadata": { "name": name, "uid": format!("uid-of-{name}"), "labels": labels }, "spec": spec });
        (format!("/api/v1/namespaces/shop/pods/{name}"), object)
    };
    let plain = || json!({ "containers": [] });
    BTreeMap::from([
        ("/api/v1/namespaces/shop".to_owned(), json!({ "metadata": { "name": "shop" } })),
        pod("outside", "none", plain()),
        pod("page", "keelson", plain()),
        pod("ambient", "ambient", plain()),
        pod("sandboxed", "keelson", json!({ "containers": [], "runtimeClassName": "gvisor" })),
        ("/api/v1/namespaces/shop/pods/successor".to_owned(), json!({ "metadata": { "uid": "another" } })),
    ])
}

#[test]
fn with_everything_down_exempt_pods_start_and_pods_end() {
    let node = Node::new();
    assert_eq!(node.run("ADD", "kube-system/coredns").unwrap(), Some(result()));
    assert_eq!(node.run("CHECK", "kube-system/coredns").unwrap(), None);
    let failure = node.run("ADD", "shop/page").unwrap_err();
    assert_eq!(failure.code(), 11, "{}", failure.chain());
    assert!(node.journal().contains("shop/page: whether pod shop/page belongs to the mesh"), "{}", node.journal());
    assert_eq!(node.run("DEL", "shop/page").unwrap(), None);
    assert_eq!(node.run("STATUS", "shop/page").unwrap(), None);
    // Not even what it was called with has to make sense.
    let del = environment("DEL", "shop/page");
    assert_eq!(run(&del, b"nonsense").unwrap(), None);
    let gone = netconf(Path::new("/nowhere/plugin.json"));
    assert_eq!(run(&del, &gone).unwrap(), None);
    for command in ["ADD", "CHECK", "STATUS"] {
        assert_eq!(run(&environment(command, "shop/page"), &gone).unwrap_err().code(), 5, "{command}");
    }
}

#[test]
fn whoever_is_no_pod_passes() {
    let node = Node::new();
    let nobody = Environment { args: None, ..environment("ADD", "a/b") };
    assert_eq!(run(&nobody, &netconf(&node.folder.path().join("plugin.json"))).unwrap(), Some(result()));
}

#[test]
fn the_labels_decide_who_has_to_be_captured() {
    let mut node = Node::new();
    start(&mut node, objects());
    for outside in ["shop/outside", "shop/sandboxed"] {
        assert_eq!(node.run("ADD", outside).unwrap(), Some(result()), "{outside}");
        assert_eq!(node.run("CHECK", outside).unwrap(), None, "{outside}");
    }
    assert!(node.journal().contains("runtime class gvisor"), "{}", node.journal());
    for inside in ["shop/page", "shop/ambient"] {
        // There is no node proxy: the pod is held.
        let failure = node.run("ADD", inside).unwrap_err();
        assert_eq!(failure.code(), 11);
        assert!(failure.chain().contains("belongs to the mesh and is not captured"), "{}", failure.chain());
        assert!(failure.chain().contains("enrol.sock"), "{}", failure.chain());
    }
    node.config.ambient = false;
    assert_eq!(node.run("ADD", "shop/ambient").unwrap(), Some(result()));
    let chain = |failure: Failure| failure.chain();
    assert!(chain(node.run("ADD", "shop/successor").unwrap_err()).contains("another pod"));
    assert!(chain(node.run("ADD", "shop/unknown").unwrap_err()).contains("there is no /api/v1/namespaces/shop/pods/unknown"));
    fs::write(&node.config.api.token, "stale").unwrap();
    assert!(chain(node.run("ADD", "shop/outside").unwrap_err()).contains("knows nobody by the token"));
}
