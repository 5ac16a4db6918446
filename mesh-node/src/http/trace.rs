//! Which trace a request belongs to: W3C Trace Context and B3, read and passed on.
//!
//! Headers that say nothing understandable are passed on as they are, and a trace begins anew beside them. Where nothing is
//! traced at all, every trace header passes untouched.

use std::fmt;

use fastrand::Rng;
use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_policy::model::Percent;

use crate::telemetry::{RequestRecord, SpanContext, SpanId, TraceId};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub const B3: HeaderName = HeaderName::from_static("b3");
pub const X_B3_TRACEID: HeaderName = HeaderName::from_static("x-b3-traceid");
pub const X_B3_SPANID: HeaderName = HeaderName::from_static("x-b3-spanid");
pub const X_B3_PARENTSPANID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
pub const X_B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
pub const X_B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// How a trace came to us, which is how it is passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    pub w3c: bool,
    pub b3_single: bool,
    pub b3_multi: bool,
}

/// What a request says of its trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    pub context: Option<RemoteContext>,
    /// None: whoever comes next may decide.
    pub sampled: Option<bool>,
    pub formats: Formats,
}

/// The span that a request was sent from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteContext {
    pub trace_id: TraceId,
    pub span_id: SpanId,
}

/// Gives a request its span, where requests are traced, and tells it to the record and to the next hop. Once for each half, on
/// the headers that go on.
pub fn follow(headers: &mut HeaderMap, record: &mut RequestRecord, rng: &mut Rng) {
    adopt(headers, record, rng);
    if record.span_context().is_some() {
        tell(headers, record);
    } else if record.trace_share().is_some() && read(headers) == Incoming::default() {
        write_unsampled(headers, rng);
    }
}

/// The first half of [`follow`]: the record gets its span.
pub fn adopt(headers: &HeaderMap, record: &mut RequestRecord, rng: &mut Rng) {
    let Some(share) = record.trace_share() else { return };
    if let Some(span) = decide(&read(headers), share, rng) {
        record.span(span);
    }
}

/// The second half: the next hop is told of the record's span, as often as the request is sent.
pub fn tell(headers: &mut HeaderMap, record: &RequestRecord) {
    if let Some(span) = record.span_context() {
        let formats = read(headers).formats;
        write(headers, span, formats);
    }
}

/// Reads the headers: W3C's before B3's, the single B3 header before the many.
pub fn read(headers: &HeaderMap) -> Incoming {
    let mut formats = Formats::default();
    let w3c = only(headers, &TRACEPARENT).and_then(parse_traceparent);
    let single = only(headers, &B3).and_then(parse_b3);
    let multi = parse_b3_multi(headers);
    formats.w3c = w3c.is_some();
    formats.b3_single = single.is_some();
    formats.b3_multi = multi.is_some();
    let found = w3c.or(single).or(multi);
    let (context, sampled) = found.map_or((None, None), |(context, sampled)| (context, sampled));
    Incoming { context, sampled, formats }
}

/// Whether a request is traced, and its span: what its sender decided, else by share. A new trace begins where there is none.
pub fn decide(incoming: &Incoming, share: Percent, rng: &mut Rng) -> Option<SpanContext> {
    let sampled = incoming.sampled.unwrap_or_else(|| share.hits(rng));
    sampled.then(|| SpanContext {
        trace_id: incoming.context.map_or_else(|| TraceId(random(rng)), |context| context.trace_id),
        span_id: SpanId(random(rng)),
        parent: incoming.context.map(|context| context.span_id),
    })
}

/// Tells the next hop of `span`: in the formats that the request came with, in W3C's where it came with none. `tracestate`
/// stays as it is: we add no member of our own.
pub fn write(headers: &mut HeaderMap, span: &SpanContext, formats: Formats) {
    let Formats { w3c, b3_single, b3_multi } = formats;
    let SpanContext { trace_id, span_id, parent } = span;
    let mut put = |name: HeaderName, value: &dyn fmt::Display| {
        headers.insert(name, HeaderValue::try_from(value.to_string()).expect("hexadecimal digits and dashes"));
    };
    if w3c || !(b3_single || b3_multi) {
        put(TRACEPARENT, &format_args!("00-{trace_id}-{span_id}-01"));
    }
    if b3_single {
        match parent {
            Some(parent) => put(B3, &format_args!("{trace_id}-{span_id}-1-{parent}")),
            None => put(B3, &format_args!("{trace_id}-{span_id}-1")),
        }
    }
    if b3_multi {
        put(X_B3_TRACEID, trace_id);
        put(X_B3_SPANID, span_id);
        if let Some(parent) = parent {
            put(X_B3_PARENTSPANID, parent);
        }
        put(X_B3_SAMPLED, &1);
    }
    if !w3c && headers.contains_key(TRACESTATE) {
        // It belonged to a parent that nobody can read any more (W3C Trace Context, §4.3).
        headers.remove(TRACESTATE);
    }
}

