//! The labels of TCP metrics.

use std::{fmt, sync::Arc};

use mesh_policy::model::{Service, Workload};
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};

use super::{
    collect,
    custom::{Labelled, Labels},
    flow::{Flow, Party},
};

pub(super) type Label = Arc<str>;

/// Labels of TCP metrics: Istio's, or what a Telemetry has made of them.
#[allow(clippy::large_enum_variant, reason = "the small one is the rare one")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum TcpSet {
    Usual(TcpLabels),
    Custom(Labels),
}

impl EncodeLabelSet for TcpSet {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        match self {
            Self::Usual(labels) => collect::encode(labels, encoder),
            Self::Custom(labels) => {
                labels.iter().try_for_each(|(name, value)| (&**name, &**value).encode(encoder.encode_label()))
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TcpLabels {
    reporter: &'static str,
    source_workload: Label,
    source_canonical_service: Label,
    source_canonical_revision: Label,
    source_workload_namespace: Label,
    source_principal: Label,
    source_app: Label,
    source_version: Label,
    source_cluster: Label,
    source_region: Label,
    source_zone: Label,
    destination_service: Label,
    destination_service_namespace: Label,
    destination_service_name: Label,
    destination_workload: Label,
    destination_canonical_service: Label,
    destination_canonical_revision: Label,
    destination_workload_namespace: Label,
    destination_principal: Label,
    destination_app: Label,
    destination_version: Label,
    destination_cluster: Label,
    destination_region: Label,
    destination_zone: Label,
    request_protocol: &'static str,
    response_flags: &'static str,
    connection_security_policy: &'static str,
}

thread_local! {
    static UNKNOWN: Label = "unknown".into();
}

fn unknown() -> Label {
    UNKNOWN.with(Clone::clone)
}

pub(super) fn known(label: &Label) -> Label {
    if label.is_empty() { unknown() } else { label.clone() }
}

/// The labels that both ends have.
struct PartyLabels {
    workload: Label,
    canonical_service: Label,
    canonical_revision: Label,
    namespace: Label,
    principal: Label,
    cluster: Label,
    region: Label,
    zone: Label,
}

impl PartyLabels {
    fn new(party: &Party) -> Self {
        let principal = party.identity.as_ref().map_or_else(unknown, |identity| identity.to_string().into());
        let field = |get: fn(&Workload) -> &Label| party.workload.as_ref().map_or_else(unknown, |workload| known(get(workload)));
        Self {
            workload: field(|w| &w.workload_name),
            canonical_service: field(|w| &w.canonical_name),
            canonical_revision: field(|w| &w.canonical_revision),
            namespace: field(|w| &w.namespace),
            principal,
            cluster: field(|w| &w.cluster),
            region: field(|w| &w.locality.region),
            zone: field(|w| &w.locality.zone),
        }
    }
}

impl Labelled for TcpLabels {
    fn each(&self, tell: &mut dyn FnMut(&'static str, &str)) {
        let Self {
            reporter,
            source_workload,
            source_canonical_service,
            source_canonical_revision,
            source_workload_namespace,
            source_principal,
            source_app,
            source_version,
            source_cluster,
            source_region,
            source_zone,
            destination_service,
            destination_service_namespace,
            destination_service_name,
            destination_workload,
            destination_canonical_service,
            destination_canonical_revision,
            destination_workload_namespace,
            destination_principal,
            destination_app,
            destination_version,
            destination_cluster,
            destination_region,
            destination_zone,
            request_protocol,
            response_flags,
            connection_security_policy,
        } = self;
        tell("reporter", reporter);
        tell("source_workload", source_workload);
        tell("source_canonical_service", source_canonical_service);
        tell("source_canonical_revision", source_canonical_revision);
        tell("source_workload_namespace", source_workload_namespace);
        tell("source_principal", source_principal);
        tell("source_app", source_app);
        tell("source_version", source_version);
        tell("source_cluster", source_cluster);
        tell("source_region", source_region);
        tell("source_zone", source_zone);
        tell("destination_service", destination_service);
        tell("destination_service_namespace", destination_service_namespace);
        tell("destination_service_name", destination_service_name);
        tell("destination_workload", destination_workload);
        tell("destination_canonical_service", destination_canonical_service);
        tell("destination_canonical_revision", destination_canonical_revision);
        tell("destination_workload_namespace", destination_workload_namespace);
        tell("destination_principal", destination_principal);
        tell("destination_app", destination_app);
        tell("destination_version", destination_version);
        tell("destination_cluster", destination_cluster);
        tell("destination_region", destination_region);
        tell("destination_zone", destination_zone);
        tell("request_protocol", request_protocol);
        tell("response_flags", response_flags);
        tell("connection_security_policy", connection_security_policy);
    }
}

impl TcpLabels {
    /// Where there are too many: of nobody.
    pub(super) fn folded(&self) -> Self {
        let source = PartyLabels::new(&Party::default());
        let destination = PartyLabels::new(&Party::default());
        Self::of(self.reporter, source, destination, None, self.response_flags, self.connection_security_policy)
    }

    pub(super) fn new(flow: &Flow, response_flags: &'static str) -> Self {
        let (source, destination) = (PartyLabels::new(&flow.source), PartyLabels::new(&flow.destination));
        let (reporter, security) = (flow.direction.reporter(), flow.security.as_str());
        Self::of(reporter, source, destination, flow.service.as_deref(), response_flags, security)
    }

    fn of(
        reporter: &'static str,
        source: PartyLabels,
        destination: PartyLabels,
        service: Option<&Service>,
        response_flags: &'static str,
        connection_security_policy: &'static str,
    ) -> Self {
        Self {
            reporter,
            source_workload: source.workload,
            source_app: source.canonical_service.clone(),
            source_version: source.canonical_revision.clone(),
            source_canonical_service: source.canonical_service,
            source_canonical_revision: source.canonical_revision,
            source_workload_namespace: source.namespace,
            source_principal: source.principal,
            source_cluster: source.cluster,
            source_region: source.region,
            source_zone: source.zone,
            destination_service: service.map_or_else(unknown, |service| service.hostname.clone()),
            destination_service_namespace: service.map_or_else(unknown, |service| service.namespace.clone()),
            destination_service_name: service.map_or_else(unknown, |service| service.name.clone()),
            destination_workload: destination.workload,
            destination_app: destination.canonical_service.clone(),
            destination_version: destination.canonical_revision.clone(),
            destination_canonical_service: destination.canonical_service,
            destination_canonical_revision: destination.canonical_revision,
            destination_workload_namespace: destination.namespace,
            destination_principal: destination.principal,
            destination_cluster: destination.cluster,
            destination_region: destination.region,
            destination_zone: destination.zone,
            request_protocol: "tcp",
            response_flags,
            connection_security_policy,
        }
    }
}
