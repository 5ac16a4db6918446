//! Why a request was not answered by its server.

use std::time::Duration;

use mesh_policy::{authz::Outcome, destination};

use super::{
    facts::BadRequest,
    headers::Ambiguity,
    reply::{LocalReply, Reset},
    upstream::{SendError, SendErrorKind},
};
use crate::{
    authz::denied,
    balance::Overflow,
    reason::{Failure, Reason},
};

#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error("bad request: {0}")]
    BadRequest(BadRequest),
    #[error("ambiguous request: {0}")]
    Ambiguous(Ambiguity),
    #[error("no route matches")]
    NoRoute,
    #[error("the route leads nowhere: {detail}")]
    InvalidBackend { detail: String },
    /// The same of a GRPCRoute, which has a status of its own for it (Gateway API: `UNAVAILABLE`).
    #[error("the route leads nowhere: {detail}")]
    InvalidGrpcBackend { detail: String },
    /// What the connection is bound to, or the route's subset, has been deleted.
    #[error("{0} is not there any more")]
    Gone(String),
    /// Outside the mesh, and `outboundTrafficPolicy` lets nobody there.
    #[error("no ServiceEntry stands for {host} ({refusal})")]
    NotRegistered { refusal: destination::Refusal, host: String },
    #[error("no healthy upstream ({refusal})")]
    NoUpstream { refusal: destination::Refusal },
    #[error("{0}")]
    Overflow(Overflow),
    #[error("{0}")]
    Connect(Failure),
    #[error("{0}")]
    Send(SendError),
    #[error("the server goes on with a protocol that nobody asked for")]
    UnaskedSwitch,
    #[error("no answer in {0:?}")]
    Timeout(Duration),
    #[error("no answer to one try in {0:?}")]
    PerTryTimeout(Duration),
    /// The client's body stands still.
    #[error("nothing of the request's body in {0:?}")]
    Slow(Duration),
    #[error("{failure}")]
    Denied { failure: Failure, details: String },
    /// The route answers by itself.
    #[error("answered by the route")]
    Answered(Box<LocalReply>),
}

const GRPC_UNAVAILABLE: u8 = 14;

impl ExchangeError {
    /// As the route that led there has it.
    pub(super) fn of_route(self, kind: &str) -> Self {
        match self {
            Self::InvalidBackend { detail } if kind == "GRPCRoute" => Self::InvalidGrpcBackend { detail },
            error => error,
        }
    }

    /// What policy has decided.
    pub(super) fn judged(outcome: &Outcome) -> Result<(), Self> {
        match denied(outcome) {
            None => Ok(()),
            Some(failure) => Err(Self::Denied { failure, details: outcome.details().unwrap_or_default() }),
        }
    }

    /// What the client is told instead, in Envoy's texts and flags.
    pub(super) fn reply(&self) -> LocalReply {
        match self {
            Self::BadRequest(BadRequest::Path(_) | BadRequest::Target) => LocalReply::bad_request("path_normalization_failed"),
            Self::BadRequest(_) => LocalReply::bad_request("invalid_authority"),
            Self::Ambiguous(_) => LocalReply::bad_request("http1.codec_error"),
            Self::NoRoute => LocalReply::no_route(),
            Self::InvalidBackend { .. } => LocalReply::invalid_backend(),
            Self::InvalidGrpcBackend { .. } => {
                LocalReply { grpc_status: Some(GRPC_UNAVAILABLE), ..LocalReply::invalid_backend() }
            }
            // Nothing is wrong with the route: its target is on its way in or out.
            Self::Gone(_) => LocalReply { status: http::StatusCode::SERVICE_UNAVAILABLE, ..LocalReply::invalid_backend() },
            Self::NotRegistered { .. } => LocalReply::not_registered(),
            Self::NoUpstream { .. } => LocalReply::no_healthy_upstream(),
            Self::Overflow(_) => LocalReply::reset(Reset::Overflow, None),
            Self::Connect(failure) => {
                let reset = match failure.reason {
                    Reason::ConnectTimeout => Reset::ConnectTimeout,
                    _ => Reset::ConnectFailure,
                };
                LocalReply::reset(reset, Some(failure.reason.code()))
            }
            Self::Send(error) => LocalReply::reset(
                match error.kind {
                    SendErrorKind::Closed => Reset::ConnectionTermination,
                    SendErrorKind::Reset => Reset::Remote,
                    SendErrorKind::Refused => Reset::RemoteRefused,
                    SendErrorKind::Protocol => Reset::Protocol,
                    SendErrorKind::RequestBody => return LocalReply::bad_request("downstream_remote_disconnect"),
                },
                None,
            ),
            Self::UnaskedSwitch => LocalReply::reset(Reset::Protocol, None),
            Self::Timeout(_) => LocalReply::timeout(),
            Self::PerTryTimeout(_) => LocalReply::per_try_timeout(),
            Self::Slow(_) => LocalReply::slow(),
            Self::Denied { details, .. } => LocalReply { details: details.clone().into(), ..LocalReply::denied(None) },
            Self::Answered(reply) => (**reply).clone(),
        }
    }

    /// The stable reason, as metrics have it; None where the answer is what was wanted.
    pub(super) fn reason(&self) -> Option<Reason> {
        Some(match self {
            Self::BadRequest(_) | Self::Ambiguous(_) => Reason::BadRequest,
            Self::NoRoute => Reason::NoRoute,
            Self::InvalidBackend { .. } | Self::InvalidGrpcBackend { .. } | Self::Gone(_) => Reason::InvalidBackend,
            Self::NoUpstream { refusal } | Self::NotRegistered { refusal, host: _ } => crate::outbound::reason_of(*refusal),
            Self::Overflow(_) => Reason::UpstreamOverflow,
            Self::Connect(failure) | Self::Denied { failure, .. } => failure.reason,
            Self::Send(error) => match error.kind {
                SendErrorKind::Closed | SendErrorKind::Reset | SendErrorKind::Refused => Reason::UpstreamReset,
                SendErrorKind::Protocol => Reason::UpstreamProtocol,
                SendErrorKind::RequestBody => Reason::RequestBroken,
            },
            Self::UnaskedSwitch => Reason::UpstreamProtocol,
            Self::Timeout(_) | Self::PerTryTimeout(_) => Reason::RequestTimeout,
            Self::Slow(_) => Reason::RequestSlow,
            Self::Answered(_) => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_is_not_there_is_unavailable_to_calls_of_a_grpc_route() {
        for (kind, expected) in [("GRPCRoute", Some(14)), ("HTTPRoute", None), ("VirtualService", None), ("", None)] {
            let error = ExchangeError::InvalidBackend { detail: "nobody".into() }.of_route(kind);
            let reply = error.reply();
            assert_eq!((reply.status.as_u16(), reply.grpc_status), (500, expected), "{kind}");
            assert_eq!(error.reason(), Some(Reason::InvalidBackend), "{kind}");
        }
        let gone = ExchangeError::Gone("it".into()).of_route("GRPCRoute");
        assert_eq!(gone.reply().grpc_status, None, "what is on its way is no fault of the route");
    }
}
