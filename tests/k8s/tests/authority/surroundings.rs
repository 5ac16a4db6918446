//! A cluster, a namespace of the test's own, and controllers in it.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use k8s_openapi::{
    api::{
        authentication::v1::TokenRequest,
        core::v1::{ConfigMap, Namespace, Node, Pod, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, PostParams},
    config::Kubeconfig,
    core::{ApiResource, GroupVersionKind},
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

use crate::{
    cluster::{Cluster, Exclusive},
    program::{Program, http_get},
    wait::eventually,
};

/// Istio's and the Gateway API's kinds that the tests use, with any content: what is right in them is our own business.
const KINDS: [(&str, &str, &str); 4] = [
    ("networking.istio.io", "VirtualService", "virtualservices"),
    ("security.istio.io", "AuthorizationPolicy", "authorizationpolicies"),
    ("gateway.networking.k8s.io", "HTTPRoute", "httproutes"),
    ("gateway.networking.k8s.io", "Gateway", "gateways"),
];

pub(crate) struct Surroundings {
    pub(crate) cluster: Cluster,
    pub(crate) client: Client,
    pub(crate) namespace: String,
    /// A node without a kubelet: what becomes of its pods is the test's business alone.
    pub(crate) node: String,
    /// Of the controllers: the rights that the installation gives them, and no others.
    kubeconfig: PathBuf,
    /// Definitions that were not there before.
    defined: Vec<String>,
    folder: tempfile::TempDir,
    ports: AtomicU16,
    _alone: Exclusive,
}

pub(crate) struct Controller {
    pub(crate) program: Program,
    pub(crate) name: String,
    pub(crate) xds: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) webhook: SocketAddr,
}

impl Surroundings {
    /// In a namespace whose name is like no other.
    pub(crate) async fn new() -> Self {
        let cluster = Cluster::find().unwrap();
        let alone = cluster.alone().unwrap();
        cluster.enter().unwrap();
        let client = cluster.client().await.unwrap();
        let namespace = format!("authority-{:08x}", fastrand::u32(..));
        let ports = AtomicU16::new(fastrand::u16(20_000..30_000));
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        let defined = Vec::new();
        let node = namespace.clone();
        let mut found = Self { cluster, client, namespace, node, kubeconfig, defined, folder, ports, _alone: alone };
        found.make_namespace(&found.namespace).await;
        let node: Node = serde_json::from_value(json!({ "metadata": { "name": found.node } })).unwrap();
        Api::all(found.client.clone()).create(&PostParams::default(), &node).await.unwrap();
        found.grant().await;
        for (group, kind, plural) in KINDS {
            found.define(group, kind, plural).await;
        }
        found
    }

    pub(crate) async fn make_namespace(&self, name: &str) {
        let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    }

    /// Removes what the test has made.
    pub(crate) async fn remove(&self, namespaces: &[&str]) {
        // Nobody on the node says that they have ended.
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.pods().delete_collection(&at_once, &ListParams::default()).await.unwrap();
        Api::<Node>::all(self.client.clone()).delete(&self.node, &DeleteParams::default()).await.unwrap();
        let api = Api::<Namespace>::all(self.client.clone());
        for name in namespaces.iter().copied().chain([&*self.namespace]) {
            api.delete(name, &DeleteParams::default()).await.unwrap();
        }
        let definitions = Api::<CustomResourceDefinition>::all(self.client.clone());
        for name in &self.defined {
            definitions.delete(name, &DeleteParams::default()).await.unwrap();
        }
        for name in &self.defined {
            eventually(&format!("{name} is gone"), || async { definitions.get_opt(name).await.unwrap().is_none().then_some(()) })
                .await;
        }
        Api::<ClusterRoleBinding>::all(self.client.clone()).delete(&self.namespace, &DeleteParams::default()).await.unwrap();
        Api::<ClusterRole>::all(self.client.clone()).delete(&self.namespace, &DeleteParams::default()).await.unwrap();
    }

