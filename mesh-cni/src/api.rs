//! The API server, asked for one pod and one namespace: HTTP/1.1 over TLS, with a service account's token.

use std::{io, path::PathBuf, sync::Arc};

use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use mesh_proto::cni::ApiServer;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, version::TLS13};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Kubernetes' objects are smaller than 1.5 MiB.
const LARGEST: usize = 4 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{url:?} is not https://host:port")]
    Url { url: String },
    #[error("{path:?} can not be read")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path:?} has no certificate")]
    Roots { path: PathBuf },
    #[error("rustls refuses the configuration")]
    Tls {
        #[source]
        source: rustls::Error,
    },
    #[error("{authority} can not be reached")]
    Connect {
        authority: String,
        #[source]
        source: io::Error,
    },
    #[error("the TLS handshake with {authority} failed")]
    Handshake {
        authority: String,
        #[source]
        source: io::Error,
    },
    #[error("{authority} broke off")]
    Http {
        authority: String,
        #[source]
        source: hyper::Error,
    },
    #[error("the answer to {path} can not be read: {cause}")]
    Body { path: String, cause: String },
    #[error("{authority} knows nobody by the token")]
    Unauthorized { authority: String },
    #[error("{path} is forbidden: {message}")]
    Forbidden { path: String, message: String },
    #[error("there is no {path}")]
    NotFound { path: String },
    #[error("{path}: {status} {message}")]
    Status { path: String, status: StatusCode, message: String },
    #[error("no answer within {seconds} s")]
    Late { seconds: u64 },
}

impl ApiError {
    /// Whether asking again a moment later may help.
    pub fn passes(&self) -> bool {
        match self {
            Self::Url { .. } | Self::Tls { .. } | Self::Forbidden { .. } | Self::NotFound { .. } => false,
            Self::File { .. }
            | Self::Roots { .. }
            | Self::Connect { .. }
            | Self::Handshake { .. }
            | Self::Http { .. }
            | Self::Body { .. }
            | Self::Unauthorized { .. }
            | Self::Status { .. }
            | Self::Late { .. } => true,
        }
    }

    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Connect { .. } | Self::Http { .. } | Self::Status { .. } | Self::Body { .. } | Self::Late { .. } => {
                "is the API server up, and does kube-proxy run on this node? Pods of exempt namespaces start without it"
            }
            Self::Url { .. } | Self::Tls { .. } => "see --cni-api-server of the node proxy",
            Self::File { .. } | Self::Roots { .. } => {
                "the node proxy writes it: is the pod of keelson-node running on this node? To take the mesh off the cluster: meshctl uninstall"
            }
            Self::Handshake { .. } => {
                "does the cluster's CA (kube-root-ca.crt) sign the API server's certificate for this address?"
            }
            Self::Unauthorized { .. } => {
                "the node proxy renews the token: is the pod of keelson-node running on this node? To take the mesh off the cluster: meshctl uninstall"
            }
            Self::Forbidden { .. } => "may the service account keelson-node get pods and namespaces? `meshctl check` says more",
            Self::NotFound { .. } => "it may have been deleted a moment ago",
        }
    }
}

/// A connection to the API server.
pub struct Api {
    requests: http1::SendRequest<Empty<Bytes>>,
    authority: String,
    bearer: String,
}

impl Api {
    /// Connects. Needs a runtime, on which the connection is driven.
    pub async fn connect(server: &ApiServer) -> Result<Self, ApiError> {
        let (authority, host, port) = address(&server.server)?;
        let name = ServerName::try_from(host.clone()).map_err(|_| ApiError::Url { url: server.server.clone() })?;
        let token = read(&server.token)?;
        let config = Arc::new(client_config(server)?);
        let tcp = TcpStream::connect((host.as_str(), port))
            .await
            .map_err(|source| ApiError::Connect { authority: authority.clone(), source })?;
        let tls = TlsConnector::from(config)
            .connect(name, tcp)
            .await
            .map_err(|source| ApiError::Handshake { authority: authority.clone(), source })?;
        let (requests, connection) = http1::handshake(TokioIo::new(tls))
            .await
            .map_err(|source| ApiError::Http { authority: authority.clone(), source })?;
        // Ends with the last request's handle; what goes wrong is told by the request.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { requests, authority, bearer: format!("Bearer {}", token.trim()) })
    }

