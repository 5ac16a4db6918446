//! A line of a log by Envoy's command operators: `%REQ(:METHOD)% %RESPONSE_CODE%`.

use std::{fmt, sync::Arc};

use http::HeaderName;
use serde::{Deserialize, Serialize};

/// Bytes of a format's text.
const MAX_SOURCE: usize = 8192;

/// A format, read. Equal if the texts are.
#[derive(Clone)]
pub struct LogLine {
    source: Arc<str>,
    pieces: Arc<[LogPiece]>,
    unknown: Arc<[Arc<str>]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogPiece {
    Text(Box<str>),
    /// And the most characters of it that are written.
    Operator(Operator, Option<usize>),
}

/// What is written in its place; `-` where there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// One that is not known here.
    Unknown,
    StartTime,
    Method,
    /// As it came, before a rewrite.
    OriginalPath,
    Path,
    Authority,
    Scheme,
    /// The first of these headers of the request that is there.
    Request(HeaderName, Option<HeaderName>),
    Response(HeaderName, Option<HeaderName>),
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    ResponseFlags,
    UpstreamTransportFailureReason,
    BytesReceived,
    BytesSent,
    Duration,
    UpstreamHost,
    UpstreamCluster,
    UpstreamLocalAddress,
    DownstreamLocalAddress,
    DownstreamLocalAddressWithoutPort,
    DownstreamLocalPort,
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    DownstreamPeerUriSan,
    DownstreamLocalUriSan,
    RequestedServerName,
    RouteName,
    GrpcStatus,
    TraceId,
    SpanId,
}

/// The text is no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogLineError {
    #[error("the format has {found} bytes, more than {MAX_SOURCE}")]
    TooLong { found: usize },
    #[error("a % is left open at byte {at}; a percent sign itself is written %%")]
    Open { at: usize },
    #[error("{operator:?} is no operator such as %REQ(USER-AGENT)% or %REQ(USER-AGENT):80%")]
    Form { operator: String },
}

impl LogLine {
    pub fn new(source: &str) -> Result<Self, LogLineError> {
        if source.len() > MAX_SOURCE {
            return Err(LogLineError::TooLong { found: source.len() });
        }
        let (mut pieces, mut unknown, mut text) = (Vec::new(), Vec::new(), String::new());
        let mut rest = source;
        while let Some(start) = rest.find('%') {
            text.push_str(&rest[..start]);
            let behind = &rest[start + 1..];
            if let Some(after) = behind.strip_prefix('%') {
                text.push('%');
                rest = after;
                continue;
            }
            let end = end_of(behind).ok_or(LogLineError::Open { at: source.len() - rest.len() + start })?;
            let (operator, most) = operator(&behind[..end])?;
            if operator == Operator::Unknown {
                unknown.push(Arc::from(&behind[..end]));
            }
            if !text.is_empty() {
                pieces.push(LogPiece::Text(std::mem::take(&mut text).into()));
            }
            pieces.push(LogPiece::Operator(operator, most));
            rest = &behind[end + 1..];
        }
        text.push_str(rest);
        if !text.is_empty() {
            pieces.push(LogPiece::Text(text.into()));
        }
        Ok(Self { source: source.into(), pieces: pieces.into(), unknown: unknown.into() })
    }

    pub fn as_str(&self) -> &str {
        &self.source
    }

    pub fn pieces(&self) -> &[LogPiece] {
        &self.pieces
    }

    /// Operators that are written `-`, because they are not known here.
    pub fn unknown(&self) -> &[Arc<str>] {
        &self.unknown
    }

    /// Headers of requests that it writes.
    pub fn request_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.operators()
            .flat_map(|operator| match operator {
                Operator::Request(first, second) => [Some(first), second.as_ref()],
                _ => [None, None],
            })
            .flatten()
    }

    pub fn response_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.operators()
            .flat_map(|operator| match operator {
                Operator::Response(first, second) => [Some(first), second.as_ref()],
                _ => [None, None],
            })
            .flatten()
    }

    fn operators(&self) -> impl Iterator<Item = &Operator> {
        self.pieces.iter().filter_map(|piece| match piece {
            LogPiece::Operator(operator, _) => Some(operator),
            LogPiece::Text(_) => None,
        })
    }
}

/// Where the operator ends: a `%` that is not within its parentheses.
fn end_of(text: &str) -> Option<usize> {
    let mut inside = false;
    text.char_indices().find_map(|(at, letter)| {
        match letter {
            '(' => inside = true,
            ')' => inside = false,
            '%' if !inside => return Some(at),
            _ => {}
        }
        None
    })
}