    /// Makes the controllers' account, with the roles of the installation under names of the test's own.
    async fn grant(&self) {
        let manifests = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/manifests/keelson.yaml");
        let read = ["create", "--dry-run=client", "--validate=ignore", "--output=json", "--filename", manifests];
        let output = self.cluster.kubectl(&read, "").unwrap();
        let mut objects = Vec::new();
        for object in serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>() {
            let mut object = object.unwrap();
            match object["items"].as_array_mut() {
                Some(items) => objects.append(items),
                None => objects.push(object),
            }
        }
        objects.retain(|object| {
            let kind = object["kind"].as_str().unwrap_or_default();
            object["metadata"]["name"] == "keelson-controller" && (kind == "ServiceAccount" || kind.contains("Role"))
        });
        assert_eq!(objects.len(), 5, "account, two roles, two bindings: {}", String::from_utf8_lossy(&output.stderr));
        for object in &mut objects {
            if object["kind"].as_str().is_some_and(|kind| kind.starts_with("Cluster")) {
                object["metadata"]["name"] = json!(self.namespace);
                if object["roleRef"].is_object() {
                    object["roleRef"]["name"] = json!(self.namespace);
                }
            } else {
                object["metadata"]["namespace"] = json!(self.namespace);
            }
            for subject in object["subjects"].as_array_mut().into_iter().flatten() {
                subject["namespace"] = json!(self.namespace);
            }
        }
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string();
        let output = self.cluster.kubectl(&["apply", "-f", "-"], &list).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), &self.namespace);
        let request: TokenRequest =
            serde_json::from_value(json!({ "spec": { "audiences": [], "expirationSeconds": 3600 } })).unwrap();
        let issued = accounts.create_token_request("keelson-controller", &PostParams::default(), &request).await.unwrap();
        let mut kubeconfig = serde_json::to_value(Kubeconfig::read_from(&self.cluster.control.kubeconfig).unwrap()).unwrap();
        kubeconfig["users"][0]["user"] = json!({ "token": issued.status.unwrap().token });
        std::fs::write(&self.kubeconfig, kubeconfig.to_string()).unwrap();
    }

    async fn define(&mut self, group: &str, kind: &str, plural: &str) {
        let api = Api::<CustomResourceDefinition>::all(self.client.clone());
        let name = format!("{plural}.{group}");
        if api.get_opt(&name).await.unwrap().is_none() {
            let any = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
            let version = json!({
                "name": "v1", "served": true, "storage": true, "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": { "type": "object", "properties": { "spec": any, "status": any } } },
            });
            // Groups of the Kubernetes project want a sign that somebody has approved.
            let approved = json!({ "api-approved.kubernetes.io": "unapproved, for a test" });
            let definition = json!({
                "metadata": { "name": name, "annotations": approved },
                "spec": {
                    "group": group, "scope": "Namespaced", "versions": [version],
                    "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase() },
                },
            });
            api.create(&PostParams::default(), &serde_json::from_value(definition).unwrap()).await.unwrap();
            self.defined.push(name.clone());
        }
        eventually(&format!("{name} is served"), || async {
            let found = api.get(&name).await.unwrap();
            let conditions = found.status?.conditions?;
            conditions.iter().any(|one| one.type_ == "Established" && one.status == "True").then_some(())
        })
        .await;
    }

    /// An API of one of [`KINDS`].
    pub(crate) fn api(&self, kind: &str) -> Api<DynamicObject> {
        let (group, kind, plural) = KINDS.into_iter().find(|known| known.1 == kind).unwrap();
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural);
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    pub(crate) fn object(&self, kind: &str, name: &str, spec: &Value) -> DynamicObject {
        let (group, kind, _) = KINDS.into_iter().find(|known| known.1 == kind).unwrap();
        let metadata = json!({ "name": name, "namespace": self.namespace });
        let document = json!({ "apiVersion": format!("{group}/v1"), "kind": kind, "metadata": metadata, "spec": spec });
        serde_json::from_value(document).unwrap()
    }

    /// Starts a controller; it is ready when this returns.
    pub(crate) async fn controller(&self, name: &str) -> Controller {
        let port =
            || SocketAddr::new(self.cluster.control.address.v4.parse().unwrap(), self.ports.fetch_add(1, Ordering::Relaxed));
        let (xds, admin, webhook) = (port(), port(), port());
        let state = self.folder.path().join(name);
        let arguments = [
            "--source=kubernetes".to_owned(),
            format!("--kubeconfig={}", self.kubeconfig.display()),
            format!("--state={}", state.display()),
            format!("--namespace={}", self.namespace),
            format!("--pod={name}"),
            format!("--listen={xds}"),
            format!("--admin={admin}"),
            format!("--webhook={webhook}"),
            "--lease=6s".to_owned(),
            "--log=info".to_owned(),
        ];
        let log = self.folder.path().join(format!("{name}.log"));
        let program = Program::start("mesh-controller", &arguments, &log).unwrap();
        let controller = Controller { program, name: name.to_owned(), xds, admin, webhook };
        eventually(&format!("{name} is ready"), || async {
            http_get(admin, "/readyz").await.ok().filter(|(status, _)| *status == 200)
        })
        .await;
        controller
    }

    pub(crate) async fn make_account(&self, name: &str) {
        let account: ServiceAccount = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        Api::namespaced(self.client.clone(), &self.namespace).create(&PostParams::default(), &account).await.unwrap();
    }

    /// A pod on the node; it does not run.
    pub(crate) async fn make_pod(&self, name: &str, account: &str) -> Pod {
        let spec = json!({
            "nodeName": self.node, "serviceAccountName": account,
            "containers": [{ "name": "main", "image": "keelson.test/pause:1", "imagePullPolicy": "Never" }],
        });
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap()
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// What nodes trust.
    pub(crate) async fn roots(&self) -> String {
        self.roots_of(&self.namespace, "keelson-ca-root-cert").await
    }

    pub(crate) async fn roots_of(&self, namespace: &str, name: &str) -> String {
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        eventually(&format!("{namespace} has {name}"), || async {
            api.get_opt(name).await.unwrap()?.data?.remove("root-cert.pem")
        })
        .await
    }

    /// A connection to a controller, whose certificate is checked by the name of its Service.
    pub(crate) async fn channel(&self, controller: &Controller) -> Channel {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.roots().await.as_bytes()) {
            store.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        let mut config = builder.with_root_certificates(store).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (config, address) = (Arc::new(config), controller.xds);
        let name = ServerName::try_from(format!("keelson-controller.{}.svc", self.namespace)).unwrap();
        Endpoint::from_static("http://controller.test")
            .connect_with_connector(tower::service_fn(move |_| {
                let (config, name) = (config.clone(), name.clone());
                async move {
                    let stream = TcpStream::connect(address).await?;
                    let stream = TlsConnector::from(config).connect(name, stream).await?;
                    Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
                }
            }))
            .await
            .unwrap()
    }
}

impl Controller {
    pub(crate) async fn leads(&self) -> bool {
        let (_, metrics) = http_get(self.admin, "/metrics").await.unwrap_or_default();
        metrics.lines().any(|line| line == "keelson_controller_leader 1")
    }

    pub(crate) async fn is_elected(&self) {
        eventually(&format!("{} leads", self.name), || async { self.leads().await.then_some(()) }).await;
    }
}

pub(crate) fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}
