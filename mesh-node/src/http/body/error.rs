//! How a body breaks off.

use std::{error::Error as _, fmt, time::Duration};

use crate::telemetry::Ending;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the sender broke off: {0}")]
    Sender(SenderError),
    /// In HTTP/2, with a word that the receiver may need: what a gRPC call ends with depends on it.
    #[error("the sender reset the stream")]
    Reset(#[source] h2::Error),
    /// HTTP/2's NO_ERROR, which hyper takes for the end of a body, also where the sender has not said so.
    #[error("the sender reset the stream before its end")]
    Cut,
    /// Found out by another attempt, which has told the cause.
    #[error("the sender broke off during an earlier attempt")]
    SenderGone,
    #[error("nothing was sent for {0:?}")]
    Idle(Duration),
    #[error("not sent whole in time")]
    Deadline,
    #[error("a later attempt has taken the request's body over")]
    Superseded,
}

/// Not the source of a [`BodyError`]: hyper tells the next peer the first reason of HTTP/2 that it finds there, and what ended
/// one connection is not the other one's.
#[derive(Debug)]
pub struct SenderError(hyper::Error);

impl fmt::Display for SenderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.source() {
            Some(source) => write!(f, "{}: {source}", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

impl BodyError {
    pub(super) fn of_sender(error: hyper::Error) -> Self {
        let reset = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
        let reset = reset.filter(|error| error.is_reset() && error.is_remote()).and_then(h2::Error::reason);
        match reset {
            // The one would be taken for an end, and the other for leave to ask again.
            None | Some(h2::Reason::NO_ERROR | h2::Reason::REFUSED_STREAM) => Self::Sender(SenderError(error)),
            Some(reason) => Self::Reset(reason.into()),
        }
    }

    pub(super) fn ending(&self) -> Ending {
        match self {
            Self::Sender(_) | Self::Reset(_) | Self::Cut | Self::SenderGone => Ending::Failed,
            Self::Deadline => Ending::TimedOut,
            Self::Idle(_) => Ending::Idle,
            Self::Superseded => Ending::Aborted,
        }
    }
}
