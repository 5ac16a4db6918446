//! What a traced request leaves behind, for an exporter.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderName;
use mesh_policy::model::{SpanTag, Variable, Workload};

use super::{Direction, facts::Told, request::Open, series::Measured};

/// 16 bytes, not all zero (W3C Trace Context, §3.2.2.3). Written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// 8 bytes, not all zero (W3C Trace Context, §3.2.2.4). Written as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

/// A request's place in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    /// None: the trace begins here.
    pub parent: Option<SpanId>,
}

/// A finished span.
#[derive(Clone, Debug)]
pub struct Span {
    pub context: SpanContext,
    pub direction: Direction,
    pub name: String,
    /// Of the half that reports: `<canonical name>.<namespace>`, as Istio names services in traces.
    pub service: String,
    pub began: SystemTime,
    pub duration: Duration,
    pub failed: bool,
    pub attributes: Vec<(&'static str, Value)>,
    /// Of the user's own; one of the name of another takes its place.
    pub tags: Vec<(Arc<str>, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Number(i64),
}

/// Where finished spans go. An offer takes no time: what can not be taken at once is dropped and counted.
pub trait SpanSink: Send + Sync {
    fn offer(&self, span: Span);
}

impl Span {
    /// Of a request that is traced.
    pub(super) fn of(open: &Open, measured: Measured) -> Option<Self> {
        let context = open.span?;
        let flow = open.path.flow();
        let near = match flow.direction {
            Direction::Outbound => &flow.source,
            Direction::Inbound => &flow.destination,
        };
        let near = near.workload.as_deref();
        Some(Self {
            context,
            direction: flow.direction,
            name: name(open),
            service: near.map_or_else(|| "unknown".into(), |near| format!("{}.{}", near.canonical_name, near.namespace)),
            began: open.began_at,
            duration: measured.duration,
            failed: open.status.is_none_or(|status| status.is_server_error()),
            attributes: attributes(open, measured),
            tags: tags(open, measured),
        })
    }
}

/// Those that a Telemetry adds. One that has no value is left out.
fn tags(open: &Open, measured: Measured) -> Vec<(Arc<str>, String)> {
    let Some(plan) = open.path.plan() else { return Vec::new() };
    let told = Told { open, measured };
    let near = open.path.flow().near().workload.as_deref();
    let value = |tag: &SpanTag| match tag {
        SpanTag::Literal(value) => Some(value.to_string()),
        SpanTag::Header { name, default } => {
            let name = HeaderName::from_bytes(name.as_bytes()).ok();
            let found = name.and_then(|name| told.request_value(&name).cloned());
            let found = found.map(|value| super::access_log::escape(value.as_bytes()).into_owned());
            found.or_else(|| default.as_ref().map(ToString::to_string))
        }
        SpanTag::Environment { variable, default } => {
            let found = near.map(|near| of_environment(*variable, near)).filter(|found| !found.is_empty());
            found.or_else(|| default.as_ref().map(ToString::to_string))
        }
    };
    plan.span_tags.iter().filter_map(|(name, tag)| Some((name.clone(), value(tag)?))).collect()
}

/// What a sidecar of the workload would have in its environment.
fn of_environment(variable: Variable, workload: &Workload) -> String {
    match variable {
        Variable::PodName => workload.name.to_string(),
        Variable::PodNamespace => workload.namespace.to_string(),
        Variable::InstanceIp => workload.addresses.first().map(ToString::to_string).unwrap_or_default(),
        Variable::ServiceAccount => workload.service_account.to_string(),
        Variable::NodeName => workload.node.to_string(),
        Variable::WorkloadName => workload.workload_name.to_string(),
        Variable::ClusterId => workload.cluster.to_string(),
        Variable::TrustDomain => workload.trust_domain.to_string(),
    }
}

/// The route's name says less than where it leads: `host:port/*`, as Istio's virtual hosts are decorated.
fn name(open: &Open) -> String {
    let flow = open.path.flow();
    let host = flow.service.as_deref().map_or_else(|| flow.original_destination.ip().to_string(), |s| s.hostname.to_string());
    let port = match open.path.cluster() {
        super::Cluster::Outbound { port, .. } | super::Cluster::Inbound { port } => *port,
        super::Cluster::None | super::Cluster::Passthrough => flow.original_destination.port(),
    };
    format!("{host}:{port}/*")
}

/// Envoy's tags and Istio's.
fn attributes(open: &Open, measured: Measured) -> Vec<(&'static str, Value)> {
    let facts = &open.facts;
    let flow = open.path.flow();
    let text = |bytes: &[u8]| Value::Text(super::access_log::escape(bytes).into_owned());
    let header = |value: &Option<http::HeaderValue>| value.as_ref().map(|value| text(value.as_bytes()));
    let authority = facts.authority.as_ref().map_or(&[][..], |authority| authority.as_bytes());
    let path = facts.path.as_ref().map_or("", |path| path.as_str());
    let url = [b"http://", authority, path.as_bytes()].concat();
    let near = match flow.direction {
        Direction::Outbound => flow.source.workload.as_deref(),
        Direction::Inbound => flow.destination.workload.as_deref(),
    };
    let known = |value: &str| (!value.is_empty()).then(|| Value::Text(value.to_owned()));
    let number = |value: u64| Some(Value::Number(i64::try_from(value).unwrap_or(i64::MAX)));
    let cluster = open.path.cluster().to_string();
    let with_istio_tags = open.path.plan().is_none_or(|plan| !plan.without_istio_tags);
    [
        ("component", known("proxy")),
        ("node_id", known("keelson")),
        ("http.method", known(facts.method.as_str())),
        ("http.url", Some(text(&url))),
        ("http.protocol", known(super::access_log::protocol(facts.version))),
        ("http.status_code", number(open.status.map_or(0, |status| u64::from(status.as_u16())))),
        ("grpc.status_code", open.grpc_status.number().map(|number| Value::Number(number.into()))),
        ("request_size", number(measured.request_bytes)),
        ("response_size", number(measured.response_bytes)),
        ("response_flags", known(&open.flags.label())),
        ("guid:x-request-id", header(&facts.request_id)),
        ("user_agent", header(&facts.user_agent)),
        ("downstream_cluster", known("-")),
        ("peer.address", known(&flow.source_address.ip().to_string())),
        ("upstream_address", flow.destination_address.map(|address| Value::Text(address.to_string()))),
        ("upstream_cluster", known(&cluster)),
        ("upstream_cluster.name", known(&cluster)),
        ("istio.canonical_service", near.and_then(|near| known(&near.canonical_name))),
        ("istio.canonical_revision", near.and_then(|near| known(&near.canonical_revision))),
        ("istio.namespace", near.and_then(|near| known(&near.namespace))),
        ("istio.mesh_id", near.map(|near| Value::Text(near.trust_domain.to_string()))),
        ("istio.cluster_id", near.and_then(|near| known(&near.cluster))),
    ]
    .into_iter()
    .filter(|(name, _)| with_istio_tags || !name.starts_with("istio."))
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
