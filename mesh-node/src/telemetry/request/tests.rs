use std::{
    io::{self, Write},
    sync::Mutex,
};

use http::Request;
use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt};

use super::*;
use crate::telemetry::{
    AccessForm, Direction,
    testing::{cluster, facts, flow, record},
};

/// The log of a test.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("lock").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What `request` logs in a form.
fn logged(form: AccessForm, request: impl FnOnce(&Arc<Telemetry>)) -> String {
    let log = Log::default();
    let telemetry = Telemetry::new();
    telemetry.set_access_form(form);
    let registry = tracing_subscriber::registry();
    let act = || request(&telemetry);
    match form {
        AccessForm::Text => {
            let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(log.clone());
            tracing::subscriber::with_default(registry.with(layer), act);
        }
        AccessForm::Json => {
            let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(log.clone());
            tracing::subscriber::with_default(registry.with(layer), act);
        }
    }
    let bytes = log.0.lock().expect("lock").clone();
    String::from_utf8(bytes).expect("text")
}

/// The value of the first line of a metric that has all these labels.
fn value(metrics: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let of_metric = metrics.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')));
    let line = of_metric.into_iter().find(|line| labels.iter().all(|label| line.contains(label)))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn a_request_is_measured_under_istios_labels() {
    let telemetry = Telemetry::new();
    let mut request = record(&telemetry);
    request.tallies().add(Side::Request, 3, 0);
    request.tallies().add(Side::Response, 700, 0);
    request.answered(StatusCode::OK, &HeaderMap::new());
    request.end(Ending::Complete, None);
    let metrics = telemetry.metrics.encode();
    let labels = [
        "reporter=\"source\"",
        "source_workload=\"page-v1\"",
        "source_workload_namespace=\"shop\"",
        "source_principal=\"spiffe://cluster.local/ns/shop/sa/page\"",
        "source_app=\"page\"",
        "source_version=\"v1\"",
        "source_cluster=\"c1\"",
        "source_canonical_service=\"page\"",
        "source_canonical_revision=\"v1\"",
        "destination_workload=\"reviews-v1\"",
        "destination_workload_namespace=\"shop\"",
        "destination_principal=\"spiffe://cluster.local/ns/shop/sa/reviews\"",
        "destination_app=\"reviews\"",
        "destination_version=\"v1\"",
        "destination_cluster=\"c1\"",
        "destination_canonical_service=\"reviews\"",
        "destination_canonical_revision=\"v1\"",
        "destination_service=\"reviews.shop.svc.cluster.local\"",
        "destination_service_name=\"reviews\"",
        "destination_service_namespace=\"shop\"",
        "request_protocol=\"http\"",
        "response_code=\"200\"",
        "grpc_response_status=\"\"",
        "response_flags=\"-\"",
        "connection_security_policy=\"mutual_tls\"",
    ];
    assert_eq!(value(&metrics, "istio_requests_total", &labels), Some(1.0), "{metrics}");
    assert_eq!(value(&metrics, "istio_request_bytes_sum", &labels), Some(3.0));
    assert_eq!(value(&metrics, "istio_response_bytes_sum", &labels), Some(700.0));
    assert_eq!(value(&metrics, "istio_request_duration_milliseconds_count", &labels), Some(1.0));
    for (le, count) in [("500.0", 0.0), ("1000.0", 1.0), ("3600000.0", 1.0), ("+Inf", 1.0)] {
        let bucket = format!("le=\"{le}\"");
        assert_eq!(value(&metrics, "istio_response_bytes_bucket", &[&bucket]), Some(count), "{le}");
    }
    assert!(!metrics.contains("istio_request_messages_total{"), "no gRPC");
    assert!(metrics.ends_with("# EOF\n"));
}

#[test]
fn grpc_tells_its_status_and_messages() {
    let telemetry = Telemetry::new();
    let path = telemetry.path(flow(Direction::Inbound), crate::telemetry::Cluster::Inbound { port: 9080 });
    let grpc = || facts(Request::post("/shop.Stock/Get").header("content-type", "application/grpc"));
    let mut request = telemetry.request(path.clone(), grpc());
    request.tallies().add(Side::Request, 10, 1);
    request.tallies().add(Side::Response, 30, 3);
    request.answered(StatusCode::OK, &HeaderMap::new());
    request.end(Ending::Complete, Some(&HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("14"))])));
    // Trailers only: the status is in the head.
    let mut refused = telemetry.request(path, grpc());
    refused.answered(StatusCode::OK, &HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("7"))]));
    refused.end(Ending::Complete, None);
    let metrics = telemetry.metrics.encode();
    for status in ["14", "7"] {
        let labels = [&format!("grpc_response_status=\"{status}\""), "reporter=\"destination\"", "request_protocol=\"grpc\""];
        assert_eq!(value(&metrics, "istio_requests_total", &labels), Some(1.0), "{status}: {metrics}");
    }
    assert_eq!(value(&metrics, "istio_request_messages_total", &["reporter=\"destination\""]), Some(1.0));
    assert_eq!(value(&metrics, "istio_response_messages_total", &[]), Some(3.0));
}

