use std::sync::Mutex;

use http::{HeaderMap, HeaderValue, Request, StatusCode};
use mesh_policy::model::{Applies, MetricOverride, Model, Telemetry as Said, TelemetryKey, Variable};

use super::*;
use crate::{
    state::Store,
    telemetry::{
        Cluster, Direction, Ending, Flow, Span, SpanContext, SpanId, Telemetry, TraceId,
        facts::Told,
        log_form,
        series::Measured,
        testing::{cluster, flow},
    },
};

/// The whole mesh says this of both halves.
fn mesh(half: Half) -> Said {
    let (key, applies) = (TelemetryKey::Mesh, Applies::All);
    Said { key, order: 0, applies, origins: Vec::new(), client: half.clone(), server: half }
}

fn publish(store: &Store, said: impl IntoIterator<Item = Said>) {
    let mut model = Model::default();
    for said in said {
        model.telemetry.insert(said.key.clone(), said.into());
    }
    store.publish(model.snapshot());
}

fn following(half: Half) -> (Arc<Telemetry>, Arc<Store>) {
    let (telemetry, store) = (Telemetry::new(), Store::new());
    telemetry.follow(store.clone());
    publish(&store, [mesh(half)]);
    (telemetry, store)
}

fn expression(source: &str) -> Expression {
    Expression::new(source).expect(source)
}

/// A metric, whether it is off, and its labels: a value, or none to take it away.
type Change<'a> = (Metric, bool, &'a [(&'a str, Option<&'a str>)]);

fn overridden(changes: &[Change<'_>]) -> Half {
    let tag = |source: Option<&str>| source.map_or(Tag::Remove, |source| Tag::Set(expression(source)));
    let change = |(metric, disabled, tags): &Change<'_>| {
        let tags = tags.iter().map(|(name, source)| (Arc::from(*name), tag(*source))).collect();
        (*metric, MetricOverride { disabled: *disabled, tags })
    };
    let overrides = changes.iter().map(change).collect();
    Half { metrics: MetricSettings { off: false, overrides }, ..Half::default() }
}

fn ask(telemetry: &Arc<Telemetry>, path: &str, user: &str, status: StatusCode) {
    let head = Request::get(path).header("host", "reviews:9080").header("x-user", user).body(()).expect("a request");
    let mut request = telemetry.begin(telemetry.path(flow(Direction::Outbound), cluster()), &head.into_parts().0);
    request.answered(status, &HeaderMap::from_iter([(http::header::SERVER, HeaderValue::from_static("shop"))]));
    request.end(Ending::Complete, None);
}

fn lines<'a>(metrics: &'a str, start: &'a str) -> Vec<&'a str> {
    metrics.lines().filter(|line| line.starts_with(start)).collect()
}

#[tokio::test]
async fn labels_are_what_a_telemetry_says() {
    let (telemetry, _store) = following(overridden(&[
        (Metric::RequestCount, false, &[("user", Some("request.headers['X-User']")), ("source_cluster", None)]),
        (Metric::RequestDuration, true, &[]),
    ]));
    ask(&telemetry, "/a", "jane", StatusCode::OK);
    ask(&telemetry, "/b", "jane", StatusCode::OK);
    ask(&telemetry, "/a", "joe", StatusCode::OK);
    let metrics = telemetry.metrics.encode();
    let requests = lines(&metrics, "istio_requests_total{");
    assert_eq!(requests.len(), 2, "{metrics}");
    assert!(requests.iter().any(|line| line.contains("user=\"jane\"") && line.ends_with(" 2")), "{requests:?}");
    assert!(requests.iter().all(|line| !line.contains("source_cluster") && line.contains("destination_cluster")), "{requests:?}");
    assert!(lines(&metrics, "istio_request_duration_milliseconds_count{").is_empty(), "{metrics}");
    let sizes = lines(&metrics, "istio_request_bytes_count{");
    assert!(sizes.len() == 1 && sizes[0].ends_with(" 3") && sizes[0].contains("source_cluster=\"c1\""), "{sizes:?}");
}

#[tokio::test]
async fn connections_and_messages_have_labels_of_their_own_too() {
    let port: &[(&str, Option<&str>)] = &[("port", Some("destination.port")), ("host", Some("request.host"))];
    let (telemetry, _store) = following(overridden(&[
        (Metric::TcpOpenedConnections, false, port),
        (Metric::TcpClosedConnections, true, &[]),
        (Metric::GrpcRequestMessages, false, port),
    ]));
    telemetry.open(flow(Direction::Outbound)).close(None);
    let path = telemetry.path(flow(Direction::Inbound), cluster());
    path.messages(3, 2);
    let metrics = telemetry.metrics.encode();
    for (name, end) in [("istio_tcp_connections_opened_total{", " 1"), ("istio_request_messages_total{", " 3")] {
        let found = lines(&metrics, name);
        assert!(found.len() == 1 && found[0].ends_with(end), "{name}: {found:?}");
        assert!(found[0].contains("port=\"9080\"") && found[0].contains("host=\"unknown\""), "{found:?}");
    }
    assert!(lines(&metrics, "istio_tcp_connections_closed_total{").is_empty(), "{metrics}");
    assert!(lines(&metrics, "istio_response_messages_total{")[0].ends_with(" 2"), "{metrics}");
}

