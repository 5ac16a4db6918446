//! The ways in which a request can end.

use std::{error::Error, io, process::ExitCode};

use serde::Serialize;

/// What became of a request, as the socket told it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// An answer came, of whatever status.
    #[default]
    Ok,
    /// A connection stood, and no more was asked.
    Connected,
    /// An HTTP status of 400 or more, where that counts as failure.
    Status,
    /// RST to the SYN.
    Refused,
    /// RST later.
    Reset,
    /// The peer ended before its answer was complete.
    Eof,
    /// Nothing happened for too long.
    Timeout,
    /// ICMP said that nobody is there, or no route exists.
    Unreachable,
    /// The kernel forbade it (EPERM, EACCES).
    Denied,
    /// A name that stands for no address.
    Resolve,
    /// No local address or port was left.
    Exhausted,
    /// The answer was not what the protocol says.
    Protocol,
    /// Anything else.
    Other,
}

impl Outcome {
    pub(crate) fn good(self) -> bool {
        matches!(self, Self::Ok | Self::Connected)
    }

    /// The same word as in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Connected => "connected",
            Self::Status => "status",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Eof => "eof",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::Resolve => "resolve",
            Self::Exhausted => "exhausted",
            Self::Protocol => "protocol",
            Self::Other => "other",
        }
    }

    /// 22 for a status, as curl has it; the rest from 10 up, in the order of the list.
    pub(crate) fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Ok | Self::Connected => 0,
            Self::Status => 22,
            Self::Refused => 10,
            Self::Reset => 11,
            Self::Eof => 12,
            Self::Timeout => 13,
            Self::Unreachable => 14,
            Self::Denied => 15,
            Self::Resolve => 16,
            Self::Exhausted => 17,
            Self::Protocol => 18,
            Self::Other => 19,
        })
    }
}

/// Why a request failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) outcome: Outcome,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(outcome: Outcome, text: impl Into<String>) -> Self {
        Self { outcome, text: text.into() }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(classify(&error), error.to_string())
    }
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        let mut text = error.to_string();
        let mut cause: Option<&dyn Error> = error.source();
        let mut outcome = if error.is_incomplete_message() { Outcome::Eof } else { Outcome::Protocol };
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            if let Some(error) = inner.downcast_ref::<io::Error>() {
                outcome = classify(error);
            }
            cause = inner.source();
        }
        Self { outcome, text }
    }
}

fn classify(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => Outcome::Reset,
        io::ErrorKind::UnexpectedEof => Outcome::Eof,
        io::ErrorKind::TimedOut => Outcome::Timeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Outcome::Unreachable,
        io::ErrorKind::PermissionDenied => Outcome::Denied,
        io::ErrorKind::AddrNotAvailable => Outcome::Exhausted,
        _ => Outcome::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_socket_have_names() {
        let check = |number: i32, expected: Outcome| {
            let failure = Failure::from(io::Error::from_raw_os_error(number));
            assert_eq!(failure.outcome, expected, "{}", failure.text);
            assert_eq!(serde_json::to_value(expected).unwrap(), expected.name());
        };
        check(111, Outcome::Refused);
        check(104, Outcome::Reset);
        check(110, Outcome::Timeout);
        check(113, Outcome::Unreachable);
        check(101, Outcome::Unreachable);
        check(1, Outcome::Denied);
        check(99, Outcome::Exhausted);
        check(5, Outcome::Other);
    }
}
