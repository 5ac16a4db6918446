//! The HTTP metrics in the OpenMetrics text format.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::series::{AllSeries, Counts, GrpcStatus, Histogram, Outcome, PartyLabels, PathLabels, Series};

/// A counter that somebody else keeps, one value for each value of its label.
pub(super) struct Watched {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) label: &'static str,
    pub(super) values: Vec<(&'static str, Reading)>,
}

/// Reads a counter.
pub type Reading = Box<dyn Fn() -> u64 + Send + Sync>;

/// Shows the counters that are kept elsewhere.
#[derive(Default)]
pub(super) struct WatchedCollector(pub(super) Arc<Mutex<Vec<Watched>>>);

impl fmt::Debug for WatchedCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedCollector").finish_non_exhaustive()
    }
}

impl Collector for WatchedCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for Watched { name, help, label, values } in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (value, read) in values {
                let labels = [(*label, *value)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&read(), None)?;
            }
        }
        Ok(())
    }
}

/// Shows every series when it is asked for.
#[derive(Debug)]
pub(super) struct HttpCollector(pub(super) Arc<AllSeries>);

impl Collector for HttpCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let all = self.0.all();
        if all.is_empty() {
            return Ok(());
        }
        let requests = encoder.encode_descriptor("istio_requests", "HTTP requests", None, MetricType::Counter)?;
        per_outcome(requests, &all, |mut encoder, counts| {
            encoder.encode_counter::<NoLabelSet, u64, f64>(&counts.requests.load(Relaxed), None)
        })?;
        let histograms: [(_, _, _, HistogramOf); 3] = [
            ("istio_request_duration_milliseconds", "Time from a request's first byte to its answer's last", 1e-3, |c| {
                &c.duration
            }),
            ("istio_request_bytes", "Sizes of HTTP request bodies", 1.0, |c| &c.request_bytes),
            ("istio_response_bytes", "Sizes of HTTP response bodies", 1.0, |c| &c.response_bytes),
        ];
        for (name, help, unit, of) in histograms {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            per_outcome(family, &all, |mut encoder, counts| {
                let (sum, buckets) = of(counts).read();
                let count = buckets.iter().map(|(_, count)| count).sum();
                encoder.encode_histogram::<NoLabelSet>(sum as f64 * unit, count, &buckets, None)
            })?;
        }
        let messages: [(_, _, MessagesOf); 2] = [
            ("istio_request_messages", "gRPC messages of clients", |s| s.request_messages.load(Relaxed)),
            ("istio_response_messages", "gRPC messages of servers", |s| s.response_messages.load(Relaxed)),
        ];
        for (name, help, of) in messages {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for series in all.iter().filter(|series| of(series) > 0) {
                let labels = &PathSet(&series.labels);
                family.encode_family(labels)?.encode_counter::<NoLabelSet, u64, f64>(&of(series), None)?;
            }
        }
        Ok(())
    }
}

type HistogramOf = fn(&Counts) -> &Histogram;
type MessagesOf = fn(&Series) -> u64;

fn per_outcome(
    mut family: MetricEncoder<'_>,
    all: &[Arc<Series>],
    mut encode: impl FnMut(MetricEncoder<'_>, &Counts) -> fmt::Result,
) -> fmt::Result {
    for series in all {
        for (outcome, counts) in series.outcomes() {
            let labels = OutcomeSet { path: &series.labels, outcome };
            encode(family.encode_family(&labels)?, &counts)?;
        }
    }
    Ok(())
}

/// The labels of a path.
struct PathSet<'a>(&'a PathLabels);

/// The labels of a path and an outcome: the full set.
struct OutcomeSet<'a> {
    path: &'a PathLabels,
    outcome: Outcome,
}

impl EncodeLabelSet for PathSet<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let PathLabels { reporter, security: _, source, destination, service } = self.0;
        put(encoder, "reporter", reporter)?;
        party(encoder, source, &SOURCE)?;
        party(encoder, destination, &DESTINATION)?;
        let part = |of: fn(&super::series::ServiceLabels) -> &Arc<str>| service.as_ref().map_or("", |service| of(service));
        put(encoder, "destination_service", part(|service| &service.hostname))?;
        put(encoder, "destination_service_name", part(|service| &service.name))?;
        put(encoder, "destination_service_namespace", part(|service| &service.namespace))
    }
}

impl EncodeLabelSet for OutcomeSet<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let Self { path, outcome: Outcome { grpc, code, grpc_status, flags } } = self;
        PathSet(path).encode(encoder)?;
        put(encoder, "request_protocol", if *grpc { "grpc" } else { "http" })?;
        put(encoder, "response_code", &code.to_string())?;
        match grpc_status {
            GrpcStatus::None => ("grpc_response_status", "").encode(encoder.encode_label())?,
            GrpcStatus::Known(number) => put(encoder, "grpc_response_status", &number.to_string())?,
            GrpcStatus::Other => put(encoder, "grpc_response_status", "")?,
        }
        put(encoder, "response_flags", &flags.label())?;
        put(encoder, "connection_security_policy", path.security.as_str())
    }
}

/// Names of a party's labels: workload, namespace, principal, app, version, cluster, canonical service and revision.
type Names = [&'static str; 8];

const SOURCE: Names = [
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_canonical_service",
    "source_canonical_revision",
];
const DESTINATION: Names = [
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_canonical_service",
    "destination_canonical_revision",
];

fn party(encoder: &mut LabelSetEncoder<'_>, party: &PartyLabels, names: &Names) -> fmt::Result {
    let PartyLabels { workload, namespace, canonical_name, canonical_revision, cluster, identity } = party;
    let principal = identity.as_ref().map(ToString::to_string).unwrap_or_default();
    let values: [&str; 8] =
        [workload, namespace, &principal, canonical_name, canonical_revision, cluster, canonical_name, canonical_revision];
    names.iter().zip(values).try_for_each(|(name, value)| put(encoder, name, value))
}

/// What is not known says so.
fn put(encoder: &mut LabelSetEncoder<'_>, name: &str, value: &str) -> fmt::Result {
    (name, if value.is_empty() { "unknown" } else { value }).encode(encoder.encode_label())
}
