use super::*;
use crate::telemetry::{
    Direction,
    testing::{flow, party},
};

#[test]
fn one_path_has_one_series_however_it_is_described() {
    let all = AllSeries::new();
    let first = all.of(&flow(Direction::Outbound));
    assert!(Arc::ptr_eq(&first, &all.of(&flow(Direction::Outbound))), "built anew from equal parts");
    assert!(!Arc::ptr_eq(&first, &all.of(&flow(Direction::Inbound))));
    let mut other = flow(Direction::Outbound);
    other.source.identity = None;
    assert!(!Arc::ptr_eq(&first, &all.of(&other)), "the principal is a label");
    let mut port = flow(Direction::Outbound);
    port.source_address.set_port(1);
    assert!(Arc::ptr_eq(&first, &all.of(&port)), "the port is none");
}

#[test]
fn past_the_limit_paths_are_counted_together() {
    let all = AllSeries::with_limit(10);
    for number in 0..100 {
        let mut flow = flow(Direction::Outbound);
        flow.source = party(&format!("client-{number}"));
        all.of(&flow).messages(1, 0);
    }
    assert_eq!(all.all().len(), 11);
    let counted: u64 = all.all().iter().map(|series| series.request_messages.load(Relaxed)).sum();
    assert_eq!(counted, 100);
    let mut known = flow(Direction::Outbound);
    known.source = party("client-3");
    assert_eq!(&*all.of(&known).labels.source.canonical_name, "client-3", "what has a place keeps it");
}

#[test]
fn a_value_falls_into_the_first_bucket_that_holds_it() {
    let histogram = Histogram::default();
    for (exact, value) in [(0, 0.0), (0, 0.5), (0, 0.6), (1, 1.0), (3_600_000, 3_600_000.0), (3_600_001, 3_600_001.0)] {
        histogram.add(exact, value);
    }
    let (sum, buckets) = histogram.read();
    assert_eq!(sum, 7_200_002);
    let filled: Vec<_> = buckets.into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(filled, [(0.5, 2), (1.0, 2), (3_600_000.0, 1), (f64::INFINITY, 1)]);
}

#[test]
fn grpc_statuses_are_those_that_exist() {
    for (text, expected) in [
        ("0", GrpcStatus::Known(0)),
        ("9", GrpcStatus::Known(9)),
        ("16", GrpcStatus::Known(16)),
        ("17", GrpcStatus::Other),
        ("", GrpcStatus::Other),
        ("00", GrpcStatus::Other),
        ("-1", GrpcStatus::Other),
        ("7 ", GrpcStatus::Other),
    ] {
        assert_eq!(GrpcStatus::read(text.as_bytes()), expected, "{text:?}");
    }
}
