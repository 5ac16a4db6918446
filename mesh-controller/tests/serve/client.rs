//! A controller with its folder, and a node that talks to it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use mesh_controller::{
    app::{self, Running},
    auth::Tokens,
    ca::prepare_roots,
    config::Command,
    distribute::ResourceType,
};
use mesh_proto::{
    convert::AddressResource,
    workload,
    xds::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use prost::Message;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tempfile::TempDir;
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Streaming,
    transport::{Channel, Endpoint},
};

/// Far beyond what anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Controller {
    pub(crate) folder: TempDir,
    pub(crate) state: TempDir,
    pub(crate) running: Option<Running>,
}

impl Controller {
    pub(crate) async fn start(objects: &str) -> Self {
        let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(folder.path().join("objects.yaml"), objects).unwrap();
        let mut controller = Self { folder, state, running: None };
        controller.run().await;
        controller
    }

    /// Starts it, with what it has in its folders.
    pub(crate) async fn run(&mut self) {
        let source = format!("--source=folder:{}", self.folder.path().display());
        let state = format!("--state={}", self.state.path().display());
        let fixed = ["--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--leaf-lifetime=1h"];
        let line = ["mesh-controller", &source, &state].into_iter().chain(fixed);
        let config = Command::try_parse_from(line).unwrap().run.unwrap();
        self.running = Some(app::start(&config).await.unwrap());
    }

    pub(crate) async fn stop(&mut self) {
        self.running.take().unwrap().stop().await;
    }

    pub(crate) fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn status_file(&self, path: &str) -> PathBuf {
        self.folder.path().join(".status/keelson").join(path)
    }

    pub(crate) fn token(&self, node: &str) -> String {
        Tokens::new(self.state.path()).issue(node).unwrap()
    }

    /// A connection whose server is checked against the root file, by address.
    pub(crate) async fn channel(&self) -> Channel {
        let roots = prepare_roots(self.state.path()).unwrap();
        let config = Arc::new(tls(&roots));
        let address = self.running().xds;
        Endpoint::from_static("http://controller.test")
            .connect_with_connector(tower::service_fn(move |_| {
                let config = config.clone();
                async move {
                    let stream = TcpStream::connect(address).await?;
                    let name = ServerName::from(address.ip());
                    let stream = TlsConnector::from(config).connect(name, stream).await?;
                    Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
                }
            }))
            .await
            .unwrap()
    }

    pub(crate) async fn node(&self, name: &str) -> Node {
        Node { channel: self.channel().await, token: self.token(name), name: name.into() }
    }
}

fn tls(roots: &Path) -> ClientConfig {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(roots).unwrap() {
        store.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let mut config = builder.with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// A node: a channel and the token that proves its name.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) channel: Channel,
    pub(crate) token: String,
    pub(crate) name: String,
}

impl Node {
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        request
    }

    /// A stream with everything subscribed, holding what `initial` says of workloads and services.
    pub(crate) async fn subscribe(&self, initial: Vec<(String, String)>) -> Subscription {
        let (requests, outgoing) = mpsc::channel(64);
        for kind in ResourceType::ALL {
            let initial = if kind == ResourceType::Address { initial.clone() } else { Vec::new() };
            let request = DeltaDiscoveryRequest {
                type_url: kind.url().into(),
                resource_names_subscribe: vec!["*".into()],
                initial_resource_versions: initial.into_iter().collect(),
                ..DeltaDiscoveryRequest::default()
            };
            requests.send(request).await.unwrap();
        }
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel.clone());
        let responses = client.delta_aggregated_resources(self.request(ReceiverStream::new(outgoing))).await.unwrap();
        Subscription { requests, responses: responses.into_inner() }
    }
}

/// An open stream.
pub(crate) struct Subscription {
    pub(crate) requests: mpsc::Sender<DeltaDiscoveryRequest>,
    pub(crate) responses: Streaming<DeltaDiscoveryResponse>,
}

impl Subscription {
    pub(crate) async fn next(&mut self) -> DeltaDiscoveryResponse {
        timeout(DEADLINE, self.responses.message()).await.expect("a response arrives").unwrap().expect("the stream goes on")
    }

    pub(crate) async fn acknowledge(&self, response: &DeltaDiscoveryResponse) {
        self.answer(response, None).await;
    }

    pub(crate) async fn refuse(&self, response: &DeltaDiscoveryResponse, message: &str) {
        let status = Status { code: 3, message: message.into(), details: Vec::new() };
        self.answer(response, Some(status)).await;
    }

    async fn answer(&self, response: &DeltaDiscoveryResponse, error_detail: Option<Status>) {
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail,
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// Takes and acknowledges responses up to one of this type that satisfies.
    pub(crate) async fn until(
        &mut self,
        kind: ResourceType,
        satisfies: impl Fn(&DeltaDiscoveryResponse) -> bool,
    ) -> DeltaDiscoveryResponse {
        loop {
            let response = self.next().await;
            self.acknowledge(&response).await;
            if response.type_url == kind.url() && satisfies(&response) {
                return response;
            }
        }
    }

    /// The same, without acknowledging the last one.
    pub(crate) async fn until_unanswered(
        &mut self,
        kind: ResourceType,
        satisfies: impl Fn(&DeltaDiscoveryResponse) -> bool,
    ) -> DeltaDiscoveryResponse {
        loop {
            let response = self.next().await;
            if response.type_url == kind.url() && satisfies(&response) {
                return response;
            }
            self.acknowledge(&response).await;
        }
    }
}

/// The workloads and services of a response.
pub(crate) fn addresses(response: &DeltaDiscoveryResponse) -> Vec<AddressResource> {
    let body = |resource: &mesh_proto::xds::Resource| resource.resource.clone().unwrap().value;
    (response.resources.iter())
        .map(|resource| workload::Address::decode(body(resource).as_slice()).unwrap().try_into().unwrap())
        .collect()
}

pub(crate) fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|resource| resource.name.as_str()).collect()
}

/// Waits for something that happens by itself.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    timeout(DEADLINE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{what}"));
}

pub(crate) fn pod(namespace: &str, name: &str, node: &str, account: &str, address: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}, \
         spec: {{nodeName: {node}, serviceAccountName: {account}, containers: []}}, \
         status: {{phase: Running, podIP: {address}, conditions: [{{type: Ready, status: 'True'}}]}}}}\n"
    )
}

pub(crate) fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}\n"
    )
}
