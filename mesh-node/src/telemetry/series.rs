//! Istio's HTTP metrics: the label sets that have been seen, and what was measured under each.
//!
//! Requests of one [path](super::Path) differ in protocol, status and flags only. Each path's labels are kept once, below
//! them one small entry for each outcome. Both numbers are bounded: a server can choose the status that it answers with, and
//! nothing of a request ever becomes a label.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use mesh_policy::model::{Identity, Metric};

use super::{
    custom::{CustomSeries, MetricSet},
    flags::ResponseFlags,
    flow::{Flow, Party, Security},
};

/// Label sets of paths; past it a path is counted under `unknown` names.
const MAX_SERIES: usize = 20_000;
/// Outcomes of one path; past it a status is counted as the hundred it belongs to.
const MAX_OUTCOMES: usize = 64;

type Label = Arc<str>;

/// What the labels of a path are made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PathLabels {
    pub reporter: &'static str,
    pub security: Security,
    pub source: PartyLabels,
    pub destination: PartyLabels,
    pub service: Option<ServiceLabels>,
}

/// Empty where the workload or its property is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct PartyLabels {
    pub workload: Label,
    pub namespace: Label,
    pub canonical_name: Label,
    pub canonical_revision: Label,
    pub cluster: Label,
    pub identity: Option<Identity>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ServiceLabels {
    pub hostname: Label,
    pub name: Label,
    pub namespace: Label,
}

impl PathLabels {
    fn new(flow: &Flow) -> Self {
        let service = flow.service.as_ref().map(|service| ServiceLabels {
            hostname: service.hostname.clone(),
            name: service.name.clone(),
            namespace: service.namespace.clone(),
        });
        Self {
            reporter: flow.direction.reporter(),
            security: flow.security,
            source: PartyLabels::new(&flow.source),
            destination: PartyLabels::new(&flow.destination),
            service,
        }
    }

    /// For what does not fit any more.
    pub(super) fn folded(&self) -> Self {
        let (source, destination) = <(PartyLabels, PartyLabels)>::default();
        Self { reporter: self.reporter, security: self.security, source, destination, service: None }
    }
}

impl PartyLabels {
    fn new(party: &Party) -> Self {
        let identity = party.identity.clone();
        let Some(workload) = &party.workload else { return Self { identity, ..Self::default() } };
        Self {
            workload: workload.workload_name.clone(),
            namespace: workload.namespace.clone(),
            canonical_name: workload.canonical_name.clone(),
            canonical_revision: workload.canonical_revision.clone(),
            cluster: workload.cluster.clone(),
            identity,
        }
    }
}

/// How a request ended, as far as metrics tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Outcome {
    pub grpc: bool,
    /// 100 to 599; zero: there was no answer.
    pub code: u16,
    pub grpc_status: GrpcStatus,
    pub flags: ResponseFlags,
}

/// The `grpc_response_status` label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum GrpcStatus {
    /// Not gRPC, or no status was sent.
    #[default]
    None,
    /// 0 to 16.
    Known(u8),
    /// No number that gRPC knows.
    Other,
}

impl GrpcStatus {
    /// Of the `grpc-status` header or trailer.
    pub(super) fn read(value: &[u8]) -> Self {
        match value {
            [digit @ b'0'..=b'9'] => Self::Known(digit - b'0'),
            [b'1', digit @ b'0'..=b'6'] => Self::Known(10 + digit - b'0'),
            _ => Self::Other,
        }
    }

    pub(super) fn number(self) -> Option<u8> {
        match self {
            Self::Known(number) => Some(number),
            Self::None | Self::Other => None,
        }
    }
}

/// What was measured of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Measured {
    pub duration: Duration,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

/// All that was measured on one path.
pub(super) struct Series {
    pub(super) labels: PathLabels,
    outcomes: RwLock<HashMap<Outcome, Arc<Counts>>>,
    pub(super) request_messages: AtomicU64,
    pub(super) response_messages: AtomicU64,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) requests: AtomicU64,
    /// In microseconds; shown in milliseconds.
    pub(super) duration: Histogram,
    pub(super) request_bytes: Histogram,
    pub(super) response_bytes: Histogram,
}

