use std::{collections::BTreeMap, time::Duration};

use mesh_config::{
    kinds::gateway::ParentRef,
    status::{CONTROLLER, Code, Condition, Level, Message, ParentStatus},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    form::{Form, short},
    pods::patch,
    queue::Queue,
    writer::resource,
};
use crate::status::desired::{ObjectStatus, PodNews};

const BEFORE: &str = "2026-01-01T00:00:00Z";
const NOW: &str = "2026-01-02T00:00:00Z";

fn accepted(holds: bool) -> Condition {
    Condition {
        observed_generation: Some(2),
        ..Condition::new("Accepted", holds, if holds { "Accepted" } else { "Invalid" }, "text")
    }
}

fn istio(holds: bool, messages: &[(&str, &str)]) -> ObjectStatus {
    let message = |(field, text): &(&str, &str)| Message::new(Level::Error, Code::Invalid, *field, *text);
    ObjectStatus {
        generation: Some(2),
        conditions: vec![accepted(holds)],
        messages: messages.iter().map(message).collect(),
        ..ObjectStatus::default()
    }
}

/// The status after the patch (RFC 7396, lists whole).
fn after(found: &Value, patch: &Value) -> Value {
    let mut status = if found.is_object() { found.clone() } else { json!({}) };
    for (field, value) in patch.as_object().unwrap() {
        match value {
            Value::Null => drop(status.as_object_mut().unwrap().remove(field)),
            value => status[field] = value.clone(),
        }
    }
    status
}

/// Applies what is to be written, and holds that nothing is left to write then.
fn settled(form: Form, found: &Value, wanted: &ObjectStatus) -> Value {
    let patch = form.patch(Some(found), wanted, NOW).expect("there is something to write");
    let status = after(found, &patch);
    assert!(!form.differs(Some(&status), wanted), "{status}");
    status
}

#[test]
fn an_istio_object_is_told_cause_and_generation() {
    let wanted = istio(false, &[("spec.http[0]", "is wrong")]);
    let status = settled(Form::Istio, &Value::Null, &wanted);
    let expected = json!({
        "conditions": [{
            "type": "Accepted", "status": "False", "reason": "Invalid", "message": "text: spec.http[0]: is wrong",
            "lastTransitionTime": NOW, "observedGeneration": 2,
        }],
        "validationMessages": [{ "level": "ERROR", "type": { "code": "INVALID", "name": "spec.http[0]: is wrong" } }],
        "observedGeneration": 2,
    });
    assert_eq!(status, expected);

    let good = settled(Form::Istio, &status, &istio(true, &[]));
    assert_eq!(good["conditions"][0]["status"], "True");
    assert_eq!(good.get("validationMessages"), None, "nothing is said by absence");
}

#[test]
fn what_others_have_written_stays() {
    let found = json!({
        "conditions": [
            { "type": "Reconciled", "status": "True", "lastTransitionTime": BEFORE },
            { "type": "Accepted", "status": "False", "reason": "Old", "message": "", "lastTransitionTime": BEFORE },
        ],
        "addresses": [{ "value": "240.0.0.1" }],
    });
    let status = settled(Form::Istio, &found, &istio(true, &[]));
    assert_eq!(status["addresses"], found["addresses"]);
    assert_eq!(status["conditions"][0], found["conditions"][0]);
    assert_eq!(status["conditions"][1]["reason"], "Accepted");
    assert_eq!(status["conditions"].as_array().unwrap().len(), 2);
}

#[test]
fn a_time_moves_only_when_its_condition_turns() {
    let found = json!({
        "conditions": [{ "type": "Accepted", "status": "True", "reason": "Other", "message": "x", "lastTransitionTime": BEFORE }],
    });
    let time = |wanted: &ObjectStatus| settled(Form::Istio, &found, wanted)["conditions"][0]["lastTransitionTime"].clone();
    assert_eq!(time(&istio(true, &[])), BEFORE);
    assert_eq!(time(&istio(false, &[])), NOW);
}

