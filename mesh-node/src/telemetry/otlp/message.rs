//! What is used of `opentelemetry/proto/{collector/trace,trace,resource,common}/v1`, by field number.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::telemetry::{Direction, Span, Value};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub rejected_spans: i64,
    #[prost(string, tag = "2")]
    pub error_message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<WireSpan>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Scope {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireSpan {
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub name: String,
    /// `SpanKind`: 2 server, 3 client.
    #[prost(int32, tag = "6")]
    pub kind: i32,
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    pub status: Option<Status>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Status {
    /// `StatusCode`: 0 unset, 2 error.
    #[prost(int32, tag = "3")]
    pub code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeyValue {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AnyValue {
    #[prost(oneof = "Any", tags = "1, 3")]
    pub value: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Any {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

impl ResourceSpans {
    /// The spans of one service.
    pub(super) fn new(service: String, spans: Vec<Span>) -> Self {
        let scope = Scope { name: "keelson".into(), version: env!("CARGO_PKG_VERSION").into() };
        Self {
            resource: Some(Resource { attributes: vec![attribute("service.name", Value::Text(service))] }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans: spans.into_iter().map(WireSpan::from).collect() }],
        }
    }
}

impl From<Span> for WireSpan {
    fn from(span: Span) -> Self {
        let Span { context, direction, name, service: _, began, duration, failed, attributes, tags } = span;
        let usual = attributes.into_iter().filter(|(name, _)| !tags.iter().any(|(own, _)| **own == **name));
        let usual: Vec<KeyValue> = usual.map(|(name, value)| attribute(name, value)).collect();
        let own = tags.iter().map(|(name, value)| attribute(name, Value::Text(value.clone())));
        Self {
            trace_id: context.trace_id.0.to_vec(),
            span_id: context.span_id.0.to_vec(),
            parent_span_id: context.parent.map(|parent| parent.0.to_vec()).unwrap_or_default(),
            name,
            kind: match direction {
                Direction::Inbound => 2,
                Direction::Outbound => 3,
            },
            start_time_unix_nano: nanos(began, Duration::ZERO),
            end_time_unix_nano: nanos(began, duration),
            attributes: usual.into_iter().chain(own).collect(),
            status: Some(Status { code: if failed { 2 } else { 0 } }),
        }
    }
}

fn attribute(name: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => Any::Text(text),
        Value::Number(number) => Any::Number(number),
    };
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn nanos(at: SystemTime, later: Duration) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default() + later;
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