#[test]
fn whatever_a_server_answers_makes_few_label_sets() {
    let telemetry = Telemetry::new();
    for code in 100..=999 {
        for grpc_status in ["0", "16", "17", "none of these", "\u{ff}"] {
            let grpc = facts(Request::post("/a").header("content-type", "application/grpc"));
            let mut request = telemetry.request(telemetry.path(flow(Direction::Outbound), cluster()), grpc);
            let headers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::try_from(grpc_status).expect("a value"))]);
            request.answered(StatusCode::from_u16(code).expect("a status"), &headers);
            request.end(Ending::Complete, None);
        }
    }
    let metrics = telemetry.metrics.encode();
    let lines: Vec<_> = metrics.lines().filter(|line| line.starts_with("istio_requests_total{")).collect();
    assert!(lines.len() <= 64 + 6, "{}", lines.len());
    let sum: f64 = lines.iter().filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    assert_eq!(sum.to_string(), "4500", "all are counted");
    assert!(!metrics.contains("none of these"));
}

#[test]
fn a_request_that_is_given_up_is_counted_and_logged_once() {
    let mut metrics = String::new();
    let log = logged(AccessForm::Text, |telemetry| {
        drop(record(telemetry));
        metrics = telemetry.metrics.encode();
    });
    assert_eq!(
        value(&metrics, "istio_requests_total", &["response_code=\"0\"", "response_flags=\"DC\""]),
        Some(1.0),
        "{metrics}"
    );
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("\" 0 DC downstream_remote_disconnect - \"-\" 0 0 "), "{log}");
}

#[test]
fn the_text_log_is_istios_line() {
    let log = logged(AccessForm::Text, |telemetry| {
        let head = Request::get("/reviews/1?full")
            .header("host", "reviews:9080")
            .header("user-agent", "curl/8.5.0")
            .header("x-request-id", "e3c1")
            .header("x-forwarded-for", "10.1.1.1");
        let mut request = telemetry.request(telemetry.path(flow(Direction::Outbound), cluster()), facts(head));
        request.route("by-user".into());
        request.upstream_local(([10, 0, 0, 1], 5000).into());
        request.tallies().add(Side::Response, 42, 0);
        let headers = HeaderMap::from_iter([(X_ENVOY_UPSTREAM_SERVICE_TIME, HeaderValue::from_static("3"))]);
        request.answered(StatusCode::CREATED, &headers);
        request.end(Ending::Complete, None);
    });
    let (_, line) = log.split_once(" access: [").expect("a line of the access log");
    let (start, line) = line.split_once("] ").expect("a time");
    assert!(start.len() == 24 && start.ends_with('Z'), "{start}");
    let duration = line.split(' ').nth(10).expect("the duration");
    assert!(duration.parse::<u64>().is_ok(), "{line}");
    let expected = "\"GET /reviews/1?full HTTP/1.1\" 201 - via_upstream - \"-\" 0 42 _ 3 \"10.1.1.1\" \"curl/8.5.0\" \"e3c1\" \
                    \"reviews:9080\" \"10.0.1.2:9080\" outbound|9080|v1|reviews.shop.svc.cluster.local 10.0.0.1:5000 \
                    10.96.0.7:9080 10.0.0.1:4711 - by-user";
    let rest = line.replacen(&format!(" 42 {duration} 3 "), " 42 _ 3 ", 1);
    assert!(rest.starts_with(expected), "{rest}");
    assert!(rest.contains("reporter=\"source\"") && rest.contains("src.workload=\"page-7d9c\""), "{rest}");
}

