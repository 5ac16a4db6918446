//! The gRPC channel to the controller: HTTP/2 over the mesh's own rustls.
//!
//! The server is checked by name (a DNS or IP subject alternative name) against a root file. The client shows no certificate: a
//! bearer token goes with each call. Roots are read again for every connection, so a rotated root needs no restart.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, client::Resumption, client::WebPkiServerVerifier, version::TLS13};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::{
    certificate::{CertificateError, certificates_in},
    tls::{ALPN_H2, provider},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// What the controller's certificate must chain to.
#[derive(Clone, Debug)]
pub enum ChannelRoots {
    /// A PEM file, read for each connection.
    File(PathBuf),
    /// PEM text.
    Pem(String),
}

/// Why there can be no channel, or no connection.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("{url:?} is not https://host:port")]
    Url { url: String },
    #[error("the root file {path} can not be read")]
    RootFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the roots are of no use")]
    Roots {
        #[source]
        source: CertificateError,
    },
    #[error("rustls refuses the configuration: {cause}")]
    Tls { cause: String },
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
}

/// A channel to `url` (`https://host[:port]`), connected at the first call and again after each loss.
///
/// Must be called inside a runtime.
pub fn channel(url: &str, roots: ChannelRoots) -> Result<Channel, ChannelError> {
    let bad_url = || ChannelError::Url { url: url.to_owned() };
    let uri: Uri = url.parse().map_err(|_| bad_url())?;
    if uri.scheme_str() != Some("https") || uri.host().is_none() {
        return Err(bad_url());
    }
    let endpoint = Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let connector = service_fn(move |uri: Uri| {
        let roots = roots.clone();
        async move { connect(&uri, &roots).await.map(TokioIo::new) }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

async fn connect(uri: &Uri, roots: &ChannelRoots) -> Result<TlsStream<TcpStream>, ChannelError> {
    let bad_url = || ChannelError::Url { url: uri.to_string() };
    // In a URI an IPv6 address has brackets; as a server name it has none.
    let host = uri.host().ok_or_else(bad_url)?.trim_start_matches('[').trim_end_matches(']');
    let authority = format!("{host}:{}", uri.port_u16().unwrap_or(443));
    let name = ServerName::try_from(host.to_owned()).map_err(|_| bad_url())?;
    let config = client_config(roots)?;
    let tcp = TcpStream::connect((host, uri.port_u16().unwrap_or(443)))
        .await
        .map_err(|source| ChannelError::Connect { authority: authority.clone(), source })?;
    // Only a speed-up.
    let _ = tcp.set_nodelay(true);
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|source| ChannelError::Handshake { authority, source })
}

fn client_config(roots: &ChannelRoots) -> Result<ClientConfig, ChannelError> {
    let pem = match roots {
        ChannelRoots::File(path) => {
            std::fs::read_to_string(path).map_err(|source| ChannelError::RootFile { path: path.clone(), source })?
        }
        ChannelRoots::Pem(pem) => pem.clone(),
    };
    let mut store = RootCertStore::empty();
    for root in certificates_in(&pem).map_err(|source| ChannelError::Roots { source })? {
        store.add(root).map_err(|_| ChannelError::Roots { source: CertificateError::Encoding })?;
    }
    let tls = |error: &dyn std::error::Error| ChannelError::Tls { cause: error.to_string() };
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider()).build().map_err(|error| tls(&error))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| tls(&error))?
        .with_webpki_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[cfg(test)]
mod tests;
