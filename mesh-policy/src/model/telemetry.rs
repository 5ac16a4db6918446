//! What is told of a workload's traffic: which metrics with which labels, which log, which traces (Istio's Telemetry API).
//!
//! Levels are merged before they travel: each [`Telemetry`] says all of it for the workloads that it is for, in both halves of
//! the path. The one that a half follows is found by [`Snapshot::telemetry`](super::Snapshot::telemetry).

mod line;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

pub use self::line::{LogLine, LogPiece, Operator};
use super::{Percent, ServiceKey};
use crate::expression::Expression;

/// All levels that concern some workloads, merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    pub key: TelemetryKey,
    /// Of those of a namespace that are for some of its workloads: the least that is for a workload is the one that counts.
    #[serde(default)]
    pub order: u32,
    pub applies: Applies,
    /// For people: the objects that it was made of, `namespace/name`, the narrowest last.
    #[serde(default)]
    pub origins: Vec<Arc<str>>,
    pub client: Half,
    pub server: Half,
}

/// One for each object that narrows it, one for each namespace, one for the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TelemetryKey {
    Mesh,
    Namespace(Arc<str>),
    Object { namespace: Arc<str>, name: Arc<str> },
}

impl fmt::Display for TelemetryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("mesh"),
            Self::Namespace(namespace) => write!(f, "namespace {namespace}"),
            Self::Object { namespace, name } => write!(f, "{namespace}/{name}"),
        }
    }
}

/// Which workloads of its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applies {
    All,
    Labelled(BTreeMap<Arc<str>, Arc<str>>),
    /// The server's half of what is for one of these services.
    Services(BTreeSet<ServiceKey>),
}

/// What one half of the path tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Half {
    pub metrics: MetricSettings,
    pub logs: Logs,
    pub tracing: Tracing,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricSettings {
    /// No metric at all.
    pub off: bool,
    pub overrides: BTreeMap<Metric, MetricOverride>,
}

/// Istio's standard metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Metric {
    RequestCount,
    RequestDuration,
    RequestSize,
    ResponseSize,
    TcpOpenedConnections,
    TcpClosedConnections,
    TcpSentBytes,
    TcpReceivedBytes,
    GrpcRequestMessages,
    GrpcResponseMessages,
}

impl Metric {
    pub const ALL: [Self; 10] = [
        Self::RequestCount,
        Self::RequestDuration,
        Self::RequestSize,
        Self::ResponseSize,
        Self::TcpOpenedConnections,
        Self::TcpClosedConnections,
        Self::TcpSentBytes,
        Self::TcpReceivedBytes,
        Self::GrpcRequestMessages,
        Self::GrpcResponseMessages,
    ];

    /// As in the Telemetry API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestCount => "REQUEST_COUNT",
            Self::RequestDuration => "REQUEST_DURATION",
            Self::RequestSize => "REQUEST_SIZE",
            Self::ResponseSize => "RESPONSE_SIZE",
            Self::TcpOpenedConnections => "TCP_OPENED_CONNECTIONS",
            Self::TcpClosedConnections => "TCP_CLOSED_CONNECTIONS",
            Self::TcpSentBytes => "TCP_SENT_BYTES",
            Self::TcpReceivedBytes => "TCP_RECEIVED_BYTES",
            Self::GrpcRequestMessages => "GRPC_REQUEST_MESSAGES",
            Self::GrpcResponseMessages => "GRPC_RESPONSE_MESSAGES",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricOverride {
    pub disabled: bool,
    pub tags: BTreeMap<Arc<str>, Tag>,
}

/// What becomes of a label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tag {
    Remove,
    Set(Expression),
}

/// Where and how requests and connections are logged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Logs {
    /// In the node's own form.
    #[default]
    Usual,
    /// In these forms; none of them: not at all.
    As(Vec<AccessLog>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// Its provider's name.
    pub provider: Arc<str>,
    pub form: LogForm,
    #[serde(default)]
    pub filter: Option<Expression>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogForm {
    /// The node's own.
    #[default]
    Usual,
    Text(LogLine),
    /// A JSON object, by key.
    Json(BTreeMap<Arc<str>, LogLine>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tracing {
    pub to: TraceTo,
    /// The share of requests that are traced where their sender says nothing; None: the node's own.
    pub share: Option<Percent>,
    /// Spans do not say which workload tells (`istio.…`).
    pub without_istio_tags: bool,
    pub tags: BTreeMap<Arc<str>, SpanTag>,
}

/// Where spans go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceTo {
    /// The node's own collector, if it has one.
    #[default]
    Usual,
    /// Nowhere: what a sender says of its trace is passed on as it is.
    Nowhere,
    Collector(Collector),
}

/// An OTLP collector.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collector {
    /// Of the mesh, else one that the node looks up.
    pub host: Arc<str>,
    pub port: u16,
    /// The service of the mesh that has the name.
    #[serde(default)]
    pub service: Option<ServiceKey>,
}

/// Where the value of a span's tag comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpanTag {
    Literal(Arc<str>),
    /// A header of the request, by its name in lower case, else the default.
    Header {
        name: Arc<str>,
        #[serde(default)]
        default: Option<Arc<str>>,
    },
    /// What a sidecar of the workload has in its environment.
    Environment {
        variable: Variable,
        #[serde(default)]
        default: Option<Arc<str>>,
    },
}

/// The variables of Istio's sidecars that say something of their pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Variable {
    PodName,
    PodNamespace,
    InstanceIp,
    ServiceAccount,
    NodeName,
    WorkloadName,
    ClusterId,
    TrustDomain,
}

impl Variable {
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "POD_NAME" | "HOSTNAME" => Self::PodName,
            "POD_NAMESPACE" => Self::PodNamespace,
            "INSTANCE_IP" => Self::InstanceIp,
            "SERVICE_ACCOUNT" => Self::ServiceAccount,
            "ISTIO_META_NODE_NAME" => Self::NodeName,
            "ISTIO_META_WORKLOAD_NAME" => Self::WorkloadName,
            "ISTIO_META_CLUSTER_ID" => Self::ClusterId,
            "TRUST_DOMAIN" => Self::TrustDomain,
            _ => return None,
        })
    }
}

impl Telemetry {
    /// Whether it says anything that is not so anyway.
    pub fn is_usual(&self) -> bool {
        self.client == Half::default() && self.server == Half::default()
    }
}

#[cfg(test)]
mod tests;
