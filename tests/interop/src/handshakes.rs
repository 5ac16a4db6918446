//! Mutual TLS 1.3 handshakes and nothing else: with a peer over TCP, and of rustls with itself in memory.

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use harness::envoy::config::Credentials;
use mesh_node::identity::{
    TlsIdentity,
    tls::{ALPN_H2, provider},
};
use mesh_policy::model::Identity;
use rcgen::SanType;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    client::Resumption,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::certificates::ThrowAway;

/// What a client of HTTP/2 says first, with empty SETTINGS (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// How many handshakes were made, in how long.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub handshakes: u64,
    pub seconds: f64,
}

/// New connections to `target`, a handshake on each, `at_once` at the same time. The peer must prove `peer`.
pub fn with_peer(
    target: SocketAddr,
    own: &Credentials,
    identity: &Identity,
    peer: &Identity,
    at_once: usize,
    time: Duration,
) -> Result<Rate> {
    let chain = vec![fs::read_to_string(&own.chain)?, fs::read_to_string(&own.roots)?];
    let key = PrivateKeyDer::from_pem_file(&own.key).context("the private key is not readable")?;
    let config = TlsIdentity::new(identity, key, chain, &mesh_node::identity::Aliases::default())?
        .client_config(std::slice::from_ref(peer))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let begin = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..at_once {
            let connector = TlsConnector::from(config.clone());
            tasks.spawn(async move {
                let mut count = 0;
                while begin.elapsed() < time {
                    let tcp = TcpStream::connect(target).await.with_context(|| format!("nobody at {target}"))?;
                    tcp.set_nodelay(true)?;
                    let mut tls = connector.connect(ServerName::IpAddress(target.ip().into()), tcp).await?;
                    // The client has finished first; one byte of the server's SETTINGS says that it has finished too.
                    tls.write_all(PREFACE).await?;
                    tls.read_exact(&mut [0]).await?;
                    count += 1;
                }
                anyhow::Ok(count)
            });
        }
        let mut handshakes = 0;
        while let Some(count) = tasks.join_next().await {
            handshakes += count??;
        }
        Ok(Rate { handshakes, seconds: begin.elapsed().as_secs_f64() })
    })
}

/// Both ends in this thread, bytes handed over in memory, rustls' own verifiers: the most that can be had of rustls.
pub fn in_memory(time: Duration) -> Result<Rate> {
    let (client, server) = configurations()?;
    let name = ServerName::try_from("peer.test").expect("the name is valid");
    let (begin, mut handshakes) = (Instant::now(), 0);
    while begin.elapsed() < time {
        let mut client = ClientConnection::new(client.clone(), name.clone())?;
        let mut server = ServerConnection::new(server.clone())?;
        while client.is_handshaking() || server.is_handshaking() {
            let moved = hand_over(&mut client, &mut server)? + hand_over(&mut server, &mut client)?;
            if moved == 0 {
                bail!("the handshake hangs");
            }
        }
        handshakes += 1;
    }
    Ok(Rate { handshakes, seconds: begin.elapsed().as_secs_f64() })
}

fn hand_over<A, B>(from: &mut rustls::ConnectionCommon<A>, to: &mut rustls::ConnectionCommon<B>) -> Result<usize>
where
    A: rustls::SideData,
    B: rustls::SideData,
{
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes)?;
    }
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        to.read_tls(&mut rest)?;
        to.process_new_packets()?;
    }
    Ok(bytes.len())
}

fn configurations() -> Result<(Arc<ClientConfig>, Arc<ServerConfig>)> {
    let authority = ThrowAway::new()?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.root().as_bytes())?)?;
    let roots = Arc::new(roots);
    let issue = || -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let (chain, key) = authority.issue(vec![SanType::DnsName("peer.test".try_into()?)])?;
        Ok((vec![CertificateDer::from_pem_slice(chain.as_bytes())?], PrivateKeyDer::from_pem_slice(key.as_bytes())?))
    };
    let (chain, key) = issue()?;
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain, key)?;
    client.alpn_protocols = vec![ALPN_H2.to_vec()];
    client.resumption = Resumption::disabled();
    let (chain, key) = issue()?;
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?)
        .with_single_cert(chain, key)?;
    server.alpn_protocols = vec![ALPN_H2.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok((Arc::new(client), Arc::new(server)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustls_shakes_hands_with_itself() {
        assert!(in_memory(Duration::from_millis(1)).unwrap().handshakes > 0);
    }
}
