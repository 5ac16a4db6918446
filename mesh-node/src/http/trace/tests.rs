use std::sync::Arc;

use super::*;
use crate::telemetry::{Span, SpanSink, Telemetry, testing::record};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&str, &str)| (name.parse().expect("a name"), value.parse().expect("a value"));
    let mut map = HeaderMap::<HeaderValue>::new();
    for (name, value) in fields.iter().map(field) {
        map.append::<HeaderName>(name, value);
    }
    map
}

/// Trace, span and decision, as text.
fn found(fields: &[(&str, &str)]) -> (Option<(String, String)>, Option<bool>) {
    let Incoming { context, sampled, formats: _ } = read(&headers(fields));
    (context.map(|context| (context.trace_id.to_string(), context.span_id.to_string())), sampled)
}

fn context() -> (String, String) {
    (TRACE.into(), SPAN.into())
}

#[test]
fn traceparent_is_read_strictly() {
    let parent = |text: &str| found(&[("traceparent", text)]);
    assert_eq!(parent(&format!("00-{TRACE}-{SPAN}-01")), (Some(context()), Some(true)));
    assert_eq!(parent(&format!("00-{TRACE}-{SPAN}-00")), (Some(context()), Some(false)));
    assert_eq!(parent(&format!("00-{TRACE}-{SPAN}-fe")), (Some(context()), Some(false)));
    assert_eq!(parent(&format!("cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like")), (Some(context()), Some(true)));
    let zeros = "0".repeat(32);
    for bad in [
        String::new(),
        format!("00-{TRACE}-{SPAN}"),
        format!("00-{TRACE}-{SPAN}-01-more"),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-{zeros}-{SPAN}-01"),
        format!("00-{TRACE}-{}-01", &zeros[..16]),
        format!("0-{TRACE}-{SPAN}-01"),
        format!("00-{TRACE}-{SPAN}-0é"),
        format!("00-{TRACE}-{SPAN}-1"),
    ] {
        let mut map = HeaderMap::new();
        map.insert(TRACEPARENT, HeaderValue::from_bytes(bad.as_bytes()).expect("a value"));
        assert_eq!(read(&map), Incoming::default(), "{bad:?}");
    }
    let twice = format!("00-{TRACE}-{SPAN}-01");
    assert_eq!(found(&[("traceparent", &twice), ("traceparent", &twice)]), (None, None));
}

#[test]
fn b3_is_read_in_both_forms() {
    let single = |text: &str| found(&[("b3", text)]);
    assert_eq!(single(&format!("{TRACE}-{SPAN}-1")), (Some(context()), Some(true)));
    assert_eq!(single(&format!("{TRACE}-{SPAN}-d-05e3ac9a4f6e3b90")), (Some(context()), Some(true)));
    assert_eq!(single(&format!("{TRACE}-{SPAN}")), (Some(context()), None));
    assert_eq!(single("0"), (None, Some(false)));
    let short = Some((format!("{:0>32}", "a3ce929d0e0e4736"), SPAN.to_owned()));
    assert_eq!(single(&format!("a3ce929d0e0e4736-{SPAN}-0")), (short, Some(false)));
    for bad in ["", "2", "-", &format!("{TRACE}-{SPAN}-2"), &format!("{TRACE}-{SPAN}-1-{SPAN}-1"), &format!("{TRACE}-xyz")] {
        assert_eq!(single(bad), (None, None), "{bad:?}");
    }
    let multi = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "0")];
    assert_eq!(found(&multi), (Some(context()), Some(false)));
    assert_eq!(found(&multi[..2]), (Some(context()), None));
    assert_eq!(found(&multi[2..]), (None, Some(false)));
    assert_eq!(found(&multi[..1]), (None, None));
    assert_eq!(found(&[("x-b3-flags", "1"), ("x-b3-sampled", "0")]), (None, Some(true)));
}

#[test]
fn w3c_comes_before_b3() {
    let both = [("traceparent", format!("00-{TRACE}-{SPAN}-00")), ("b3", format!("{}-{SPAN}-1", "1".repeat(32)))];
    let both: Vec<_> = both.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(found(&both), (Some(context()), Some(false)));
}

