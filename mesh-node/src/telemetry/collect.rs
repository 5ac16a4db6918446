//! The HTTP metrics in the OpenMetrics text format.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::Ordering::Relaxed},
};

use mesh_policy::model::Metric;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::{
    custom::{CustomCounts, Labelled, Labels},
    series::{AllSeries, Counts, GrpcStatus, Histogram, Outcome, PartyLabels, PathLabels, Series},
};

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

/// One value of a family that somebody else keeps for each pod of the node.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: &'static str,
    pub help: &'static str,
    pub is_gauge: bool,
    pub labels: [(&'static str, Arc<str>); 3],
    pub count: u64,
}

pub type Samples = Vec<Sample>;

/// Reads them all.
pub(super) type ReadSamples = Box<dyn Fn() -> Samples + Send + Sync>;

/// Shows what is kept for each pod.
#[derive(Default)]
pub(super) struct SampleCollector(pub(super) Arc<OnceLock<ReadSamples>>);

impl fmt::Debug for SampleCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SampleCollector").finish_non_exhaustive()
    }
}

impl Collector for SampleCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut families: BTreeMap<&'static str, Samples> = BTreeMap::new();
        for sample in self.0.get().map(|read| read()).unwrap_or_default() {
            families.entry(sample.name).or_default().push(sample);
        }
        for (name, samples) in families {
            let kind = if samples[0].is_gauge { MetricType::Gauge } else { MetricType::Counter };
            let mut family = encoder.encode_descriptor(name, samples[0].help, None, kind)?;
            for Sample { is_gauge, labels, count, .. } in &samples {
                let labels = labels.each_ref().map(|(name, value)| (*name, &**value));
                let mut encoder = family.encode_family(&labels)?;
                if *is_gauge {
                    encoder.encode_gauge(&i64::try_from(*count).unwrap_or(i64::MAX))?;
                } else {
                    encoder.encode_counter::<NoLabelSet, u64, f64>(count, None)?;
                }
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
        let custom = self.0.custom.all();
        if all.is_empty() && custom.is_empty() {
            return Ok(());
        }
        let of = |metric: Metric| custom.iter().filter(move |(metrics, _, _)| metrics.contains(metric));
        let mut requests = encoder.encode_descriptor("istio_requests", "HTTP requests", None, MetricType::Counter)?;
        let total = |mut encoder: MetricEncoder<'_>, counts: &Counts| {
            encoder.encode_counter::<NoLabelSet, u64, f64>(&counts.requests.load(Relaxed), None)
        };
        per_outcome(&mut requests, &all, |counts| counts.requests.load(Relaxed) > 0, total)?;
        for (_, labels, counts) in of(Metric::RequestCount) {
            total(requests.encode_family(&CustomSet(labels))?, &counts.counts)?;
        }
        let histograms: [(_, _, _, _, HistogramOf); 3] = [
            (
                Metric::RequestDuration,
                "istio_request_duration_milliseconds",
                "Time from a request's first byte to its answer's last",
                1e-3,
                |c| &c.duration,
            ),
            (Metric::RequestSize, "istio_request_bytes", "Sizes of HTTP request bodies", 1.0, |c| &c.request_bytes),
            (Metric::ResponseSize, "istio_response_bytes", "Sizes of HTTP response bodies", 1.0, |c| &c.response_bytes),
        ];
        for (metric, name, help, unit, histogram) in histograms {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            let put = |mut encoder: MetricEncoder<'_>, counts: &Counts| {
                let (sum, buckets) = histogram(counts).read();
                let count = buckets.iter().map(|(_, count)| count).sum();
                encoder.encode_histogram::<NoLabelSet>(sum as f64 * unit, count, &buckets, None)
            };
            per_outcome(&mut family, &all, |counts| !histogram(counts).is_empty(), put)?;
            for (_, labels, counts) in of(metric) {
                put(family.encode_family(&CustomSet(labels))?, &counts.counts)?;
            }
        }
        let messages: [(_, _, _, MessagesOf, CustomMessagesOf); 2] = [
            (
                Metric::GrpcRequestMessages,
                "istio_request_messages",
                "gRPC messages of clients",
                |s| s.request_messages.load(Relaxed),
                |c| c.request_messages.load(Relaxed),
            ),
            (
                Metric::GrpcResponseMessages,
                "istio_response_messages",
                "gRPC messages of servers",
                |s| s.response_messages.load(Relaxed),
                |c| c.response_messages.load(Relaxed),
            ),
        ];
        for (metric, name, help, usual, changed) in messages {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for series in all.iter().filter(|series| usual(series) > 0) {
                let labels = &PathSet(&series.labels);
                family.encode_family(labels)?.encode_counter::<NoLabelSet, u64, f64>(&usual(series), None)?;
            }
            for (_, labels, counts) in of(metric).filter(|(_, _, counts)| changed(counts) > 0) {
                let labels = &CustomSet(labels);
                family.encode_family(labels)?.encode_counter::<NoLabelSet, u64, f64>(&changed(counts), None)?;
            }
        }
        Ok(())
    }
}