/// `NAME`, `NAME(ARGUMENT)`, `NAME(ARGUMENT):LENGTH`.
fn operator(text: &str) -> Result<(Operator, Option<usize>), LogLineError> {
    let wrong = || LogLineError::Form { operator: text.chars().take(128).collect() };
    let (call, most) = match text.rsplit_once(':') {
        Some((call, digits)) if call.ends_with(')') || !call.contains('(') => {
            (call, Some(digits.parse::<usize>().map_err(|_| wrong())?))
        }
        _ => (text, None),
    };
    let (name, argument) = match call.split_once('(') {
        Some((name, rest)) => (name, rest.strip_suffix(')').ok_or_else(wrong)?),
        None => (call, ""),
    };
    let known = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    if name.is_empty() || !name.bytes().all(known) {
        return Err(wrong());
    }
    let operator = match name {
        "REQ" => request(argument).ok_or_else(wrong)?,
        "RESP" => {
            let (first, second) = headers(argument).ok_or_else(wrong)?;
            Operator::Response(first, second)
        }
        _ if !argument.is_empty() => Operator::Unknown,
        "START_TIME" => Operator::StartTime,
        "PROTOCOL" => Operator::Protocol,
        "RESPONSE_CODE" => Operator::ResponseCode,
        "RESPONSE_CODE_DETAILS" => Operator::ResponseCodeDetails,
        "CONNECTION_TERMINATION_DETAILS" => Operator::ConnectionTerminationDetails,
        "RESPONSE_FLAGS" => Operator::ResponseFlags,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Operator::UpstreamTransportFailureReason,
        "BYTES_RECEIVED" => Operator::BytesReceived,
        "BYTES_SENT" => Operator::BytesSent,
        "DURATION" => Operator::Duration,
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Operator::UpstreamHost,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Operator::UpstreamCluster,
        "UPSTREAM_LOCAL_ADDRESS" => Operator::UpstreamLocalAddress,
        "DOWNSTREAM_LOCAL_ADDRESS" => Operator::DownstreamLocalAddress,
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Operator::DownstreamLocalAddressWithoutPort,
        "DOWNSTREAM_LOCAL_PORT" => Operator::DownstreamLocalPort,
        "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Operator::DownstreamRemoteAddress,
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
            Operator::DownstreamRemoteAddressWithoutPort
        }
        "DOWNSTREAM_PEER_URI_SAN" => Operator::DownstreamPeerUriSan,
        "DOWNSTREAM_LOCAL_URI_SAN" => Operator::DownstreamLocalUriSan,
        "REQUESTED_SERVER_NAME" => Operator::RequestedServerName,
        "ROUTE_NAME" => Operator::RouteName,
        "GRPC_STATUS" | "GRPC_STATUS_NUMBER" => Operator::GrpcStatus,
        "TRACE_ID" => Operator::TraceId,
        "SPAN_ID" => Operator::SpanId,
        _ => Operator::Unknown,
    };
    Ok((operator, most))
}

fn request(argument: &str) -> Option<Operator> {
    Some(match argument.to_ascii_lowercase().as_str() {
        ":method" => Operator::Method,
        ":path" => Operator::Path,
        ":authority" | "host" => Operator::Authority,
        ":scheme" => Operator::Scheme,
        "x-envoy-original-path?:path" => Operator::OriginalPath,
        _ => {
            let (first, second) = headers(argument)?;
            Operator::Request(first, second)
        }
    })
}

/// `X`, or `X?Y`.
fn headers(argument: &str) -> Option<(HeaderName, Option<HeaderName>)> {
    let name = |text: &str| HeaderName::from_bytes(text.as_bytes()).ok();
    match argument.split_once('?') {
        Some((first, second)) => Some((name(first)?, Some(name(second)?))),
        None => Some((name(argument)?, None)),
    }
}

impl PartialEq for LogLine {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for LogLine {}

impl fmt::Debug for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, f)
    }
}

impl Serialize for LogLine {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

impl<'de> Deserialize<'de> for LogLine {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let source = String::deserialize(deserializer)?;
        Self::new(&source).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_into_pieces() {
        let line = LogLine::new("[%START_TIME%] 100%% %REQ(X-A?X-B):8% %WHAT_IS_IT% %START_TIME(%s)% end").unwrap();
        let text = |text: &str| LogPiece::Text(text.into());
        let operator = |operator| LogPiece::Operator(operator, None);
        let (a, b) = (HeaderName::from_static("x-a"), HeaderName::from_static("x-b"));
        let pieces = [
            text("["),
            operator(Operator::StartTime),
            text("] 100% "),
            LogPiece::Operator(Operator::Request(a.clone(), Some(b.clone())), Some(8)),
            text(" "),
            operator(Operator::Unknown),
            text(" "),
            operator(Operator::Unknown),
            text(" end"),
        ];
        assert_eq!(line.pieces(), pieces);
        assert_eq!(line.unknown(), [Arc::from("WHAT_IS_IT"), Arc::from("START_TIME(%s)")]);
        assert_eq!(line.request_headers().collect::<Vec<_>>(), [&a, &b]);
        let path = LogLine::new("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%").unwrap();
        assert_eq!(path.pieces(), [operator(Operator::OriginalPath)]);
    }

    #[test]
    fn what_is_no_format_is_refused() {
        for wrong in ["100%", "%REQ(X-A", "%REQ()%", "%REQ(a b)%", "%%%", "% %", "%REQ(X-A):x%", "%lower%"] {
            assert!(LogLine::new(wrong).is_err(), "{wrong}: {:?}", LogLine::new(wrong));
        }
        assert!(LogLine::new(&"x".repeat(9000)).is_err());
    }
}
