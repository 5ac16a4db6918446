//! Answers that the proxy gives itself, in Envoy's words.
//!
//! To a gRPC request the answer is gRPC's: 200 with no body, the status in `grpc-status` and the text in `grpc-message`. To any
//! other it is the status with the text as a plain body, which HEAD leaves out.

use std::borrow::Cow;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION},
};
use mesh_policy::model::{AbortWith, DirectResponse};

use super::{
    body::{Body, speaks_grpc},
    headers::X_ENVOY_OVERLOADED,
};
use crate::telemetry::{RequestRecord, ResponseFlags};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// An answer of our own, and what log and metrics say of it.
#[derive(Clone, Debug)]
pub struct LocalReply {
    pub status: StatusCode,
    pub text: Bytes,
    /// In place of what the HTTP status means to gRPC.
    pub grpc_status: Option<u8>,
    pub flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    pub headers: HeaderMap,
}

/// Why an endpoint gave no answer, in the words of Envoy's reset reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// No connection.
    ConnectFailure,
    /// No connection in time.
    ConnectTimeout,
    /// The connection ended before the answer began.
    ConnectionTermination,
    /// The endpoint reset the stream.
    Remote,
    /// The endpoint did not even begin (HTTP/2 REFUSED_STREAM, GOAWAY).
    RemoteRefused,
    /// The endpoint broke the protocol.
    Protocol,
    /// A circuit breaker is open.
    Overflow,
}

impl Reset {
    /// As in bodies and details.
    pub fn text(self) -> &'static str {
        match self {
            Self::ConnectFailure => "remote connection failure",
            Self::ConnectTimeout => "connection timeout",
            Self::ConnectionTermination => "connection termination",
            Self::Remote => "remote reset",
            Self::RemoteRefused => "remote refused stream reset",
            Self::Protocol => "protocol error",
            Self::Overflow => "overflow",
        }
    }

    pub fn flags(self) -> ResponseFlags {
        match self {
            Self::ConnectFailure | Self::ConnectTimeout => ResponseFlags::UPSTREAM_CONNECT_FAILURE,
            Self::ConnectionTermination => ResponseFlags::UPSTREAM_CLOSED,
            Self::Remote | Self::RemoteRefused => ResponseFlags::UPSTREAM_RESET,
            Self::Protocol => ResponseFlags::UPSTREAM_PROTOCOL,
            Self::Overflow => ResponseFlags::UPSTREAM_OVERFLOW,
        }
    }
}

impl LocalReply {
    pub fn new(status: StatusCode, text: impl Into<Bytes>, flags: ResponseFlags, details: impl Into<Cow<'static, str>>) -> Self {
        Self { status, text: text.into(), grpc_status: None, flags, details: details.into(), headers: HeaderMap::new() }
    }

