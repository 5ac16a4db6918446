use super::*;
use crate::{
    fixtures::pod,
    model::{Document, Model},
};

fn said(key: TelemetryKey, applies: Applies, order: u32) -> Telemetry {
    Telemetry { key, order, applies, origins: Vec::new(), client: Half::default(), server: Half::default() }
}

fn object(name: &str) -> TelemetryKey {
    TelemetryKey::Object { namespace: "shop".into(), name: name.into() }
}

#[test]
fn the_narrowest_counts_and_of_several_the_first() {
    let service = |name: &str| ServiceKey { namespace: "shop".into(), hostname: format!("{name}.shop").into() };
    let labels = |pairs: &[(&str, &str)]| Applies::Labelled(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
    let mut model = Model::default();
    let mut put = |telemetry: Telemetry| model.upsert_document(Document::Telemetry(Box::new(telemetry)));
    put(said(TelemetryKey::Mesh, Applies::All, 0));
    put(said(TelemetryKey::Namespace("shop".into()), Applies::All, 0));
    put(said(object("a-later"), labels(&[("app", "page")]), 7));
    put(said(object("b-first"), labels(&[("app", "page"), ("tier", "front")]), 1));
    put(said(object("c-service"), Applies::Services([service("page")].into()), 2));
    let snapshot = model.snapshot();
    let with = |namespace: &str, labels: &[(&str, &str)]| {
        let mut found = pod(&format!("{namespace}/page"), &["10.0.0.1"]);
        found.labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        found
    };
    for (namespace, labels, serves, expected) in [
        ("other", &[("app", "page")][..], None, "mesh"),
        ("shop", &[], None, "namespace shop"),
        ("shop", &[("app", "page")], None, "shop/a-later"),
        ("shop", &[("app", "page"), ("tier", "front")], None, "shop/b-first"),
        ("shop", &[("app", "page")], Some(service("page")), "shop/c-service"),
        ("shop", &[("app", "page"), ("tier", "front")], Some(service("page")), "shop/b-first"),
        ("shop", &[], Some(service("cart")), "namespace shop"),
    ] {
        let found = snapshot.telemetry(&with(namespace, labels), serves.as_ref()).map(|telemetry| telemetry.key.to_string());
        assert_eq!(found.as_deref(), Some(expected), "{namespace} {labels:?} {serves:?}");
    }
    assert!(Model::default().snapshot().telemetry(&with("shop", &[]), None).is_none());
}

#[test]
fn it_travels_as_it_is_and_not_with_what_is_not_understood() {
    let mut telemetry = said(object("all"), Applies::All, 3);
    let expression = Expression::new("response.code >= 400").unwrap();
    let tags = BTreeMap::from([("a".into(), Tag::Remove), ("b".into(), Tag::Set(expression.clone()))]);
    telemetry.client.metrics.overrides.insert(Metric::RequestCount, MetricOverride { disabled: false, tags });
    let form = LogForm::Text(LogLine::new("%RESPONSE_CODE%").unwrap());
    telemetry.server.logs = Logs::As(vec![AccessLog { provider: "mine".into(), form, filter: Some(expression) }]);
    telemetry.server.tracing.tags.insert("c".into(), SpanTag::Header { name: "x".into(), default: None });
    let document = Document::Telemetry(Box::new(telemetry));
    let text = serde_json::to_string(&document).unwrap();
    assert_eq!(serde_json::from_str::<Document>(&text).unwrap(), document);
    for (good, bad) in
        [("response.code >= 400", "response.code >="), ("%RESPONSE_CODE%", "%RESPONSE"), ("\"origins\"", "\"more\"")]
    {
        assert!(serde_json::from_str::<Document>(&text.replace(good, bad)).is_err(), "{bad}");
    }
}
