//! What the controller counts.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct TypeLabel {
    /// Last part of the resource type's name.
    pub resource: &'static str,
}

/// Registered metrics and the registry that encodes them.
pub struct Telemetry {
    registry: Registry,
    pub metrics: Metrics,
}

#[derive(Clone, Debug)]
pub struct Metrics {
    pub connected_nodes: Gauge,
    pub pushes: Family<TypeLabel, Counter>,
    pub resources_pushed: Family<TypeLabel, Counter>,
    pub acks: Family<TypeLabel, Counter>,
    pub nacks: Family<TypeLabel, Counter>,
    pub rejected_objects: Gauge,
    pub file_errors: Gauge,
    pub source_readable: Gauge,
    pub objects: Gauge,
    pub certificates: Counter,
    pub sign_errors: Counter,
    pub reconcile_seconds: Histogram,
    pub status_errors: Counter,
    pub statuses_written: Counter,
    pub leader: Gauge,
    pub root_errors: Counter,
    pub foreign_roots: Gauge,
    pub objects_admitted: Counter,
    pub objects_refused: Counter,
}

impl Telemetry {
    pub fn new() -> Self {
        let metrics = Metrics {
            connected_nodes: Gauge::default(),
            pushes: Family::default(),
            resources_pushed: Family::default(),
            acks: Family::default(),
            nacks: Family::default(),
            rejected_objects: Gauge::default(),
            file_errors: Gauge::default(),
            source_readable: Gauge::default(),
            objects: Gauge::default(),
            certificates: Counter::default(),
            sign_errors: Counter::default(),
            reconcile_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            status_errors: Counter::default(),
            statuses_written: Counter::default(),
            leader: Gauge::default(),
            root_errors: Counter::default(),
            foreign_roots: Gauge::default(),
            objects_admitted: Counter::default(),
            objects_refused: Counter::default(),
        };
        metrics.source_readable.set(1);
        let mut registry = Registry::with_prefix("keelson_controller");
        let m = &metrics;
        registry.register("connected_nodes", "Nodes with an open configuration stream", m.connected_nodes.clone());
        registry.register("xds_pushes", "Responses sent to nodes", m.pushes.clone());
        registry.register("xds_resources", "Resources sent or removed", m.resources_pushed.clone());
        registry.register("xds_acks", "Responses that nodes took", m.acks.clone());
        registry.register("xds_nacks", "Responses that nodes refused", m.nacks.clone());
        registry.register("rejected_objects", "Objects that are refused at present", m.rejected_objects.clone());
        registry.register("file_errors", "Files and documents that are not understood at present", m.file_errors.clone());
        registry.register("source_readable", "1 while the source of objects can be read", m.source_readable.clone());
        registry.register("objects", "Objects that were read", m.objects.clone());
        registry.register("certificates_signed", "Certificates signed for workloads", m.certificates.clone());
        registry.register("sign_errors", "Certificate requests that were refused or failed", m.sign_errors.clone());
        registry.register("reconcile_seconds", "Time from a change to its publication", m.reconcile_seconds.clone());
        registry.register("status_errors", "Statuses that could not be written", m.status_errors.clone());
        registry.register("statuses_written", "Statuses written on the API server", m.statuses_written.clone());
        registry.register("leader", "1 while this replica leads: it alone writes", m.leader.clone());
        registry.register("root_errors", "ConfigMaps of roots that could not be written", m.root_errors.clone());
        registry.register("foreign_roots", "Namespaces whose istio-ca-root-cert is somebody else's", m.foreign_roots.clone());
        registry.register("webhook_admitted", "Objects that the webhook let through", m.objects_admitted.clone());
        registry.register("webhook_refused", "Objects that the webhook refused", m.objects_refused.clone());
        Self { registry, metrics }
    }

    /// Text format of OpenMetrics.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}
