//! The headers of a request. The input is one header a line, `name: value`; its first line begins with the version, and is a
//! `traceparent` or `b3` as well.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Version,
    header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE},
};
use mesh_node::http::{
    headers::{Sender, X_FORWARDED_CLIENT_CERT, refuse_ambiguous, remove_hop_by_hop, sanitize, set_upgrade, upgrade_wanted},
    trace::{Formats, parse_b3, parse_traceparent, read, write},
};
use mesh_node::telemetry::SpanContext;

/// Whatever was sent, nothing of one connection goes to the next, nothing is said in the proxy's name, and a trace that is
/// understood goes on as the same.
pub(crate) fn check(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let version = if first.starts_with(b"2") { Version::HTTP_2 } else { Version::HTTP_11 };
    // Bounded elsewhere: the server's limit on a request's head.
    let headers: HeaderMap = lines.take(100).filter_map(field).collect();
    connection(version, &headers);
    trust(&headers);
    trace(&headers);
    if let Ok(text) = std::str::from_utf8(first) {
        let (w3c, b3) = (parse_traceparent(text), parse_b3(text));
        assert!(w3c.is_none() || b3.is_none(), "{text:?} is both");
    }
}

fn field(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = HeaderName::from_bytes(&line[..colon]).ok()?;
    Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
}

fn connection(version: Version, headers: &HeaderMap) {
    let unambiguous = refuse_ambiguous(&Method::POST, version, headers).is_ok();
    assert!(!unambiguous || headers.get_all(HOST).iter().count() < 2);
    let wanted = upgrade_wanted(version, headers);
    let mut passed = headers.clone();
    remove_hop_by_hop(&mut passed);
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        assert!(!passed.contains_key(&name), "{name} went on");
    }
    assert!(passed.get_all(TE).iter().all(|te| te == "trailers"));
    for name in ["host", "content-length", "authorization", "x-forwarded-for"] {
        assert_eq!(passed.get_all(name).iter().count(), headers.get_all(name).iter().count(), "{name}");
    }
    let once = passed.clone();
    remove_hop_by_hop(&mut passed);
    assert_eq!(passed, once);
    if let Some(protocol) = wanted {
        set_upgrade(&mut passed, protocol.clone());
        assert_eq!(upgrade_wanted(Version::HTTP_11, &passed), Some(protocol));
    }
}

fn trust(headers: &HeaderMap) {
    for sender in [Sender::Application, Sender::Plaintext, Sender::Mesh] {
        let mut passed = headers.clone();
        sanitize(&mut passed, sender);
        assert!(!passed.contains_key(X_FORWARDED_CLIENT_CERT));
        let envoys = passed.keys().filter(|name| name.as_str().starts_with("x-envoy-")).count();
        assert!(envoys <= if sender == Sender::Mesh { 2 } else { 0 }, "{passed:?}");
    }
}

fn trace(headers: &HeaderMap) {
    let incoming = read(headers);
    let Some(context) = incoming.context else { return };
    let span = SpanContext { trace_id: context.trace_id, span_id: context.span_id, parent: Some(context.span_id) };
    for formats in [incoming.formats, Formats { w3c: true, b3_single: true, b3_multi: true }, Formats::default()] {
        let mut passed = headers.clone();
        write(&mut passed, &span, formats);
        let next = read(&passed);
        assert_eq!((next.context, next.sampled), (Some(context), Some(true)), "{formats:?} of {headers:?}");
    }
}
