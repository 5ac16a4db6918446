//! Somebody with a node's token, or without, who speaks to the controller and to pods by himself: no code of the node proxy is
//! in between.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use http::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use mesh_proto::ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient};
use prost_types::{Struct, Value, value::Kind};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;
use tower::service_fn;

/// A certificate and its key.
#[derive(Debug)]
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// A certificate of the mesh's form that nobody signed but its own key.
    pub fn forged(identity: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
        let certificate = params.self_signed(&key).unwrap();
        Self { chain: vec![certificate.der().clone()], key: der(&key) }
    }

    /// Whether the leaf contains this text.
    pub fn names(&self, identity: &str) -> bool {
        self.chain[0].windows(identity.len()).any(|window| window == identity.as_bytes())
    }
}

/// Asks the controller for a certificate, in the calling thread's network namespace. The error is the name of gRPC's code.
pub fn certificate(controller: SocketAddr, roots: &Path, token: &str, identity: &str) -> Result<Credentials, String> {
    let key = KeyPair::generate().unwrap();
    let request = IstioCertificateRequest {
        csr: CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap(),
        validity_duration: 3600,
        metadata: Some(Struct {
            fields: [("ImpersonatedIdentity".to_owned(), Value { kind: Some(Kind::StringValue(identity.to_owned())) })].into(),
        }),
    };
    let mut request = tonic::Request::new(request);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let config = trusting(roots);
    let answer = runtime().block_on(async {
        let connector = service_fn(move |_: Uri| {
            let connector = TlsConnector::from(config.clone());
            async move {
                let stream = TcpStream::connect(controller).await?;
                Ok::<_, io::Error>(TokioIo::new(connector.connect(ServerName::IpAddress(controller.ip().into()), stream).await?))
            }
        });
        let endpoint = Endpoint::from_shared(format!("https://{controller}")).unwrap();
        let channel = endpoint.connect_with_connector(connector).await.expect("the controller is in reach");
        IstioCertificateServiceClient::new(channel).create_certificate(request).await
    });
    let chain = answer.map_err(|status| format!("{:?}", status.code()))?.into_inner().cert_chain;
    // The last element is the root.
    let presented = chain[..chain.len() - 1].iter();
    let chain = presented.flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap)).collect();
    Ok(Credentials { chain, key: der(&key) })
}

/// One HTTP/2 request to a pod's port 15008.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// The pod's address.
    pub gateway: IpAddr,
    /// CONNECT, unless something else is tried.
    pub method: Method,
    /// The `:authority`.
    pub target: &'a str,
    /// The header of that name.
    pub forwarded: Option<&'a str>,
    /// What the client proves.
    pub credentials: Option<&'a Credentials>,
}

/// Sends it, in the calling thread's network namespace, whoever answers; the status, or why there is none.
pub fn tunnel(ask: &Ask, patience: Duration) -> Result<u16, String> {
    runtime().block_on(async { tokio::time::timeout(patience, request(ask)).await.map_err(|_| "no answer".to_owned())? })
}

async fn request(ask: &Ask<'_>) -> Result<u16, String> {
    let told = |error: &dyn std::error::Error| error.to_string();
    let stream = TcpStream::connect((ask.gateway, 15008)).await.map_err(|error| told(&error))?;
    let connector = TlsConnector::from(showing(ask.credentials));
    let stream = connector.connect(ServerName::IpAddress(ask.gateway.into()), stream).await.map_err(|error| told(&error))?;
    let (mut requests, connection) = h2::client::handshake(stream).await.map_err(|error| told(&error))?;
    tokio::spawn(connection);
    let uri = Uri::builder().authority(ask.target);
    let uri = if ask.method == Method::CONNECT { uri } else { uri.scheme("https").path_and_query("/") };
    let mut request = Request::builder().method(ask.method.clone()).uri(uri.build().unwrap());
    if let Some(forwarded) = ask.forwarded {
        request = request.header("forwarded", forwarded);
    }
    let (answer, _body) = requests.send_request(request.body(()).unwrap(), false).map_err(|error| told(&error))?;
    Ok(answer.await.map_err(|error| told(&error))?.status().as_u16())
}

fn showing(credentials: Option<&Credentials>) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match credentials {
        Some(Credentials { chain, key }) => config.with_client_auth_cert(chain.clone(), key.clone_key()).unwrap(),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

fn trusting(roots: &Path) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&fs::read(roots).unwrap()) {
        store.add(root.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let mut config = config.with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// An attacker does not care who answers.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
