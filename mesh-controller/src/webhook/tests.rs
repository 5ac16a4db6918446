use serde_json::{Value, json};

use super::*;

fn review(operation: &str, object: &Value, old: &Value) -> Vec<u8> {
    let request = json!({ "uid": "u-1", "operation": operation, "object": object, "oldObject": old });
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request }).to_string().into_bytes()
}

fn created(object: &Value) -> Answer {
    judge(&review("CREATE", object, &Value::Null)).unwrap().0
}

fn policy(spec: &Value) -> Value {
    let metadata = json!({ "name": "p", "namespace": "shop" });
    json!({ "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec })
}

fn route(kind: &str) -> Value {
    let parents = json!([{ "group": "", "kind": kind, "name": "page" }]);
    let spec = json!({ "parentRefs": parents, "rules": [{ "backendRefs": [{ "name": "page" }] }] });
    let metadata = json!({ "name": "r", "namespace": "shop" });
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": metadata, "spec": spec })
}

fn is_refused(answer: &Answer, words: &str) -> bool {
    matches!(answer, Answer::Refused { text } if text.contains(words))
}

const ALLOWED: Answer = Answer::Allowed { warnings: Vec::new() };

#[test]
fn a_bad_object_is_refused_with_field_and_cause() {
    let bad = policy(&json!({ "action": "DENY", "rules": [{ "to": [{ "operation": { "porst": ["80"] } }] }] }));
    let (answer, response) = judge(&review("CREATE", &bad, &Value::Null)).unwrap();
    assert!(is_refused(&answer, "AuthorizationPolicy shop/p was refused: spec.rules[0].to[0].operation.porst"), "{answer:?}");
    assert_eq!(response["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(response["kind"], "AdmissionReview");
    assert_eq!(response["response"]["uid"], "u-1");
    assert_eq!(response["response"]["allowed"], false);
    assert_eq!(response["response"]["status"]["code"], 422);

    let (answer, response) = judge(&review("CREATE", &policy(&json!({})), &Value::Null)).unwrap();
    assert_eq!(answer, ALLOWED);
    assert_eq!(response["response"], json!({ "uid": "u-1", "allowed": true, "warnings": [] }));
}

#[test]
fn unknown_fields_of_what_is_no_policy_are_warned_of() {
    let metadata = json!({ "name": "d", "namespace": "shop" });
    let spec = json!({ "host": "page", "trafficPolisy": {} });
    let rule = json!({ "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": metadata, "spec": spec });
    let answer = created(&rule);
    assert_eq!(answer, Answer::Allowed { warnings: vec!["spec.trafficPolisy: unknown field, passed over".into()] });
}

#[test]
fn what_is_bad_already_can_be_labelled_and_let_go() {
    let bad = policy(&json!({ "action": "NONE" }));
    let update = |object: &Value, old: &Value| judge(&review("UPDATE", object, old)).unwrap().0;
    assert!(is_refused(&update(&bad, &policy(&json!({}))), "spec.action"));
    let mut labelled = bad.clone();
    labelled["metadata"]["labels"] = json!({ "a": "b" });
    assert!(matches!(update(&labelled, &bad), Answer::Allowed { warnings } if warnings.len() == 1));
    let mut leaving = policy(&json!({ "action": "NEITHER" }));
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert!(matches!(update(&leaving, &bad), Answer::Allowed { .. }));
    assert_eq!(judge(&review("DELETE", &Value::Null, &bad)).unwrap().0, ALLOWED);
}

#[test]
fn routes_of_gateways_are_somebody_elses() {
    assert!(is_refused(&created(&route("Service")), "spec.rules[0].backendRefs[0].port"));
    assert_eq!(created(&route("Gateway")), ALLOWED);
    let mut none = route("Service");
    none["spec"]["parentRefs"] = Value::Null;
    assert_eq!(created(&none), ALLOWED);
}

#[test]
fn a_name_that_is_still_to_be_made_is_no_fault() {
    let mut object = policy(&json!({}));
    object["metadata"] = json!({ "generateName": "p-", "namespace": "shop" });
    assert_eq!(created(&object), ALLOWED);
    object["metadata"] = json!({ "namespace": "shop" });
    assert!(is_refused(&created(&object), "metadata.name"));
}

#[test]
fn what_is_no_review_is_an_error() {
    for bad in
        ["", "{}", "[]", r#"{"apiVersion":"v1","request":{}}"#, r#"{"apiVersion":"v1","request":{"uid":1,"operation":"CREATE"}}"#]
    {
        assert!(judge(bad.as_bytes()).is_err(), "{bad}");
    }
}
