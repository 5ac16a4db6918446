//! rustls, as the mesh uses it: TLS 1.3 only, X25519 and AES-128-GCM first, ALPN `h2`, no resumption, no early data, no
//! SNI.
//!
//! Without resumption a policy or a root that changed holds for every new connection; the pool makes handshakes rare.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use mesh_policy::model::Identity;
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::{
    certificate::{CertificateError, LeafFacts, certificates_in},
    verify::{Aliases, AnyPeer, ExpectedPeer, Trust, Usage},
};

/// The one ALPN protocol of HBONE and of the control plane.
pub const ALPN_H2: &[u8] = b"h2";

/// aws-lc-rs with the mesh's order of preference. AES-128 costs a third less than AES-256 in bulk, and X25519 is the
/// cheapest exchange; the others stay for peers that want them.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let make = || {
        use aws_lc_rs::{cipher_suite, kx_group};
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
            ..aws_lc_rs::default_provider()
        })
    };
    Arc::clone(PROVIDER.get_or_init(make))
}

/// One workload identity with its key, ready for handshakes on either side.
///
/// Immutable: a renewal is a new value, connections that run keep theirs.
pub struct TlsIdentity {
    facts: LeafFacts,
    chain_pem: Vec<String>,
    trust: Arc<Trust>,
    certified: Arc<SingleCertAndKey>,
    server: Arc<ServerConfig>,
}

impl TlsIdentity {
    /// Takes an authority's answer: `chain` is leaf first, the root bundle is the last element (istio.v1.auth,
    /// `CreateCertificate`). The answer must be for `identity`, fit `key`, and verify against its own roots.
    pub fn new(
        identity: &Identity,
        key: PrivateKeyDer<'static>,
        chain: Vec<String>,
        aliases: &Aliases,
    ) -> Result<Self, CertificateError> {
        let [presented @ .., roots] = &chain[..] else { return Err(CertificateError::NoRoot { found: 0 }) };
        if presented.is_empty() {
            return Err(CertificateError::NoRoot { found: chain.len() });
        }
        let roots = certificates_in(roots)?;
        let mut certificates = Vec::new();
        for element in presented {
            certificates.extend(certificates_in(element)?);
        }
        let facts = LeafFacts::read(&certificates[0])?;
        if facts.identity != *identity {
            return Err(CertificateError::OtherIdentity { expected: identity.clone(), found: facts.identity });
        }
        let trust = Arc::new(Trust::new(roots, identity.trust_domain.clone(), aliases.clone())?);
        verify_own(&trust, &facts, &certificates)?;
        let certified = Arc::new(SingleCertAndKey::from(certified_key(certificates, key)?));
        let server = Arc::new(server_config(&trust, &certified)?);
        Ok(Self { facts, chain_pem: chain, trust, certified, server })
    }

    pub fn identity(&self) -> &Identity {
        &self.facts.identity
    }

    pub fn facts(&self) -> &LeafFacts {
        &self.facts
    }

    /// As the authority gave it: leaf first, the root bundle last.
    pub fn chain_pem(&self) -> &[String] {
        &self.chain_pem
    }

    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    pub fn is_expired(&self, now: SystemTime) -> bool {
        now > self.facts.not_after
    }

    /// For accepting HBONE: any identity of the trust domains may come. Made once, shared by all connections.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For one HBONE connection to one of `expected`. A few microseconds: it is made per handshake, not kept.
    pub fn client_config(&self, expected: &[Identity]) -> Result<Arc<ClientConfig>, CertificateError> {
        let verifier = Arc::new(ExpectedPeer::new(Arc::clone(&self.trust), expected));
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| CertificateError::Tls { cause: error.to_string() })?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::clone(&self.certified) as _);
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.enable_early_data = false;
        // For our own records.
        config.enable_secret_extraction = true;
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity").field("facts", &self.facts).finish_non_exhaustive()
    }
}

fn server_config(trust: &Arc<Trust>, certified: &Arc<SingleCertAndKey>) -> Result<ServerConfig, CertificateError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| CertificateError::Tls { cause: error.to_string() })?
        .with_client_cert_verifier(Arc::new(AnyPeer::new(Arc::clone(trust))))
        .with_cert_resolver(Arc::clone(certified) as _);
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.ignore_client_order = true;
    // For our own records.
    config.enable_secret_extraction = true;
    Ok(config)
}

fn certified_key(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<CertifiedKey, CertificateError> {
    let key = provider().key_provider.load_private_key(key).map_err(|_| CertificateError::Key)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| CertificateError::Key)?;
    Ok(certified)
}

/// Judged at the certificate's own beginning: a wrong clock here must not throw a good answer away.
fn verify_own(trust: &Trust, facts: &LeafFacts, chain: &[CertificateDer<'static>]) -> Result<(), CertificateError> {
    let begin = facts.not_before.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    trust
        .verify(Usage::Server, &chain[0], &chain[1..], UnixTime::since_unix_epoch(begin))
        .map(|_| ())
        .map_err(|error| CertificateError::Unverified { cause: error.to_string() })
}
