//! Checking a peer's certificate: a chain to the mesh's roots, and exactly one SPIFFE name in a trust domain of ours.
//!
//! Both verifiers share [`Trust::verify`]. Deliberately absent: host names, common names, SNI, revocation lists (a
//! certificate lives for hours), TLS 1.2.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use mesh_policy::model::{Identity, ParseIdentityError, TrustDomain};
use rustls::{
    DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::certificate::{CertificateError, LeafFacts, not_before};

/// A certificate that starts to be valid at most this far in the future is taken: the clocks of two nodes differ. An
/// expired one is never taken.
const CLOCK_SKEW: Duration = Duration::from_mins(15);

/// Trust domains that count as ours beside the own one (MeshConfig `trustDomainAliases`): one list, shared by every
/// certificate, so that a change is in force for the next handshake.
#[derive(Clone, Debug, Default)]
pub struct Aliases(Arc<ArcSwap<Vec<TrustDomain>>>);

impl Aliases {
    pub fn set(&self, aliases: Vec<TrustDomain>) {
        self.0.store(Arc::new(aliases));
    }
}

/// Whom this node believes: root certificates and the trust domains that they may speak for.
pub struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    roots: Vec<CertificateDer<'static>>,
    own: TrustDomain,
    aliases: Aliases,
}

impl Trust {
    pub fn new(roots: Vec<CertificateDer<'static>>, own: TrustDomain, aliases: Aliases) -> Result<Self, CertificateError> {
        let anchor = |root| Ok(anchor_from_trusted_cert(root).map_err(|_| CertificateError::Encoding)?.to_owned());
        let anchors = roots.iter().map(anchor).collect::<Result<_, _>>()?;
        Ok(Self { anchors, roots, own, aliases })
    }

    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The identity that a verified certificate proves.
    pub fn verify(
        &self,
        usage: Usage,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Identity, VerifyError> {
        let facts = LeafFacts::read(leaf)?;
        let aliases = self.aliases.0.load();
        let found = &facts.identity.trust_domain;
        if *found != self.own && !aliases.contains(found) {
            let accepted =
                std::iter::once(&self.own).chain(aliases.iter()).map(TrustDomain::as_str).collect::<Vec<_>>().join(", ");
            return Err(VerifyError::TrustDomain { found: facts.identity, accepted });
        }
        let algorithms = super::tls::provider().signature_verification_algorithms.all;
        let usage = match usage {
            Usage::Server => KeyUsage::server_auth(),
            Usage::Client => KeyUsage::client_auth(),
        };
        let certificate = EndEntityCert::try_from(leaf);
        let certificate = certificate.map_err(|source| VerifyError::from_webpki(&facts, source))?;
        let verify_at =
            |time| certificate.verify_for_usage(algorithms, &self.anchors, intermediates, time, usage, None, None).map(|_| ());
        let verified = match verify_at(now) {
            // Only then are the certificates read again.
            Err(webpki::Error::CertNotValidYet { .. }) => verify_at(with_skew(now, leaf, intermediates)),
            verified => verified,
        };
        verified.map_err(|source| VerifyError::from_webpki(&facts, source))?;
        Ok(facts.identity)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("roots", &self.roots.len())
            .field("own", &self.own)
            .field("aliases", &self.aliases)
            .finish_non_exhaustive()
    }
}

/// Which side of the handshake presents the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
}

