//! What the proxy does to headers on its own account, at the edges of trust.
//!
//! Where a request comes from decides what of it is believed ([`Sender`]). An application, and a client outside the mesh, may
//! say nothing in the proxy's name: all `x-envoy-*` fields and `x-forwarded-client-cert` are taken away. (Istio's sidecars
//! honor `x-envoy-retry-on` and its kin from their application; here what a request may cost is the configuration's to say.)
//! `x-forwarded-for` is passed on as it came, neither trusted nor added to, and `x-forwarded-proto` is set where it is
//! missing, as Istio's sidecars do. `server` and `via` are left alone: the proxy is not seen where it need not be.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE},
};
use mesh_policy::model::Identity;

pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_ENVOY_ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
pub const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
pub const X_ENVOY_OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
pub const X_ENVOY_UPSTREAM_SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Fields that a `Connection` header can not make disappear: a request without them would be another request.
const END_TO_END: [&str; 12] = [
    "authorization",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "forwarded",
    "host",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A pod's application, to its own proxy.
    Application,
    /// A client without the mesh's proof of identity.
    Plaintext,
    /// A client's half of this mesh: over a tunnel whose identity is proved, or within this process.
    Mesh,
}

/// Takes away what is meant for one connection only (RFC 9110, §7.6.1): `Connection` and what it names, `Keep-Alive`,
/// `Proxy-Connection`, `Transfer-Encoding`, `Upgrade`; of `TE` all but `trailers`, which gRPC asks for. The framing of a message
/// is written anew for the next connection.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
            .filter(|token| !END_TO_END.iter().any(|kept| token.eq_ignore_ascii_case(kept)) && !token.eq_ignore_ascii_case("te"))
            .filter_map(|token| HeaderName::try_from(token).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE, HTTP2_SETTINGS] {
        headers.remove(name);
    }
    if headers.contains_key(TE) {
        let trailers = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// The members of a list header, of all its lines; what is no text is none.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let members = headers.get_all(name).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    members.filter_map(|member| std::str::from_utf8(member.trim_ascii()).ok()).filter(|token| !token.is_empty())
}

/// The protocol that an HTTP/1.1 request wants to go on with, such as `websocket`, to be [put back](set_upgrade) after
/// [`remove_hop_by_hop`]. None for `h2c`: which version is spoken upstream is not the client's to say.
pub fn upgrade_wanted(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = headers.get(UPGRADE).filter(|_| version == Version::HTTP_11)?;
    let asked = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    (asked && !wanted.as_bytes().eq_ignore_ascii_case(b"h2c")).then(|| wanted.clone())
}

/// The protocol that a server goes on with after its 101.
pub fn upgrade_taken(status: StatusCode, headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(UPGRADE).filter(|_| status == StatusCode::SWITCHING_PROTOCOLS).cloned()
}

pub fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Takes away what `sender` may not say of a request. To be done before anything looks at the request.
pub fn sanitize(headers: &mut HeaderMap, sender: Sender) {
    match sender {
        Sender::Application | Sender::Plaintext => {
            remove_prefixed(headers, "x-envoy-", &[]);
            headers.remove(X_FORWARDED_CLIENT_CERT);
        }
        // The client's proxy says these two, and the certificate header is this half's own.
        Sender::Mesh => {
            remove_prefixed(headers, "x-envoy-", &[X_ENVOY_ATTEMPT_COUNT, X_ENVOY_ORIGINAL_PATH]);
            headers.remove(X_FORWARDED_CLIENT_CERT);
        }
    }
}

fn remove_prefixed(headers: &mut HeaderMap, prefix: &str, but: &[HeaderName]) {
    let doomed = |name: &&HeaderName| name.as_str().starts_with(prefix) && !but.contains(name);
    while let Some(name) = headers.keys().find(doomed).cloned() {
        headers.remove(name);
    }
}

/// Tells the application who asks, in Envoy's form: `By=<own identity>;URI=<client's identity>`. Nothing, and not what
/// somebody forged, for a client without one.
pub fn set_client_cert(headers: &mut HeaderMap, by: &Identity, client: Option<&Identity>) {
    // Identities are of letters, digits, '.', '-', '_', ':' and '/': nothing to quote.
    match client.map(|client| HeaderValue::try_from(format!("By={by};URI={client}"))) {
        Some(Ok(value)) => drop(headers.insert(X_FORWARDED_CLIENT_CERT, value)),
        Some(Err(_)) | None => drop(headers.remove(X_FORWARDED_CLIENT_CERT)),
    }
}

/// The scheme that the application's client spoke; what it says itself is left.
pub fn set_forwarded_proto(headers: &mut HeaderMap, scheme: &'static str) {
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static(scheme));
}

/// Which try this is, from 1.
pub fn set_attempt_count(headers: &mut HeaderMap, attempt: u32) {
    headers.insert(X_ENVOY_ATTEMPT_COUNT, attempt.into());
}

/// The path before a rewrite; the first one is kept.
pub fn set_original_path(headers: &mut HeaderMap, path_and_query: &str) {
    if let Ok(value) = HeaderValue::try_from(path_and_query) {
        headers.entry(X_ENVOY_ORIGINAL_PATH).or_insert(value);
    }
}

/// How long the server took from the end of the request to the head of its answer, in whole milliseconds.
pub fn set_service_time(headers: &mut HeaderMap, took: Duration) {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    headers.insert(X_ENVOY_UPSTREAM_SERVICE_TIME, millis.into());
}

/// What hyper's parser lets pass of a request and a proxy must not: each could be read in two ways by the next server.
///
/// hyper itself refuses `Transfer-Encoding` that is not `chunked` last or comes with HTTP/1.0, `Content-Length` that is no
/// number or differs from another, folded lines, space before a colon, and bare CR; of a request with both framings it takes
/// the chunks, drops the length and closes the connection after its answer (RFC 9112, §6.3). `tests/raw.rs` has them all.
pub fn refuse_ambiguous(method: &Method, version: Version, headers: &HeaderMap) -> Result<(), Ambiguity> {
    if version == Version::HTTP_2 {
        // RFC 9113, §8.2.2: hyper refuses these too where it sees them.
        if [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE].iter().any(|name| headers.contains_key(name)) {
            return Err(Ambiguity::ConnectionHeaderInHttp2);
        }
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(first) = lengths.next() {
        if headers.contains_key(TRANSFER_ENCODING) {
            return Err(Ambiguity::BothFramings);
        }
        if first.is_empty() || !first.as_bytes().iter().all(u8::is_ascii_digit) || lengths.any(|other| other != first) {
            return Err(Ambiguity::ContentLength);
        }
    }
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = encodings.next().is_none_or(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if !chunked || encodings.next().is_some() {
        return Err(Ambiguity::TransferEncoding);
    }
    if headers.get_all(HOST).iter().count() > 1 {
        return Err(Ambiguity::SeveralHosts);
    }
    if method == Method::CONNECT && (headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING)) {
        return Err(Ambiguity::ConnectBody);
    }
    Ok(())
}

/// Why a request is answered with 400 and its connection closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguity {
    #[error("both Content-Length and Transfer-Encoding")]
    BothFramings,
    #[error("Content-Length is no number, or several")]
    ContentLength,
    #[error("a Transfer-Encoding other than chunked")]
    TransferEncoding,
    #[error("several Host fields")]
    SeveralHosts,
    #[error("a field of HTTP/1.1 connections in HTTP/2")]
    ConnectionHeaderInHttp2,
    #[error("CONNECT with a body")]
    ConnectBody,
}

#[cfg(test)]
mod tests;