    /// The request itself is not right; `details` such as `path_normalization_failed`.
    pub fn bad_request(details: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "", ResponseFlags::NONE, details)
    }

    /// There are rules, and none matches.
    pub fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "", ResponseFlags::NO_ROUTE, "route_not_found")
    }

    /// The rule leads nowhere: a backend that is not there or may not be used, or weights that are all zero (Gateway API).
    pub fn invalid_backend() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "", ResponseFlags::NO_CLUSTER, "cluster_not_found")
    }

    /// The host is nobody's that the mesh knows, and nothing else may be reached (Istio's `BlackHoleCluster`).
    pub fn not_registered() -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "", ResponseFlags::NONE, "direct_response")
    }

    pub fn no_healthy_upstream() -> Self {
        let flags = ResponseFlags::NO_HEALTHY_UPSTREAM;
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream", flags, "no_healthy_upstream")
    }

    /// The last try ended without an answer. `cause` is what the transport said, in a few words of our own.
    pub fn reset(reset: Reset, cause: Option<&str>) -> Self {
        let mut text = format!("upstream connect error or disconnect/reset before headers. reset reason: {}", reset.text());
        let mut details = format!("upstream_reset_before_response_started{{{}", reset.text().replace(' ', "_"));
        if let Some(cause) = cause {
            text += &format!(", transport failure reason: {cause}");
            details += &format!("|{}", cause.replace(char::is_whitespace, "_"));
        }
        let mut reply = Self::new(StatusCode::SERVICE_UNAVAILABLE, text, reset.flags(), details + "}");
        if reset == Reset::Protocol {
            reply.status = StatusCode::BAD_GATEWAY;
        }
        if reset == Reset::Overflow {
            reply.headers.insert(X_ENVOY_OVERLOADED, HeaderValue::from_static("true"));
        }
        reply
    }

    /// The route's timeout.
    pub fn timeout() -> Self {
        let flags = ResponseFlags::UPSTREAM_TIMEOUT;
        Self::new(StatusCode::GATEWAY_TIMEOUT, "upstream request timeout", flags, "response_timeout")
    }

    /// The last try's own timeout.
    pub fn per_try_timeout() -> Self {
        let flags = ResponseFlags::UPSTREAM_TIMEOUT;
        Self::new(StatusCode::GATEWAY_TIMEOUT, "upstream request timeout", flags, "upstream_per_try_timeout")
    }

    /// The client sends nothing more of its request.
    pub fn slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "stream timeout", ResponseFlags::STREAM_IDLE, "stream_idle_timeout")
    }

    pub fn fault(with: AbortWith) -> Self {
        let (status, grpc_status) = match with {
            AbortWith::Http(status) => (StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE), None),
            AbortWith::Grpc(status) => (StatusCode::OK, Some(status)),
        };
        let reply = Self::new(status, "fault filter abort", ResponseFlags::FAULT_INJECTED, "fault_filter_abort");
        Self { grpc_status, ..reply }
    }

    /// `policy` is the one that refused, `none` where no ALLOW matched.
    pub fn denied(policy: Option<&str>) -> Self {
        let details = format!("rbac_access_denied_matched_policy[{}]", policy.unwrap_or("none"));
        Self::new(StatusCode::FORBIDDEN, "RBAC: access denied", ResponseFlags::NONE, details)
    }

    /// The route answers itself.
    pub fn direct(response: &DirectResponse) -> Self {
        let status = StatusCode::from_u16(response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::new(status, Bytes::copy_from_slice(&response.body), ResponseFlags::NONE, "direct_response")
    }

    /// `status` is one of 301, 302, 303, 307 and 308. A location that is no header's value is answered with 500.
    pub fn redirect(status: u16, location: &str) -> Self {
        let (Ok(status), Ok(location)) = (StatusCode::from_u16(status), HeaderValue::try_from(location)) else {
            return Self::new(StatusCode::INTERNAL_SERVER_ERROR, "", ResponseFlags::NONE, "direct_response");
        };
        let mut reply = Self::new(status, "", ResponseFlags::NONE, "direct_response");
        reply.headers.insert(LOCATION, location);
        reply
    }

    /// Tells a request's record what was answered; its status is told with the answer itself.
    pub fn note(&self, record: &mut RequestRecord) {
        record.flag(self.flags);
        record.details(self.details.clone());
    }

    /// The answer to a request of this method and these headers.
    pub fn into_response(self, method: &Method, request: &HeaderMap) -> Response<Body> {
        let Self { status, text, grpc_status, flags: _, details: _, headers } = self;
        let mut response = Response::new(Body::empty());
        *response.headers_mut() = headers;
        let out = response.headers_mut();
        if speaks_grpc(request) {
            out.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            out.insert(GRPC_STATUS, u16::from(grpc_status.unwrap_or_else(|| grpc_of(status))).into());
            if !text.is_empty() {
                out.insert(GRPC_MESSAGE, percent_encoded(&text));
            }
            return response;
        }
        *response.status_mut() = status;
        if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
            let out = response.headers_mut();
            if !text.is_empty() {
                out.insert(CONTENT_LENGTH, text.len().into());
                out.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain"));
            }
            if method != Method::HEAD {
                *response.body_mut() = Body::full(text);
            }
        }
        response
    }
}

/// What an HTTP status means where gRPC was expected (gRPC's `http-grpc-status-mapping.md`).
fn grpc_of(status: StatusCode) -> u8 {
    match status.as_u16() {
        200 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// `grpc-message`: printable ASCII but for `%`, the rest as `%XX` (gRPC over HTTP/2, `Percent-Encoded`).
fn percent_encoded(text: &[u8]) -> HeaderValue {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
            byte => out += &format!("%{byte:02X}"),
        }
    }
    HeaderValue::try_from(out).expect("printable ASCII")
}

#[cfg(test)]
mod tests;