/// The time to judge at: now, or up to [`CLOCK_SKEW`] later when a certificate of the chain begins only then.
fn with_skew(now: UnixTime, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> UnixTime {
    let now = Duration::from_secs(now.as_secs());
    let begins = |der: &CertificateDer<'_>| not_before(der)?.duration_since(SystemTime::UNIX_EPOCH).ok();
    let judged = std::iter::once(leaf)
        .chain(intermediates)
        .filter_map(begins)
        .filter(|begins| *begins > now && begins.saturating_sub(now) <= CLOCK_SKEW)
        .fold(now, Duration::max);
    UnixTime::since_unix_epoch(judged)
}

/// The server's side: any identity of the trust domains may come.
#[derive(Debug)]
pub struct AnyPeer {
    trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
}

impl AnyPeer {
    pub fn new(trust: Arc<Trust>) -> Self {
        Self { trust, provider: super::tls::provider() }
    }
}

impl ClientCertVerifier for AnyPeer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.trust.verify(Usage::Client, leaf, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The client's side: the server must be one of a set of identities.
#[derive(Debug)]
pub struct ExpectedPeer {
    trust: Arc<Trust>,
    expected: Vec<Identity>,
    provider: Arc<CryptoProvider>,
}

impl ExpectedPeer {
    /// An empty set matches nobody.
    pub fn new(trust: Arc<Trust>, expected: &[Identity]) -> Self {
        Self { trust, expected: expected.to_vec(), provider: super::tls::provider() }
    }

    fn check(&self, found: Identity) -> Result<(), VerifyError> {
        if self.expected.contains(&found) {
            return Ok(());
        }
        let expected = self.expected.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        Err(VerifyError::Mismatch { expected, found })
    }
}

impl ServerCertVerifier for ExpectedPeer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = self.trust.verify(Usage::Server, leaf, intermediates, now)?;
        self.check(found)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The verified identity of the peer. `None` until the handshake is over.
pub fn peer_identity(connection: &rustls::CommonState) -> Option<Identity> {
    peer_facts(connection).map(|facts| facts.identity)
}

/// What the peer's certificate says, once the handshake is over and a verifier of this module has passed it.
pub fn peer_facts(connection: &rustls::CommonState) -> Option<LeafFacts> {
    if connection.is_handshaking() {
        return None;
    }
    LeafFacts::read(connection.peer_certificates()?.first()?).ok()
}

/// Why a peer's certificate was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("the certificate can not be read")]
    Encoding,
    #[error("the certificate has {found} URI names, exactly one is allowed")]
    UriNames { found: usize },
    #[error("the certificate's URI name is not an identity: {source}")]
    NotAnIdentity { source: ParseIdentityError },
    #[error("{found} is of a trust domain that is not ours ({accepted})")]
    TrustDomain { found: Identity, accepted: String },
    #[error("identity mismatch: expected {expected}, found {found}")]
    Mismatch { expected: String, found: Identity },
    #[error("the certificate of {found} has expired: is a clock wrong, or the renewal failing?")]
    Expired { found: Identity },
    #[error("the certificate of {found} is not valid yet: is a clock wrong?")]
    NotYetValid { found: Identity },
    #[error("the certificate of {found} was not issued by a root of ours")]
    UnknownRoot { found: Identity },
    #[error("the certificate of {found} is an authority's and can not stand for a workload")]
    AuthorityAsLeaf { found: Identity },
    #[error("the chain of {found} does not verify: {cause}")]
    Chain { found: Identity, cause: String },
}

impl VerifyError {
    /// The refusal inside a failed handshake, when a verifier of this module was its cause.
    pub fn in_tls(error: &rustls::Error) -> Option<&Self> {
        match error {
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(OtherError(cause))) => cause.downcast_ref(),
            _ => None,
        }
    }

    fn from_webpki(facts: &LeafFacts, error: webpki::Error) -> Self {
        let found = facts.identity.clone();
        match error {
            webpki::Error::CertExpired { .. } => Self::Expired { found },
            webpki::Error::CertNotValidYet { .. } => Self::NotYetValid { found },
            // A forged chain carries the root's name but not its signature: to us the same as an unknown root.
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => Self::UnknownRoot { found },
            webpki::Error::CaUsedAsEndEntity => Self::AuthorityAsLeaf { found },
            other => Self::Chain { found, cause: other.to_string() },
        }
    }
}

impl From<CertificateError> for VerifyError {
    fn from(error: CertificateError) -> Self {
        match error {
            CertificateError::UriNames { found } => Self::UriNames { found },
            CertificateError::NotAnIdentity { source } => Self::NotAnIdentity { source },
            CertificateError::Pem
            | CertificateError::NoCertificate
            | CertificateError::NoRoot { .. }
            | CertificateError::Encoding
            | CertificateError::MalformedName
            | CertificateError::OtherIdentity { .. }
            | CertificateError::Key
            | CertificateError::Unverified { .. }
            | CertificateError::Tls { .. } => Self::Encoding,
        }
    }
}

impl From<VerifyError> for rustls::Error {
    fn from(error: VerifyError) -> Self {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(OtherError(Arc::new(error))))
    }
}

#[cfg(test)]
mod tests;
