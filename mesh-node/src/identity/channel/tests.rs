//! The certificate service over a real channel: TLS, name check, token and metadata.

use std::{net::SocketAddr, sync::Mutex};

use mesh_proto::ca::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
};
use rcgen::SanType;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use super::*;
use crate::identity::{
    CertificateAuthority, GrpcAuthority, GrpcAuthoritySettings, SignError,
    certificate::certificates_in,
    testing::{Leaf, TestCa, identity},
};

/// Remembers what it was asked, and refuses everybody but `page`.
struct Service {
    asked: Arc<Mutex<Vec<Request<IstioCertificateRequest>>>>,
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let metadata = format!("{:?}", request.get_ref().metadata);
        self.asked.lock().expect("lock").push(request);
        if metadata.contains("sa/page") {
            Ok(Response::new(IstioCertificateResponse { cert_chain: vec!["leaf".into(), "root".into()] }))
        } else {
            Err(Status::permission_denied("not on this node"))
        }
    }
}

struct Server {
    address: SocketAddr,
    ca: TestCa,
    asked: Arc<Mutex<Vec<Request<IstioCertificateRequest>>>>,
}

impl Server {
    /// Serves under `name`.
    async fn start(name: SanType) -> Self {
        let ca = TestCa::new();
        let (chain, key) = ca.issue(&Leaf { names: vec![name], ..Leaf::of("spiffe://cluster.local/ns/a/sa/b") });
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(certificates_in(&chain[0]).expect("a chain"), key)
            .expect("a certificate");
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let asked = Arc::default();
        let service = hyper_util::service::TowerToHyperService::new(IstioCertificateServiceServer::new(Service {
            asked: Arc::clone(&asked),
        }));
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.expect("accept");
                let (acceptor, service) = (acceptor.clone(), service.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let executor = hyper_util::rt::TokioExecutor::new();
                    let _ = hyper::server::conn::http2::Builder::new(executor).serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        Self { address, ca, asked }
    }

    fn authority(&self, token: &std::path::Path) -> GrpcAuthority {
        let channel =
            channel(&format!("https://{}", self.address), ChannelRoots::Pem(self.ca.root_pem().into())).expect("a channel");
        let settings =
            GrpcAuthoritySettings { token: token.into(), cluster: "Kubernetes".into(), validity: Duration::from_hours(24) };
        GrpcAuthority::new(channel, settings)
    }
}

fn loopback() -> SanType {
    SanType::IpAddress([127, 0, 0, 1].into())
}

#[tokio::test]
async fn the_node_asks_in_its_own_name_for_its_pods() {
    let server = Server::start(loopback()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    let authority = server.authority(&token);
    let missing = authority.sign(&identity("page"), "csr").await.expect_err("no token");
    assert!(matches!(missing, SignError::Token { .. }), "{missing:?}");
    for word in ["first", "second"] {
        std::fs::write(&token, format!("{word}\n")).expect("written");
        assert_eq!(authority.sign(&identity("page"), "csr").await.expect("signed"), ["leaf", "root"]);
        let asked = server.asked.lock().expect("lock").pop().expect("asked");
        assert_eq!(asked.metadata().get("authorization").expect("a token"), &format!("Bearer {word}"));
        assert_eq!(asked.metadata().get("clusterid").expect("a cluster"), "Kubernetes");
        assert_eq!((asked.get_ref().csr.as_str(), asked.get_ref().validity_duration), ("csr", 86_400));
        let metadata = asked.get_ref().metadata.clone().expect("metadata");
        let expected = prost_types::value::Kind::StringValue("spiffe://cluster.local/ns/shop/sa/page".into());
        assert_eq!(metadata.fields["ImpersonatedIdentity"].kind, Some(expected));
    }
    let refused = authority.sign(&identity("stock"), "csr").await.expect_err("not on this node");
    assert!(matches!(refused, SignError::Refused { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_server_of_another_name_or_root_is_not_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "secret").expect("written");
    let misnamed = Server::start(SanType::DnsName("controller.example".try_into().expect("IA5"))).await;
    let error = misnamed.authority(&token).sign(&identity("page"), "csr").await.expect_err("another name");
    assert!(matches!(error, SignError::Unavailable { .. }), "{error:?}");
    let mut stranger = Server::start(loopback()).await;
    stranger.ca = TestCa::new();
    let error = stranger.authority(&token).sign(&identity("page"), "csr").await.expect_err("another root");
    assert!(matches!(error, SignError::Unavailable { .. }), "{error:?}");
    for server in [misnamed, stranger] {
        assert!(server.asked.lock().expect("lock").is_empty(), "a token went to the wrong server");
    }
}

#[test]
fn only_https_is_a_controller() {
    for bad in ["http://controller:1", "controller", "https://", "unix:/run/x"] {
        let made = channel(bad, ChannelRoots::Pem(String::new()));
        assert!(matches!(made, Err(ChannelError::Url { .. })), "{bad}");
    }
}