impl Counts {
    /// Adds a request to these metrics.
    pub(super) fn add(&self, metrics: MetricSet, measured: Measured) {
        let Measured { duration, request_bytes, response_bytes } = measured;
        if metrics.contains(Metric::RequestCount) {
            self.requests.fetch_add(1, Relaxed);
        }
        if metrics.contains(Metric::RequestDuration) {
            let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
            self.duration.add(micros, micros as f64 / 1000.0);
        }
        if metrics.contains(Metric::RequestSize) {
            self.request_bytes.add(request_bytes, request_bytes as f64);
        }
        if metrics.contains(Metric::ResponseSize) {
            self.response_bytes.add(response_bytes, response_bytes as f64);
        }
    }
}

impl Series {
    fn new(labels: PathLabels) -> Arc<Self> {
        let (outcomes, request_messages, response_messages) = Default::default();
        Arc::new(Self { labels, outcomes, request_messages, response_messages })
    }

    pub(super) fn measure(&self, metrics: MetricSet, outcome: Outcome, measured: Measured) {
        self.counts(outcome).add(metrics, measured);
    }

    /// Adds to the messages of gRPC streams.
    pub(super) fn messages(&self, request: u64, response: u64) {
        self.request_messages.fetch_add(request, Relaxed);
        self.response_messages.fetch_add(response, Relaxed);
    }

    pub(super) fn outcomes(&self) -> Vec<(Outcome, Arc<Counts>)> {
        let outcomes = self.outcomes.read().unwrap_or_else(PoisonError::into_inner);
        outcomes.iter().map(|(outcome, counts)| (*outcome, counts.clone())).collect()
    }

    fn counts(&self, outcome: Outcome) -> Arc<Counts> {
        let outcome = Outcome { code: if matches!(outcome.code, 0 | 100..=599) { outcome.code } else { 0 }, ..outcome };
        if let Some(counts) = self.outcomes.read().unwrap_or_else(PoisonError::into_inner).get(&outcome) {
            return counts.clone();
        }
        let mut outcomes = self.outcomes.write().unwrap_or_else(PoisonError::into_inner);
        let outcome = if outcomes.len() < MAX_OUTCOMES { outcome } else { outcome.folded() };
        outcomes.entry(outcome).or_default().clone()
    }
}

impl Outcome {
    /// One of few: the class of the status, no gRPC status, no flags.
    pub(super) fn folded(self) -> Self {
        let Self { grpc, code, grpc_status: _, flags: _ } = self;
        Self { grpc, code: code / 100 * 100, grpc_status: GrpcStatus::None, flags: ResponseFlags::NONE }
    }
}

/// Envoy's default buckets, which Istio uses for milliseconds and bytes alike.
pub(super) const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

#[derive(Default)]
pub(super) struct Histogram {
    /// The last is for what exceeds every bound.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum: AtomicU64,
}

impl Histogram {
    /// `value` in the unit of the buckets, `exact` in that of the sum.
    fn add(&self, exact: u64, value: f64) {
        let bucket = BUCKETS.partition_point(|bound| *bound < value);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(exact, Relaxed);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.load(Relaxed) == 0)
    }

    /// The sum, and what each bucket holds beside those below it.
    pub(super) fn read(&self) -> (u64, [(f64, u64); BUCKETS.len() + 1]) {
        let bound = |index: usize| BUCKETS.get(index).copied().unwrap_or(f64::INFINITY);
        (self.sum.load(Relaxed), std::array::from_fn(|index| (bound(index), self.buckets[index].load(Relaxed))))
    }
}

/// Every series of the node.
pub(super) struct AllSeries {
    series: RwLock<HashMap<PathLabels, Arc<Series>>>,
    /// Those whose labels a Telemetry has changed.
    pub(super) custom: CustomSeries,
    limit: usize,
}

impl AllSeries {
    pub(super) fn new() -> Arc<Self> {
        Self::with_limit(MAX_SERIES)
    }

    pub(super) fn with_limit(limit: usize) -> Arc<Self> {
        Arc::new(Self { series: RwLock::default(), custom: CustomSeries::default(), limit })
    }

    pub(super) fn of(&self, flow: &Flow) -> Arc<Series> {
        let labels = PathLabels::new(flow);
        if let Some(series) = self.series.read().unwrap_or_else(PoisonError::into_inner).get(&labels) {
            return series.clone();
        }
        let mut all = self.series.write().unwrap_or_else(PoisonError::into_inner);
        let labels = if all.len() < self.limit || all.contains_key(&labels) { labels } else { labels.folded() };
        all.entry(labels.clone()).or_insert_with(|| Series::new(labels)).clone()
    }

    pub(super) fn all(&self) -> Vec<Arc<Series>> {
        self.series.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl fmt::Debug for AllSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AllSeries").field("series", &self.all().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