type HistogramOf = fn(&Counts) -> &Histogram;
type MessagesOf = fn(&Series) -> u64;
type CustomMessagesOf = fn(&CustomCounts) -> u64;

/// Of what was counted at all: a metric may be turned off.
fn per_outcome(
    family: &mut MetricEncoder<'_>,
    all: &[Arc<Series>],
    is_counted: impl Fn(&Counts) -> bool,
    encode: impl Fn(MetricEncoder<'_>, &Counts) -> fmt::Result,
) -> fmt::Result {
    for series in all {
        for (outcome, counts) in series.outcomes() {
            if is_counted(&counts) {
                let labels = OutcomeSet { path: &series.labels, outcome };
                encode(family.encode_family(&labels)?, &counts)?;
            }
        }
    }
    Ok(())
}

/// The labels of a path.
pub(super) struct PathSet<'a>(pub(super) &'a PathLabels);

/// The labels of a path and an outcome: the full set.
pub(super) struct OutcomeSet<'a> {
    pub(super) path: &'a PathLabels,
    pub(super) outcome: Outcome,
}

impl Labelled for PathSet<'_> {
    fn each(&self, tell: &mut dyn FnMut(&'static str, &str)) {
        let PathLabels { reporter, security: _, source, destination, service } = self.0;
        tell("reporter", reporter);
        party(tell, source, &SOURCE);
        party(tell, destination, &DESTINATION);
        let part = |of: fn(&super::series::ServiceLabels) -> &Arc<str>| service.as_ref().map_or("", |service| of(service));
        tell("destination_service", known(part(|service| &service.hostname)));
        tell("destination_service_name", known(part(|service| &service.name)));
        tell("destination_service_namespace", known(part(|service| &service.namespace)));
    }
}

impl Labelled for OutcomeSet<'_> {
    fn each(&self, tell: &mut dyn FnMut(&'static str, &str)) {
        let Self { path, outcome: Outcome { grpc, code, grpc_status, flags } } = self;
        PathSet(path).each(tell);
        tell("request_protocol", if *grpc { "grpc" } else { "http" });
        tell("response_code", &code.to_string());
        match grpc_status {
            GrpcStatus::None => tell("grpc_response_status", ""),
            GrpcStatus::Known(number) => tell("grpc_response_status", &number.to_string()),
            GrpcStatus::Other => tell("grpc_response_status", "unknown"),
        }
        tell("response_flags", &flags.label());
        tell("connection_security_policy", path.security.as_str());
    }
}

/// Writes labels into the text format.
pub(super) fn encode(labels: &dyn Labelled, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
    let mut done = Ok(());
    labels.each(&mut |name, value| {
        if done.is_ok() {
            done = (name, value).encode(encoder.encode_label());
        }
    });
    done
}

impl EncodeLabelSet for PathSet<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        encode(self, encoder)
    }
}

impl EncodeLabelSet for OutcomeSet<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        encode(self, encoder)
    }
}

/// Labels that were changed.
struct CustomSet<'a>(&'a Labels);

impl EncodeLabelSet for CustomSet<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, value)| (&**name, &**value).encode(encoder.encode_label()))
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

fn party(tell: &mut dyn FnMut(&'static str, &str), party: &PartyLabels, names: &Names) {
    let PartyLabels { workload, namespace, canonical_name, canonical_revision, cluster, identity } = party;
    let principal = identity.as_ref().map(ToString::to_string).unwrap_or_default();
    let values: [&str; 8] =
        [workload, namespace, &principal, canonical_name, canonical_revision, cluster, canonical_name, canonical_revision];
    for (name, value) in names.iter().zip(values) {
        tell(name, known(value));
    }
}

/// What is not known says so.
fn known(value: &str) -> &str {
    if value.is_empty() { "unknown" } else { value }
}
