//! The headers of an HBONE CONNECT. The input is one header a line: the authority, `forwarded`, `traceparent`, then lines of
//! `baggage`.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, Request};
use mesh_node::hbone::{
    Baggage, Forwarded, Target, TraceParent,
    headers::{BAGGAGE, FORWARDED},
};

/// What was read can be written, fits a header, and is read again as the same.
pub(crate) fn check(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let mut text = || std::str::from_utf8(lines.next().unwrap_or_default()).unwrap_or_default();
    authority(text());
    forwarded(text());
    trace_parent(text());
    baggage(lines);
}

fn authority(text: &str) {
    let parsed: Result<Target, _> = text.parse();
    assert_eq!(text.to_ascii_uppercase().parse(), parsed, "{text:?} depends on case");
    // The plain form of an address stands for that address.
    if let Ok(address) = text.parse::<SocketAddr>()
        && address.to_string() == text
        && !text.contains('%')
        && address.port() != 0
    {
        assert_eq!(parsed, Ok(Target::Address(address)));
    }
    let Ok(target) = parsed else { return };
    let written = target.to_string();
    assert_eq!(written.parse().as_ref(), Ok(&target), "{text:?}");
    assert_ne!(target.port(), 0);
    assert!(Request::connect(&written).body(()).is_ok(), "{written:?} can not be asked for");
    if let Target::Host { name, .. } = &target {
        assert!(!name.is_empty() && !name.ends_with('.') && *name == name.to_lowercase(), "{name:?}");
        assert!(!text.starts_with('['), "{text:?} is an address");
    }
}

fn forwarded(text: &str) {
    let Some(found) = Forwarded::parse(text) else { return };
    let written = found.to_string();
    assert_eq!(Forwarded::parse(&written).as_ref(), Some(&found), "{text:?} as {written:?}");
    header(&written, FORWARDED.as_str());
}

fn trace_parent(text: &str) {
    if let Ok(found) = text.parse::<TraceParent>() {
        assert_eq!(found.to_string(), text);
        assert_eq!(text.len(), 55);
    }
}

fn baggage<'a>(lines: impl Iterator<Item = &'a [u8]>) {
    let mut headers = HeaderMap::new();
    // Bounded elsewhere: HTTP/2's limit on all headers of a request.
    for value in lines.take(64).filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append(BAGGAGE, value);
    }
    let found = Baggage::read(&headers);
    let Baggage { cluster, namespace, workload_kind: _, workload, service, revision, region, zone } = &found;
    for text in [cluster, namespace, workload, service, revision, region, zone] {
        assert!(text.len() <= 256 && !text.contains(char::is_control), "{text:?}");
    }
    let written = found.to_string();
    let value = header(&written, BAGGAGE.as_str());
    assert_eq!(Baggage::read(&HeaderMap::from_iter([(BAGGAGE, value)])), found, "as {written:?}");
}

fn header(text: &str, name: &str) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|error| panic!("{name}: {text:?}: {error}"))
}