    /// Reads one object. `path` begins with a slash.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ApiError> {
        let broke = |source| ApiError::Http { authority: self.authority.clone(), source };
        let body = |cause: String| ApiError::Body { path: path.to_owned(), cause };
        let request = Request::get(path)
            .header(header::HOST, &self.authority)
            .header(header::AUTHORIZATION, &self.bearer)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("keelson-cni/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| body(error.to_string()))?;
        let response = self.requests.send_request(request).await.map_err(broke)?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), LARGEST).collect().await.map_err(|error| body(error.to_string()))?;
        let bytes = bytes.to_bytes();
        if status == StatusCode::OK {
            return serde_json::from_slice(&bytes).map_err(|error| body(error.to_string()));
        }
        Err(refusal(status, path, &self.authority, &bytes))
    }
}

/// Kubernetes explains itself in an object of kind Status.
fn refusal(status: StatusCode, path: &str, authority: &str, body: &[u8]) -> ApiError {
    #[derive(Deserialize)]
    struct Said {
        message: String,
    }
    let message = || serde_json::from_slice(body).map_or_else(|_| String::new(), |Said { message }| message);
    let path = path.to_owned();
    match status {
        StatusCode::UNAUTHORIZED => ApiError::Unauthorized { authority: authority.to_owned() },
        StatusCode::FORBIDDEN => ApiError::Forbidden { path, message: message() },
        StatusCode::NOT_FOUND => ApiError::NotFound { path },
        status => ApiError::Status { path, status, message: message() },
    }
}

/// Authority, host without brackets, and port.
fn address(url: &str) -> Result<(String, String, u16), ApiError> {
    let wrong = || ApiError::Url { url: url.to_owned() };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    if uri.scheme_str() != Some("https") {
        return Err(wrong());
    }
    let authority = uri.authority().ok_or_else(wrong)?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((authority.to_string(), host, authority.port_u16().unwrap_or(443)))
}

fn client_config(server: &ApiServer) -> Result<ClientConfig, ApiError> {
    let pem = read(&server.ca)?;
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
    if roots.add_parsable_certificates(found).0 == 0 {
        return Err(ApiError::Roots { path: server.ca.clone() });
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|source| ApiError::Tls { source })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

fn read(path: &std::path::Path) -> Result<String, ApiError> {
    std::fs::read_to_string(path).map_err(|source| ApiError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_named_by_url() {
        let of = |url| address(url).ok();
        let is = |authority: &str, host: &str, port| Some((authority.to_owned(), host.to_owned(), port));
        assert_eq!(of("https://10.96.0.1:443"), is("10.96.0.1:443", "10.96.0.1", 443));
        assert_eq!(of("https://[fd00::1]:6443"), is("[fd00::1]:6443", "fd00::1", 6443));
        assert_eq!(of("https://api.example"), is("api.example", "api.example", 443));
        for bad in ["http://10.96.0.1", "10.96.0.1:443", "", "https://"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let told = |status| refusal(status, "/p", "a", br#"{ "kind": "Status", "message": "why" }"#);
        assert!(told(StatusCode::UNAUTHORIZED).passes());
        assert!(!told(StatusCode::FORBIDDEN).passes());
        assert_eq!(told(StatusCode::FORBIDDEN).to_string(), "/p is forbidden: why");
        assert!(!told(StatusCode::NOT_FOUND).passes());
        assert_eq!(told(StatusCode::TOO_MANY_REQUESTS).to_string(), "/p: 429 Too Many Requests why");
    }
}
