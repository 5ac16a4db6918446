//! What is read of `opentelemetry/proto/{collector/trace,trace,resource,common}/v1`, by field number.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::client::hex;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

/// Texts alone; of other kinds nothing is read.
#[derive(Clone, PartialEq, prost::Message)]
struct AnyValue {
    #[prost(string, tag = "1")]
    text: String,
}

impl ExportRequest {
    pub(super) fn spans(&self) -> impl Iterator<Item = Value> {
        self.resource_spans.iter().flat_map(|resource| {
            let service = resource.service();
            resource.scope_spans.iter().flat_map(|scope| &scope.spans).map(move |span| span.json(service))
        })
    }
}

impl ResourceSpans {
    fn service(&self) -> &str {
        let attributes = self.resource.iter().flat_map(|resource| &resource.attributes);
        let mut named = attributes.filter(|attribute| attribute.key == "service.name");
        named.find_map(|attribute| attribute.value.as_ref()).map_or("unknown", |value| &value.text)
    }
}

impl Span {
    fn json(&self, service: &str) -> Value {
        // `SpanKind`.
        let kind = match self.kind {
            2 => "server",
            3 => "client",
            _ => "other",
        };
        let texts = self.attributes.iter().filter_map(|attribute| Some((&attribute.key, &attribute.value.as_ref()?.text)));
        let tags: BTreeMap<&String, &String> = texts.filter(|(_, text)| !text.is_empty()).collect();
        let parent = (!self.parent_id.is_empty()).then(|| hex(&self.parent_id));
        json!({
            "trace": hex(&self.trace_id),
            "span": hex(&self.id),
            "parent": parent,
            "service": service,
            "name": self.name,
            "kind": kind,
            "tags": tags,
            "began_us": self.start_time_unix_nano / 1000,
            "took_us": self.end_time_unix_nano.saturating_sub(self.start_time_unix_nano) / 1000,
        })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_span_is_told_with_its_service() {
        let text = |text: &str| AnyValue { text: text.to_owned() };
        let attribute = |key: &str, value: &str| KeyValue { key: key.into(), value: Some(text(value)) };
        let span = Span {
            trace_id: vec![0xab; 16],
            id: vec![1; 8],
            kind: 2,
            start_time_unix_nano: 5_000,
            end_time_unix_nano: 12_000,
            attributes: vec![attribute("stage", "test")],
            ..Span::default()
        };
        let request = ExportRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource { attributes: vec![attribute("other", "x"), attribute("service.name", "page.shop")] }),
                scope_spans: vec![ScopeSpans { spans: vec![span] }],
            }],
        };
        let read = ExportRequest::decode(request.encode_to_vec().as_slice()).unwrap();
        let told: Vec<Value> = read.spans().collect();
        assert_eq!(told.len(), 1);
        let told = &told[0];
        assert_eq!(
            (&told["trace"], &told["service"], &told["kind"]),
            (&"ab".repeat(16).into(), &"page.shop".into(), &"server".into())
        );
        assert_eq!(told["tags"], json!({ "stage": "test" }));
        assert_eq!((&told["parent"], &told["began_us"], &told["took_us"]), (&Value::Null, &5.into(), &7.into()));
    }
}
