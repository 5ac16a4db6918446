//! Why a tunnel or a stream in it did not come about.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    identity::{CertificateError, VerifyError},
    reason::Reason,
};

/// A failure on the opening side. Cheap to clone: everybody who waited for the same handshake gets it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HboneError {
    #[error("{address} can not be reached: is its node down, or a NetworkPolicy closing the port?")]
    Dial {
        address: SocketAddr,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("the TLS handshake with {address} failed")]
    Tls {
        address: SocketAddr,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("{address} refused our certificate: does it trust our root?")]
    RefusedByPeer {
        address: SocketAddr,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("{address} is not whom we look for")]
    Peer {
        address: SocketAddr,
        #[source]
        source: VerifyError,
    },
    #[error("{address} did not finish the handshake in {after:?}")]
    HandshakeTimeout { address: SocketAddr, after: Duration },
    #[error("no tunnel to {address} had a place in {after:?}")]
    NoPlace { address: SocketAddr, after: Duration },
    #[error("{address} does not offer HTTP/2")]
    NoHttp2 { address: SocketAddr },
    #[error("HTTP/2 with {address} failed")]
    Http2 {
        address: SocketAddr,
        #[source]
        source: Arc<h2::Error>,
    },
    #[error("{authority} is denied by the destination's policy")]
    Denied { authority: String },
    #[error("the destination's node can not reach {authority}")]
    Unreachable { authority: String },
    #[error("the destination's node does not take {authority} for a target of its own")]
    BadTarget { authority: String },
    #[error("the destination's node answered {status} for {authority}")]
    Status { authority: String, status: u16 },
    #[error("no answer for {authority} in {after:?}")]
    NoAnswer { authority: String, after: Duration },
    #[error("the stream for {authority} was reset before an answer: {code}")]
    Reset { authority: String, code: h2::Reason },
    #[error("the tunnel to {address} closed: {cause}")]
    Closed { address: SocketAddr, cause: String },
    #[error("the request for {authority:?} can not be written")]
    Request { authority: String },
    #[error("our own TLS configuration is refused")]
    Config {
        #[source]
        source: CertificateError,
    },
}

impl HboneError {
    pub fn reason(&self) -> Reason {
        match self {
            Self::Dial { .. } | Self::NoPlace { .. } => Reason::PeerUnreachable,
            Self::Tls { .. } | Self::RefusedByPeer { .. } | Self::HandshakeTimeout { .. } => Reason::TlsHandshake,
            Self::Peer { source, .. } => match source {
                VerifyError::Mismatch { .. } => Reason::IdentityMismatch,
                VerifyError::Encoding
                | VerifyError::UriNames { .. }
                | VerifyError::NotAnIdentity { .. }
                | VerifyError::TrustDomain { .. }
                | VerifyError::Expired { .. }
                | VerifyError::NotYetValid { .. }
                | VerifyError::UnknownRoot { .. }
                | VerifyError::AuthorityAsLeaf { .. }
                | VerifyError::Chain { .. } => Reason::TlsHandshake,
            },
            Self::NoHttp2 { .. } | Self::Http2 { .. } => Reason::H2Handshake,
            Self::Denied { .. } => Reason::ConnectDenied,
            Self::Unreachable { .. } | Self::Status { .. } | Self::NoAnswer { .. } | Self::Reset { .. } => {
                Reason::ConnectUnreachable
            }
            Self::BadTarget { .. } => Reason::BadTarget,
            Self::Closed { .. } => Reason::TunnelClosed,
            Self::Request { .. } | Self::Config { .. } => Reason::Internal,
        }
    }

    /// Whether the same request may go into another tunnel at once. No byte of the application was sent, so nothing can be
    /// doubled.
    pub(super) fn is_stale_tunnel(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }
}
