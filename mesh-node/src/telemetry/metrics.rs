//! The Prometheus metrics, with the names and labels of Istio's.

use std::{
    fmt::Write,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use mesh_policy::{
    authz::{Outcome, Verdict},
    model::{Metric, Workload},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::Registry,
};

use super::{
    collect::{HttpCollector, ReadSamples, Reading, SampleCollector, Watched, WatchedCollector},
    custom::Admission,
    facts::OfConnection,
    flow::Flow,
    path::owner,
    plan::Plan,
    series::AllSeries,
    tcp::{Label, TcpLabels, TcpSet, known},
};
use crate::reason::Reason;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    direction: &'static str,
    reason: &'static str,
    side: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DryRunLabels {
    destination_workload: Label,
    destination_workload_namespace: Label,
    /// `namespace/name`; `none` where no ALLOW policy would have matched.
    policy: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PodLabels {
    namespace: Label,
    pod: Label,
}

/// Every metric family of the node.
pub struct Metrics {
    registry: Registry,
    opened: Family<TcpSet, Counter>,
    closed: Family<TcpSet, Counter>,
    received_bytes: Family<TcpSet, Counter>,
    sent_bytes: Family<TcpSet, Counter>,
    failed: Family<TcpSet, Counter>,
    failures: Family<FailureLabels, Counter>,
    dry_run_denials: Family<DryRunLabels, Counter>,
    pod_cpu: Family<PodLabels, Gauge<f64, std::sync::atomic::AtomicU64>>,
    pub pods: Gauge,
    pub xds_connected: Gauge,
    pub xds_messages: Counter,
    pub xds_rejected: Counter,
    pub foreign_programs: Gauge,
    pub(super) http: Arc<AllSeries>,
    tcp_admission: Admission,
    watched: Arc<Mutex<Vec<Watched>>>,
    of_pods: Arc<OnceLock<ReadSamples>>,
}

/// The counters of one connection, looked up once.
pub(super) struct TcpCounters {
    pub closed: Counter,
    pub received: Counter,
    pub sent: Counter,
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let build = Info::new(vec![("component", "keelson-node"), ("tag", env!("CARGO_PKG_VERSION"))]);
        registry.register("istio_build", "Component and version of this process", build);
        let mut metrics = Self {
            registry: Registry::default(),
            opened: Family::default(),
            closed: Family::default(),
            received_bytes: Family::default(),
            sent_bytes: Family::default(),
            failed: Family::default(),
            failures: Family::default(),
            dry_run_denials: Family::default(),
            pod_cpu: Family::default(),
            pods: Gauge::default(),
            xds_connected: Gauge::default(),
            xds_messages: Counter::default(),
            xds_rejected: Counter::default(),
            foreign_programs: Gauge::default(),
            http: AllSeries::new(),
            tcp_admission: Admission::default(),
            watched: Arc::default(),
            of_pods: Arc::default(),
        };
        let m = &metrics;
        registry.register("istio_tcp_connections_opened", "TCP connections opened", m.opened.clone());
        registry.register("istio_tcp_connections_closed", "TCP connections closed", m.closed.clone());
        registry.register("istio_tcp_received_bytes", "Bytes of requests", m.received_bytes.clone());
        registry.register("istio_tcp_sent_bytes", "Bytes of responses", m.sent_bytes.clone());
        registry.register("istio_tcp_connections_failed", "TCP connections that could not be opened", m.failed.clone());
        let help = "Connections and requests that policies in dry run would have denied";
        registry.register("keelson_dry_run_denials", help, m.dry_run_denials.clone());
        registry.register("keelson_connection_failures", "Failed connections by stable reason code", m.failures.clone());
        registry.register("keelson_pod_cpu_seconds", "CPU time that a pod cost the shared proxy", m.pod_cpu.clone());
        registry.register("istio_active_proxy_count", "Pods enrolled on this node", m.pods.clone());
        registry.register("keelson_xds_connected", "Whether the stream to the controller stands", m.xds_connected.clone());
        registry.register("istio_xds_message", "Messages received from the controller", m.xds_messages.clone());
        registry.register("keelson_xds_rejected", "Resources from the controller that were refused", m.xds_rejected.clone());
        let foreign = m.foreign_programs.clone();
        registry.register("keelson_foreign_connect_programs", "Foreign programs that run before ours at connect()", foreign);
        registry.register_collector(Box::new(HttpCollector(m.http.clone())));
        registry.register_collector(Box::new(WatchedCollector(m.watched.clone())));
        registry.register_collector(Box::new(SampleCollector(m.of_pods.clone())));
        metrics.registry = registry;
        metrics
    }

    /// All families in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        if text::encode(&mut out, &self.registry).is_err() {
            // Writing to a String does not fail; say so in the output if it ever does.
            let _ = out.write_str("# encoding failed\n# EOF\n");
        }
        out
    }

    /// Shows a counter that is kept elsewhere, with one value for each value of `label`.
    pub fn watch(&self, name: &'static str, help: &'static str, label: &'static str, values: Vec<(&'static str, Reading)>) {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(Watched { name, help, label, values });
    }

    /// Shows what is kept for each pod. Counts once.
    pub fn watch_pods(&self, read: ReadSamples) {
        let _ = self.of_pods.set(read);
    }

    pub(super) fn open(&self, flow: &Flow, plan: Option<&Plan>) -> TcpCounters {
        let labels = TcpLabels::new(flow, "-");
        let Some(plan) = plan else {
            let labels = TcpSet::Usual(labels);
            self.opened.get_or_create(&labels).inc();
            return TcpCounters {
                closed: self.closed.get_or_create_owned(&labels),
                received: self.received_bytes.get_or_create_owned(&labels),
                sent: self.sent_bytes.get_or_create_owned(&labels),
            };
        };
        // One that is turned off counts where nobody looks.
        let counter = |metric: Metric, family: &Family<TcpSet, Counter>| match plan.group(metric) {
            _ if plan.usual.contains(metric) => family.get_or_create_owned(&TcpSet::Usual(labels.clone())),
            None => Counter::default(),
            Some(group) => {
                let (folded, facts) = (labels.folded(), OfConnection::opening(flow));
                let labels = self.tcp_admission.labels(&owner(flow.near()), group, &labels, &folded, &facts);
                family.get_or_create_owned(&TcpSet::Custom(labels))
            }
        };
        counter(Metric::TcpOpenedConnections, &self.opened).inc();
        TcpCounters {
            closed: counter(Metric::TcpClosedConnections, &self.closed),
            received: counter(Metric::TcpReceivedBytes, &self.received_bytes),
            sent: counter(Metric::TcpSentBytes, &self.sent_bytes),
        }
    }

    /// A connection that was never opened to its destination.
    pub(super) fn refuse(&self, flow: &Flow, reason: Reason) {
        self.failed.get_or_create(&TcpSet::Usual(TcpLabels::new(flow, reason.response_flags()))).inc();
        self.failure(flow, reason);
    }

    pub(super) fn failure(&self, flow: &Flow, reason: Reason) {
        let side = match reason.side() {
            crate::reason::Side::Client => "client",
            crate::reason::Side::Server => "server",
            crate::reason::Side::Mesh => "mesh",
        };
        let labels = FailureLabels { direction: flow.direction.as_str(), reason: reason.code(), side };
        self.failures.get_or_create(&labels).inc();
    }

    /// Counts what policies in dry run would have denied, and enforced ones did not.
    pub fn rehearsed(&self, verdict: &Verdict, destination: &Workload) {
        let Some(Outcome::Deny { by, .. }) = verdict.dry_run.as_ref().filter(|_| verdict.is_allowed()) else { return };
        let labels = DryRunLabels {
            destination_workload: known(&destination.workload_name),
            destination_workload_namespace: destination.namespace.clone(),
            policy: by.as_ref().map_or_else(|| "none".into(), |by| by.policy.to_string()),
        };
        self.dry_run_denials.get_or_create(&labels).inc();
    }

    pub fn pod_cpu(&self, namespace: &str, pod: &str, seconds: f64) {
        self.pod_cpu.get_or_create(&PodLabels { namespace: namespace.into(), pod: pod.into() }).set(seconds);
    }

    pub fn forget_pod(&self, namespace: &str, pod: &str) {
        self.pod_cpu.remove(&PodLabels { namespace: namespace.into(), pod: pod.into() });
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
