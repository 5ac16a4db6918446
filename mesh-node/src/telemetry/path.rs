//! The way that requests of one connection take to one endpoint: what all of them have in common in metrics and logs.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
};

use mesh_policy::{expression::Facts, model::Metric};

use super::{
    Flow, Party,
    collect::{OutcomeSet, PathSet},
    custom::MetricSet,
    facts::OfPath,
    plan::Plan,
    series::{AllSeries, Measured, Outcome, Series},
};

/// Paths that a connection remembers.
const MAX_REMEMBERED: usize = 16;

/// Between two workloads, for one service, as one half sees it. Made once for a connection and an endpoint and shared by the
/// requests that go that way: finding its metrics costs a look-up, each request after that none.
pub struct Path {
    flow: Flow,
    cluster: Cluster,
    series: Arc<Series>,
    /// None: no Telemetry says anything of it.
    plan: Option<Arc<Plan>>,
    all: Arc<AllSeries>,
}

/// A workload by the name that its metrics have.
pub(super) fn owner(party: &Party) -> Arc<str> {
    party.workload.as_ref().map_or_else(|| "".into(), |near| format!("{}/{}", near.namespace, near.workload_name).into())
}

impl Path {
    pub(super) fn new(flow: Flow, cluster: Cluster, all: &Arc<AllSeries>, plan: Option<Arc<Plan>>) -> Arc<Self> {
        let series = all.of(&flow);
        Arc::new(Self { flow, cluster, series, plan, all: all.clone() })
    }

    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(super) fn plan(&self) -> Option<&Plan> {
        self.plan.as_deref()
    }

    /// Counts a request that has ended.
    pub(super) fn measure(&self, told: &dyn Facts, outcome: Outcome, measured: Measured) {
        let Some(plan) = &self.plan else { return self.series.measure(MetricSet::ALL, outcome, measured) };
        if plan.usual.tells_requests() {
            self.series.measure(plan.usual, outcome, measured);
        }
        for group in plan.groups.iter().filter(|group| group.metrics.tells_requests()) {
            let folded = self.series.labels.folded();
            let base = OutcomeSet { path: &self.series.labels, outcome };
            let folded = OutcomeSet { path: &folded, outcome: outcome.folded() };
            self.all.custom.of(&self.owner(), group, &base, &folded, told).counts.add(group.metrics, measured);
        }
    }

    /// Counts messages of gRPC.
    pub(super) fn messages(&self, requests: u64, answers: u64) {
        let Some(plan) = &self.plan else { return self.series.messages(requests, answers) };
        let (request, response) = (Metric::GrpcRequestMessages, Metric::GrpcResponseMessages);
        let usual = |metric, count| if plan.usual.contains(metric) { count } else { 0 };
        self.series.messages(usual(request, requests), usual(response, answers));
        for (metric, count) in [(request, requests), (response, answers)] {
            let Some(group) = plan.group(metric).filter(|_| count > 0) else { continue };
            let folded = self.series.labels.folded();
            let (base, folded) = (PathSet(&self.series.labels), PathSet(&folded));
            let counts = self.all.custom.of(&self.owner(), group, &base, &folded, &OfPath(self));
            let counter = if metric == request { &counts.request_messages } else { &counts.response_messages };
            counter.fetch_add(count, Relaxed);
        }
    }

    /// Whose Telemetry the plan is.
    fn owner(&self) -> Arc<str> {
        owner(self.flow.near())
    }

    /// Whether it was made for just this. What the model shares is compared by reference.
    fn is(&self, flow: &Flow, cluster: &Cluster) -> bool {
        let Flow {
            direction,
            transport,
            security,
            source_address,
            original_destination,
            destination_address,
            source,
            destination,
            service,
        } = flow;
        let same = |one: &Party, other: &Party| {
            let workloads = match (&one.workload, &other.workload) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                (one, other) => one.is_none() && other.is_none(),
            };
            workloads && one.identity == other.identity
        };
        let services = match (&self.flow.service, service) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        services
            && self.flow.direction == *direction
            && self.flow.transport == *transport
            && self.flow.security == *security
            && self.flow.source_address == *source_address
            && self.flow.original_destination == *original_destination
            && self.flow.destination_address == *destination_address
            && same(&self.flow.source, source)
            && same(&self.flow.destination, destination)
            && self.cluster == *cluster
    }
}

/// The paths that the requests of one connection have taken: a request that goes the way of one before it looks nothing up.
#[derive(Default)]
pub(super) struct Paths(Mutex<Remembered>);

#[derive(Default)]
struct Remembered {
    /// Of the configuration that they were made under.
    generation: u64,
    paths: Vec<Arc<Path>>,
}

impl Paths {
    pub(super) fn get(&self, generation: u64, flow: &Flow, cluster: &Cluster) -> Option<Arc<Path>> {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.generation != generation {
            remembered.generation = generation;
            remembered.paths.clear();
        }
        remembered.paths.iter().find(|path| path.is(flow, cluster)).cloned()
    }

    pub(super) fn put(&self, path: &Arc<Path>) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.paths.len() >= MAX_REMEMBERED {
            remembered.paths.remove(0);
        }
        remembered.paths.push(path.clone());
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Path").field("flow", &self.flow).field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// Where requests go, by the name that Istio gives an upstream cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cluster {
    /// Nowhere: answered here, or not routed yet.
    #[default]
    None,
    /// A port of a service.
    Outbound { port: u16, subset: Option<Arc<str>>, host: Arc<str> },
    /// The application's port.
    Inbound { port: u16 },
    /// The address that was dialled, outside the mesh.
    Passthrough,
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("-"),
            Self::Outbound { port, subset, host } => {
                write!(f, "outbound|{port}|{}|{host}", subset.as_deref().unwrap_or_default())
            }
            Self::Inbound { port } => write!(f, "inbound|{port}||"),
            Self::Passthrough => f.write_str("PassthroughCluster"),
        }
    }
}