#[tokio::test]
async fn metrics_that_are_off_are_not_there() {
    let metrics = MetricSettings { off: true, ..MetricSettings::default() };
    let (telemetry, store) = following(Half { metrics, ..Half::default() });
    ask(&telemetry, "/a", "jane", StatusCode::OK);
    telemetry.open(flow(Direction::Outbound)).close(None);
    assert!(!telemetry.metrics.encode().contains("reporter="), "{}", telemetry.metrics.encode());
    publish(&store, []);
    ask(&telemetry, "/a", "jane", StatusCode::OK);
    assert_eq!(lines(&telemetry.metrics.encode(), "istio_requests_total{").len(), 1);
}

#[tokio::test]
async fn the_way_of_a_connection_is_made_once_for_each_configuration() {
    let (telemetry, store) = following(Half::default());
    let tracked = telemetry.open_requests(flow(Direction::Outbound));
    let first = tracked.path(tracked.flow().clone(), cluster());
    // Nothing is built for the requests after it, whatever was built for the first.
    for _ in 0..10 {
        assert!(Arc::ptr_eq(&first, &tracked.path(tracked.flow().clone(), cluster())));
    }
    let elsewhere = Flow { destination_address: None, ..tracked.flow().clone() };
    assert!(!Arc::ptr_eq(&first, &tracked.path(elsewhere.clone(), cluster())));
    assert!(!Arc::ptr_eq(&first, &tracked.path(tracked.flow().clone(), Cluster::None)));
    assert!(Arc::ptr_eq(&first, &tracked.path(tracked.flow().clone(), cluster())), "several are remembered");
    publish(&store, []);
    let later = tracked.path(tracked.flow().clone(), cluster());
    assert!(first.plan().is_some() && later.plan().is_none());
    for port in 0..100 {
        let flow = Flow { source_address: ([10, 0, 0, 1], port).into(), ..elsewhere.clone() };
        tracked.path(flow, cluster());
    }
    assert!(!Arc::ptr_eq(&later, &tracked.path(tracked.flow().clone(), cluster())), "not without bound");
}

#[tokio::test]
async fn halves_and_services_are_told_apart() {
    let (telemetry, store) = (Telemetry::new(), Store::new());
    telemetry.follow(store.clone());
    let service = flow(Direction::Inbound).service.expect("a service").key();
    let off = Half { metrics: MetricSettings { off: true, ..MetricSettings::default() }, ..Half::default() };
    let key = TelemetryKey::Object { namespace: "shop".into(), name: "reviews".into() };
    let of_service = Said { key, applies: Applies::Services([service].into()), ..mesh(off) };
    publish(&store, [of_service]);
    let plan = |flow: Flow| telemetry.path(flow, cluster()).plan().is_some();
    assert!(plan(flow(Direction::Inbound)));
    assert!(!plan(flow(Direction::Outbound)), "a client of the service is not meant");
    assert!(!plan(Flow { service: None, ..flow(Direction::Inbound) }), "nor who is reached without it");
}

#[derive(Default)]
struct Spans(Mutex<Vec<Span>>);

impl SpanSink for Spans {
    fn offer(&self, span: Span) {
        self.0.lock().expect("lock").push(span);
    }
}