#[test]
fn whoever_began_the_trace_decides() {
    let mut rng = Rng::with_seed(5);
    let parent = |flags| read(&headers(&[("traceparent", &format!("00-{TRACE}-{SPAN}-{flags}"))]));
    let span = decide(&parent("01"), Percent::NONE, &mut rng).expect("sampled");
    assert_eq!((span.trace_id.to_string().as_str(), span.parent.map(|span| span.to_string())), (TRACE, Some(SPAN.into())));
    assert_ne!(span.span_id.to_string(), SPAN);
    assert_eq!(decide(&parent("00"), Percent::ALL, &mut rng), None);
    assert_eq!(decide(&Incoming::default(), Percent::NONE, &mut rng), None);
    let begun = decide(&Incoming::default(), Percent::ALL, &mut rng).expect("sampled");
    assert_eq!(begun.parent, None);
    let undecided = read(&headers(&[("b3", &format!("{TRACE}-{SPAN}"))]));
    assert_eq!(decide(&undecided, Percent::ALL, &mut rng).map(|span| span.trace_id.to_string()).as_deref(), Some(TRACE));
}

#[test]
fn a_trace_goes_on_in_the_form_it_came_in() {
    let mut rng = Rng::with_seed(6);
    let forms: [&[(&str, String)]; 4] = [
        &[],
        &[("traceparent", format!("00-{TRACE}-{SPAN}-01"))],
        &[("b3", format!("{TRACE}-{SPAN}-1"))],
        &[("x-b3-traceid", TRACE.into()), ("x-b3-spanid", SPAN.into()), ("x-b3-sampled", "1".into())],
    ];
    for form in forms {
        let fields: Vec<_> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut map = headers(&fields);
        let incoming = read(&map);
        let span = decide(&incoming, Percent::ALL, &mut rng).expect("sampled");
        write(&mut map, &span, incoming.formats);
        let next = read(&map);
        let sent = RemoteContext { trace_id: span.trace_id, span_id: span.span_id };
        assert_eq!((next.context, next.sampled), (Some(sent), Some(true)), "{form:?}");
        let expected = if form.is_empty() { Formats { w3c: true, ..Formats::default() } } else { incoming.formats };
        assert_eq!(next.formats, expected, "{form:?}");
    }
}

#[test]
fn tracestate_goes_with_its_traceparent() {
    let mut rng = Rng::with_seed(7);
    let mut kept = headers(&[("traceparent", &format!("00-{TRACE}-{SPAN}-01")), ("tracestate", "a=b,c=d")]);
    let incoming = read(&kept);
    let span = decide(&incoming, Percent::ALL, &mut rng).expect("sampled");
    write(&mut kept, &span, incoming.formats);
    assert_eq!(kept["tracestate"], "a=b,c=d");
    let mut lost = headers(&[("traceparent", "broken"), ("tracestate", "a=b")]);
    let formats = read(&lost).formats;
    write(&mut lost, &span, formats);
    assert!(!lost.contains_key("tracestate"));
    let mut unsampled = HeaderMap::new();
    write_unsampled(&mut unsampled, &mut rng);
    assert_eq!(read(&unsampled).sampled, Some(false));
}

struct Forget;

impl SpanSink for Forget {
    fn offer(&self, _: Span) {}
}

#[test]
fn both_halves_are_spans_of_one_trace() {
    let mut rng = Rng::with_seed(8);
    let telemetry = Telemetry::new();
    let mut untraced = headers(&[("traceparent", "anything")]);
    follow(&mut untraced, &mut record(&telemetry), &mut rng);
    assert_eq!(untraced["traceparent"], "anything", "nothing is traced, nothing is touched");

    telemetry.export_spans(Arc::new(Forget));
    telemetry.set_trace_share(Percent::ALL);
    let mut map = HeaderMap::new();
    follow(&mut map, &mut record(&telemetry), &mut rng);
    let source = read(&map).context.expect("a trace");
    follow(&mut map, &mut record(&telemetry), &mut rng);
    let destination = read(&map).context.expect("a trace");
    assert_eq!(source.trace_id, destination.trace_id);
    assert_ne!(source.span_id, destination.span_id);

    let mut decided = headers(&[("traceparent", &format!("00-{TRACE}-{SPAN}-00"))]);
    let before = decided.clone();
    follow(&mut decided, &mut record(&telemetry), &mut rng);
    assert_eq!(decided, before, "whoever began it does not want it");
}
