use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_policy::model::Percent;
use prost::Message;
use tokio::{net::TcpListener, sync::mpsc::UnboundedReceiver, time::sleep};

use super::*;
use crate::telemetry::{Ending, SpanContext, SpanId, Telemetry, TraceId, testing::record};

/// A collector at the level of bytes: the path and the message are what any other would see.
async fn collector() -> (SocketAddr, UnboundedReceiver<ExportRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tell = tell.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let tell = tell.clone();
                async move {
                    assert_eq!(request.uri().path(), EXPORT);
                    assert_eq!(request.headers()["content-type"], "application/grpc");
                    let body = request.into_body().collect().await.expect("whole").to_bytes();
                    let message = ExportRequest::decode(&body[5..]).expect("an export request");
                    let _ = tell.send(message);
                    let trailers = http::HeaderMap::from_iter([(
                        http::HeaderName::from_static("grpc-status"),
                        http::HeaderValue::from_static("0"),
                    )]);
                    let empty = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async { Some(Ok(trailers)) });
                    let response = http::Response::builder().header("content-type", "application/grpc").body(empty);
                    Ok::<_, Infallible>(response.expect("a response"))
                }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, told)
}

fn context() -> SpanContext {
    SpanContext { trace_id: TraceId([1; 16]), span_id: SpanId([2; 8]), parent: Some(SpanId([3; 8])) }
}

#[tokio::test]
async fn a_traced_request_arrives_as_a_span() {
    let (address, mut told) = collector().await;
    let exporter = OtlpExporter::start(&format!("http://{address}"), Arc::default()).expect("an address");
    let telemetry = Telemetry::new();
    telemetry.export_spans(exporter.clone());
    telemetry.set_trace_share(Percent::NONE);
    let mut traced = record(&telemetry);
    traced.span(context());
    traced.answered(http::StatusCode::BAD_GATEWAY, &http::HeaderMap::new());
    traced.end(Ending::Complete, None);
    record(&telemetry).end(Ending::Complete, None);

    let message = told.recv().await.expect("an export");
    let [resource] = &message.resource_spans[..] else { panic!("{message:?}") };
    let service = &resource.resource.as_ref().expect("a resource").attributes[0];
    assert_eq!((service.key.as_str(), text(service)), ("service.name", "page.shop"));
    let [span] = &resource.scope_spans[0].spans[..] else { panic!("the untraced request is none: {message:?}") };
    assert_eq!((&span.trace_id[..], &span.span_id[..], &span.parent_span_id[..]), (&[1; 16][..], &[2; 8][..], &[3; 8][..]));
    assert_eq!((span.kind, span.status.clone()), (3, Some(message::Status { code: 2 })));
    assert_eq!(span.name, "reviews.shop.svc.cluster.local:9080/*");
    assert!(span.start_time_unix_nano > 0 && span.end_time_unix_nano >= span.start_time_unix_nano);
    let attribute = |name: &str| span.attributes.iter().find(|attribute| attribute.key == name).expect(name);
    for (name, expected) in [
        ("http.method", "GET"),
        ("http.url", "http://reviews:9080/reviews/1?full"),
        ("upstream_cluster", "outbound|9080|v1|reviews.shop.svc.cluster.local"),
        ("response_flags", "-"),
        ("istio.canonical_service", "page"),
        ("istio.canonical_revision", "v1"),
    ] {
        assert_eq!(text(attribute(name)), expected, "{name}");
    }
    let status = attribute("http.status_code").value.as_ref().and_then(|value| value.value.clone());
    assert_eq!(status, Some(message::Any::Number(502)));
    while exporter.counts().sent.load(Relaxed) == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    exporter.counts.show(&telemetry.metrics);
    let metrics = telemetry.metrics.encode();
    assert!(metrics.contains("keelson_spans_total{outcome=\"sent\"} 1\n"), "{metrics}");
    assert!(metrics.contains("keelson_spans_total{outcome=\"dropped\"} 0\n"), "{metrics}");
}

fn text(attribute: &message::KeyValue) -> &str {
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(message::Any::Text(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn without_a_collector_spans_are_dropped_and_nothing_waits() {
    // A port that nobody listens on: bound, and let go.
    let address = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let exporter = OtlpExporter::start(&format!("http://{address}"), Arc::default()).expect("an address");
    let telemetry = Telemetry::new();
    telemetry.export_spans(exporter.clone());
    telemetry.set_trace_share(Percent::NONE);
    for _ in 0..3 * QUEUE {
        let mut traced = record(&telemetry);
        traced.span(context());
        traced.end(Ending::Complete, None);
    }
    while exporter.counts().dropped.load(Relaxed) < 3 * QUEUE as u64 {
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(exporter.counts().sent.load(Relaxed), 0);
    assert!(OtlpExporter::start("not an address", Arc::default()).is_err());
}