/// A request that is not traced begins no trace, and says so to those after it, that half a trace is not recorded.
pub fn write_unsampled(headers: &mut HeaderMap, rng: &mut Rng) {
    let (trace_id, span_id) = (TraceId(random(rng)), SpanId(random(rng)));
    let value = format!("00-{trace_id}-{span_id}-00");
    headers.insert(TRACEPARENT, HeaderValue::try_from(value).expect("hexadecimal digits and dashes"));
}

type Found = (Option<RemoteContext>, Option<bool>);

/// A header that is there once, as text.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok()
}

/// `00-<trace id>-<span id>-<flags>`; a later version may have more behind (W3C Trace Context, §3.2, §4.3).
pub fn parse_traceparent(text: &str) -> Option<Found> {
    let text = text.trim_matches([' ', '\t']);
    let (version, rest) = text.split_once('-')?;
    let [version] = hex::<1>(version)?;
    let mut parts = rest.splitn(4, '-');
    let (trace_id, span_id, flags, behind) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
    if version == 0xff || (version == 0 && behind.is_some()) {
        return None;
    }
    let context = RemoteContext { trace_id: TraceId(nonzero(trace_id)?), span_id: SpanId(nonzero(span_id)?) };
    let [flags] = hex::<1>(flags)?;
    Some((Some(context), Some(flags & 1 == 1)))
}

/// `<trace id>-<span id>[-<sampled>[-<parent>]]`, or the decision alone (openzipkin/b3-propagation, "Single Header").
pub fn parse_b3(text: &str) -> Option<Found> {
    if let Some(sampled) = decision(text) {
        return Some((None, Some(sampled)));
    }
    let parts: Vec<&str> = text.splitn(5, '-').collect();
    let (trace_id, span_id, sampled) = match parts[..] {
        [trace_id, span_id] => (trace_id, span_id, None),
        [trace_id, span_id, sampled] => (trace_id, span_id, Some(decision(sampled)?)),
        [trace_id, span_id, sampled, parent] => {
            nonzero::<8>(parent)?;
            (trace_id, span_id, Some(decision(sampled)?))
        }
        _ => return None,
    };
    Some((Some(b3_context(trace_id, span_id)?), sampled))
}

/// The `x-b3-*` headers; the decision may come without ids, and `x-b3-flags: 1` (debug) implies it.
fn parse_b3_multi(headers: &HeaderMap) -> Option<Found> {
    let sampled = match (only(headers, &X_B3_FLAGS), only(headers, &X_B3_SAMPLED)) {
        (Some("1"), _) => Some(true),
        (_, Some(sampled)) => decision(sampled),
        (_, None) => None,
    };
    let context = match (only(headers, &X_B3_TRACEID), only(headers, &X_B3_SPANID)) {
        (Some(trace_id), Some(span_id)) => b3_context(trace_id, span_id),
        _ => None,
    };
    (context.is_some() || sampled.is_some()).then_some((context, sampled))
}

/// Trace ids of 64 bits are filled up with zeros.
fn b3_context(trace_id: &str, span_id: &str) -> Option<RemoteContext> {
    let trace_id = match trace_id.len() {
        16 => {
            let mut whole = [0; 16];
            whole[8..].copy_from_slice(&nonzero::<8>(trace_id)?);
            whole
        }
        _ => nonzero(trace_id)?,
    };
    Some(RemoteContext { trace_id: TraceId(trace_id), span_id: SpanId(nonzero(span_id)?) })
}

fn decision(text: &str) -> Option<bool> {
    match text {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// `N` bytes in lower-case hexadecimal.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    let mut out = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

fn nonzero<const N: usize>(text: &str) -> Option<[u8; N]> {
    hex(text).filter(|bytes| bytes.iter().any(|byte| *byte != 0))
}

fn random<const N: usize>(rng: &mut Rng) -> [u8; N] {
    loop {
        let mut bytes = [0; N];
        rng.fill(&mut bytes);
        if bytes.iter().any(|byte| *byte != 0) {
            return bytes;
        }
    }
}

#[cfg(test)]
mod tests;