#[tokio::test]
async fn spans_have_the_tags_and_shares_of_a_telemetry() {
    let header = |default: Option<&str>| SpanTag::Header { name: "x-user".into(), default: default.map(Arc::from) };
    let tags = BTreeMap::from([
        ("component".into(), SpanTag::Literal("mine".into())),
        ("user".into(), header(None)),
        ("pod".into(), SpanTag::Environment { variable: Variable::PodName, default: None }),
        ("none".into(), SpanTag::Header { name: "x-none".into(), default: None }),
        ("default".into(), SpanTag::Header { name: "x-none".into(), default: Some("d".into()) }),
    ]);
    let tracing = Tracing { share: Some(Percent::of(7.0)), without_istio_tags: true, tags, ..Tracing::default() };
    let (telemetry, store) = following(Half { tracing: tracing.clone(), ..Half::default() });
    let begin = || {
        let head = Request::get("/").header("x-user", "ja\"ne").body(()).expect("a request").into_parts().0;
        telemetry.begin(telemetry.path(flow(Direction::Outbound), cluster()), &head)
    };
    assert_eq!(begin().trace_share(), None, "no collector");
    let spans = Arc::new(Spans::default());
    telemetry.export_spans(spans.clone());
    let mut request = begin();
    assert_eq!(request.trace_share(), Some(Percent::of(7.0)));
    request.span(SpanContext { trace_id: TraceId([1; 16]), span_id: SpanId([2; 8]), parent: None });
    request.end(Ending::Complete, None);
    let mut found = spans.0.lock().expect("lock").pop().expect("a span");
    found.tags.sort();
    let told: Vec<(&str, &str)> = found.tags.iter().map(|(name, value)| (&**name, value.as_str())).collect();
    let expected = [("component", "mine"), ("default", "d"), ("pod", "page-7d9c"), ("user", "ja\\\"ne")];
    assert_eq!(told, expected);
    assert!(found.attributes.iter().all(|(name, _)| !name.starts_with("istio.")), "{:?}", found.attributes);
    publish(&store, [mesh(Half { tracing: Tracing { to: TraceTo::Nowhere, ..tracing }, ..Half::default() })]);
    assert_eq!(begin().trace_share(), None, "turned off");
}

#[test]
fn logs_are_lines_and_objects() {
    let telemetry = Telemetry::new();
    let logs: [Log; 1] = [Log { form: LogForm::Usual, filter: Some(expression("response.headers['server'] == 'shop'")) }];
    let half = Half {
        logs: Logs::As(vec![AccessLog {
            provider: "mine".into(),
            form: LogForm::Text(LogLine::new("%REQ(X-User)% %RESP(SERVER?X-B)%").expect("a line")),
            filter: Some(expression("response.headers['server'] == 'shop'")),
        }]),
        ..Half::default()
    };
    let plan = Plan::new(&half, |_| None);
    assert_eq!(plan.request_headers.iter().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-user"]);
    assert_eq!(plan.response_headers.iter().map(HeaderName::as_str).collect::<Vec<_>>(), ["server", "x-b"]);
    let path = crate::telemetry::Path::new(flow(Direction::Inbound), cluster(), &telemetry.metrics.http, Some(Arc::new(plan)));
    let agent = HeaderValue::from_bytes(b"a\"\n".get(..2).expect("two")).expect("a value");
    let head =
        Request::post("/a?b").header("x-user", agent).header("host", "reviews").body(()).expect("a request").into_parts().0;
    let mut request = telemetry.begin(path, &head);
    request.answered(StatusCode::NOT_FOUND, &HeaderMap::from_iter([(http::header::SERVER, HeaderValue::from_static("shop"))]));
    let open = request.opened().expect("open");
    let measured = Measured { duration: std::time::Duration::from_millis(7), request_bytes: 1, response_bytes: 2 };
    let told = Told { open, measured };
    assert!(logs[0].filter.as_ref().expect("a filter").holds(&told));
    for (format, expected) in [
        ("%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE% %DURATION%ms", "POST /a?b HTTP/1.1 404 7ms"),
        ("%REQ(X-USER)%|%REQ(X-NONE)%|%REQ(X-NONE?X-USER)%|%RESP(SERVER):2%", "a\\\"|-|a\\\"|sh"),
        ("%BYTES_RECEIVED%/%BYTES_SENT% %UPSTREAM_HOST% 100%%", "1/2 10.0.1.2:9080 100%"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_PEER_URI_SAN%", "10.0.0.1 spiffe://cluster.local/ns/shop/sa/page"),
        ("%WHAT% %ROUTE_NAME% %REQ(:AUTHORITY)%", "- - reviews"),
    ] {
        assert_eq!(log_form::text(&LogLine::new(format).expect(format), &told), expected, "{format}");
    }
    let labels =
        [("status", "%RESPONSE_CODE%"), ("none", "%REQ(X-NONE)%"), ("both", "%RESPONSE_CODE% %REQ(X-NONE)%"), ("fixed", "x")];
    let labels: Vec<(&str, LogLine)> = labels.iter().map(|(key, line)| (*key, LogLine::new(line).expect("a line"))).collect();
    let object = log_form::object(labels.iter().map(|(key, line)| (*key, line)), &told);
    let expected = serde_json::json!({
        "status": 404, "both": "404 -", "fixed": "x", "reporter": "destination", "src.workload": "page-7d9c", "src.namespace": "shop",
        "dst.workload": "reviews-7d9c", "dst.namespace": "shop",
    });
    assert_eq!(object, expected);
}