#[test]
fn a_generation_as_text_is_as_good() {
    let mut status = settled(Form::Istio, &Value::Null, &istio(true, &[]));
    status["observedGeneration"] = json!("2");
    status["conditions"][0]["observedGeneration"] = json!("2");
    assert_eq!(Form::Istio.patch(Some(&status), &istio(true, &[]), NOW), None);
}

fn parent(name: &str, conditions: Vec<Condition>) -> ParentStatus {
    let reference = json!({ "group": "", "kind": "Service", "name": name });
    ParentStatus::new(serde_json::from_value::<ParentRef>(reference).unwrap(), conditions)
}

fn route(parents: Vec<ParentStatus>) -> ObjectStatus {
    ObjectStatus { parents, ..ObjectStatus::default() }
}

#[test]
fn a_route_keeps_the_parents_of_other_controllers() {
    let theirs = json!({ "parentRef": { "name": "gateway" }, "controllerName": "example.com/other", "conditions": [] });
    let found = json!({ "parents": [theirs] });
    let both = route(vec![parent("a", vec![accepted(true)]), parent("b", vec![accepted(true)])]);
    let status = settled(Form::Route, &found, &both);
    assert_eq!(status["parents"][0], theirs);
    assert_eq!(status["parents"].as_array().unwrap().len(), 3);
    assert_eq!(status["parents"][1]["controllerName"], CONTROLLER);
    assert_eq!(status["parents"][1]["parentRef"], json!({ "group": "", "kind": "Service", "name": "a" }));

    // One leaves, one turns; conditions that are no longer wanted go with it.
    let turned = route(vec![parent("b", vec![accepted(false)])]);
    let mut aged = status.clone();
    aged["parents"][2]["conditions"] = json!([
        { "type": "PartiallyInvalid", "status": "True", "reason": "r", "message": "m", "lastTransitionTime": BEFORE },
        { "type": "Accepted", "status": "True", "reason": "Accepted", "message": "text", "lastTransitionTime": BEFORE, "observedGeneration": 2 },
    ]);
    let status = settled(Form::Route, &aged, &turned);
    let parents = status["parents"].as_array().unwrap();
    assert_eq!((parents.len(), &parents[0]), (2, &theirs));
    let conditions = parents[1]["conditions"].as_array().unwrap();
    assert_eq!((conditions.len(), conditions[0]["lastTransitionTime"].as_str()), (1, Some(NOW)));

    let none = settled(Form::Route, &status, &route(Vec::new()));
    assert_eq!(none["parents"], json!([theirs]));
    assert!(!Form::Route.differs(None, &route(Vec::new())), "a route of others is left alone");
}

#[test]
fn a_gateway_that_is_said_to_be_programmed_is_left_alone() {
    let wanted = ObjectStatus { conditions: vec![accepted(true)], ..ObjectStatus::default() };
    let theirs = json!({ "conditions": [{ "type": "Accepted", "status": "True", "reason": "Theirs", "observedGeneration": 2 }] });
    assert!(!Form::Conditions.differs(Some(&theirs), &wanted));
    let pending = json!({ "conditions": [{ "type": "Accepted", "status": "Unknown", "reason": "Pending", "message": "", "lastTransitionTime": BEFORE }] });
    let status = settled(Form::Conditions, &pending, &wanted);
    assert_eq!(status["conditions"][0]["reason"], "Accepted");
    let mut older = theirs.clone();
    older["conditions"][0]["observedGeneration"] = json!(1);
    assert!(Form::Conditions.differs(Some(&older), &wanted));
}

#[test]
fn texts_are_cut_between_characters() {
    assert_eq!(short("short"), "short");
    let long = short(&"ä".repeat(4000));
    assert!(long.len() <= 2048 && long.ends_with('…'), "{}", long.len());
}