#[test]
fn the_json_log_has_istios_fields() {
    let log = logged(AccessForm::Json, |telemetry| {
        let mut request = record(telemetry);
        request.flag(ResponseFlags::UPSTREAM_CONNECT_FAILURE);
        request.flag(ResponseFlags::RETRY_LIMIT);
        request.details("upstream_reset_before_response_started{remote_connection_failure}");
        request.upstream_failure("connection refused");
        request.answered(StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new());
        request.end(Ending::Complete, None);
    });
    let line: serde_json::Value = serde_json::from_str(log.trim()).expect("one object");
    let expected = serde_json::json!({
        "target": "access", "method": "GET", "path": "/reviews/1?full", "protocol": "HTTP/1.1", "response_code": 503,
        "response_flags": "UF,URX", "upstream_transport_failure_reason": "connection refused",
        "response_code_details": "upstream_reset_before_response_started{remote_connection_failure}",
        "bytes_received": 0, "bytes_sent": 0, "authority": "reviews:9080", "upstream_host": "10.0.1.2:9080",
        "upstream_cluster": "outbound|9080|v1|reviews.shop.svc.cluster.local",
        "downstream_local_address": "10.96.0.7:9080", "downstream_remote_address": "10.0.0.1:4711",
        "reporter": "source", "src.workload": "page-7d9c", "dst.workload": "reviews-7d9c",
        "src.identity": "spiffe://cluster.local/ns/shop/sa/page",
    });
    for (name, value) in expected.as_object().expect("an object") {
        assert_eq!(line.get(name), Some(value), "{name} in {line}");
    }
    for missing in ["user_agent", "request_id", "route_name", "connection_termination_details", "upstream_service_time"] {
        assert_eq!(line.get(missing), None, "{missing}");
    }
}

#[test]
fn what_a_peer_wrote_neither_ends_a_line_nor_fills_it() {
    let log = logged(AccessForm::Text, |telemetry| {
        let agent = HeaderValue::from_bytes(b"a\"b\\c\td\x80\xff").expect("a value");
        let long = HeaderValue::try_from("x".repeat(60_000)).expect("a value");
        let head = Request::get("/").header("user-agent", agent).header("x-request-id", long);
        let request = telemetry.request(telemetry.path(flow(Direction::Outbound), cluster()), facts(head));
        request.end(Ending::Complete, None);
    });
    assert_eq!(log.lines().count(), 1);
    assert!(log.contains("\"a\\\"b\\\\c\\td\\x80\\xff\""), "{log}");
    assert!(log.len() < 10_000 && log.contains("xxx...\""), "{}", log.len());
}

#[test]
fn an_ending_after_the_head_says_whose_doing_it_was() {
    for (how, flags, details) in [
        (Ending::Failed, "UC", "upstream_reset_after_response_started{connection_termination}"),
        (Ending::TimedOut, "UT", "response_timeout"),
        (Ending::Idle, "SI", "stream_idle_timeout"),
        (Ending::Aborted, "DC", "downstream_remote_disconnect"),
    ] {
        let log = logged(AccessForm::Text, |telemetry| {
            let mut request = record(telemetry);
            request.answered(StatusCode::OK, &HeaderMap::new());
            request.end(how, None);
        });
        assert!(log.contains(&format!("\" 200 {flags} {details} ")), "{log}");
    }
}