#[test]
fn resources_have_the_names_that_the_api_server_gives_them() {
    for (version, kind, group, plural) in [
        ("networking.istio.io/v1", "ServiceEntry", "networking.istio.io", "serviceentries"),
        ("networking.istio.io/v1", "VirtualService", "networking.istio.io", "virtualservices"),
        ("security.istio.io/v1", "AuthorizationPolicy", "security.istio.io", "authorizationpolicies"),
        ("telemetry.istio.io/v1", "Telemetry", "telemetry.istio.io", "telemetries"),
        ("gateway.networking.k8s.io/v1", "Gateway", "gateway.networking.k8s.io", "gateways"),
        ("gateway.networking.k8s.io/v1", "GatewayClass", "gateway.networking.k8s.io", "gatewayclasses"),
        ("gateway.networking.k8s.io/v1alpha2", "TCPRoute", "gateway.networking.k8s.io", "tcproutes"),
    ] {
        let found = resource(version, kind);
        assert_eq!((found.group.as_str(), found.plural.as_str(), found.api_version.as_str()), (group, plural, version));
    }
}

#[test]
fn a_pod_is_told_by_its_uid() {
    let refused = PodNews { uid: "u".into(), refused: Some(("HostNetwork", "because".into())) };
    let patch_of = patch(&refused, NOW);
    assert_eq!(patch_of["metadata"]["uid"], "u");
    let condition = &patch_of["status"]["conditions"][0];
    assert_eq!((condition["type"].as_str(), condition["reason"].as_str()), (Some("keelson.io/Captured"), Some("HostNetwork")));
    let well = patch(&PodNews { refused: None, ..refused }, NOW);
    assert_eq!(well["status"]["conditions"], json!([{ "type": "keelson.io/Captured", "$patch": "delete" }]));
}

fn wants(pairs: &[(&'static str, u32)]) -> BTreeMap<&'static str, u32> {
    pairs.iter().copied().collect()
}

#[test]
fn each_object_is_written_once_and_failures_wait_longer_and_longer() {
    let start = Instant::now();
    let mut queue: Queue<&str, u32> = Queue::default();
    queue.want(wants(&[("a", 1), ("b", 1)]), start);
    assert_eq!(queue.next(start), Some(("a", 1)));
    assert_eq!(queue.next(start), Some(("b", 1)));
    assert_eq!(queue.next(start), None);
    queue.done(&"a", true, start);
    // The same again, before it has come back: nothing to do.
    queue.want(wants(&[("a", 1), ("b", 1)]), start);
    assert_eq!(queue.next(start), None);
    let mut now = start;
    for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
        queue.done(&"b", false, now);
        let due = queue.due().unwrap() - now;
        let pause = Duration::from_secs(pause);
        assert!(due >= pause.mul_f64(0.74) && due <= pause.mul_f64(1.26), "{due:?} of {pause:?}");
        assert_eq!(queue.next(now), None);
        now += due;
        assert_eq!(queue.next(now), Some(("b", 1)));
    }
    queue.done(&"b", false, now);
    // Something else about it need not wait.
    queue.want(wants(&[("b", 2)]), now);
    assert_eq!(queue.next(now), Some(("b", 2)));
}

#[test]
fn news_about_an_object_that_is_being_written_comes_after() {
    let start = Instant::now();
    let mut queue: Queue<&str, u32> = Queue::default();
    queue.want(wants(&[("a", 1)]), start);
    assert_eq!(queue.next(start), Some(("a", 1)));
    queue.want(wants(&[("a", 2)]), start);
    assert_eq!((queue.next(start), queue.running()), (None, 1));
    queue.done(&"a", true, start);
    assert_eq!(queue.next(start), Some(("a", 2)));
    queue.done(&"a", true, start);
    // It came back, and was changed by somebody else.
    queue.want(wants(&[]), start);
    queue.want(wants(&[("a", 2)]), start);
    assert_eq!(queue.next(start), Some(("a", 2)));
    // It is gone while it fails.
    queue.want(wants(&[]), start);
    queue.done(&"a", false, start);
    assert_eq!(queue.running(), 0);
}
