//! Changes, as an API server tells them: judged as documents of a folder are.

use std::{collections::HashSet, sync::Arc};

use mesh_config::kinds::{Kind, Name, ObjectKey};
use serde_json::{Value, json};

use super::*;

fn present(document: &Value, status: Option<&Value>) -> Changed {
    Changed::Present(Found { document: Arc::new(document.clone()), status: status.cloned().map(Arc::new) })
}

fn pod(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "shop", "name": name },
        "spec": { "containers": [] }, "status": { "podIP": address },
    })
}

fn policy(spec: &Value) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": { "namespace": "shop", "name": "p" }, "spec": spec,
    })
}

fn policy_key() -> ObjectKey {
    ObjectKey::new(Kind::AuthorizationPolicy, "shop", "p")
}

fn touched(admission: &mut Admission) -> Vec<String> {
    admission.take_touched().iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_told_twice_is_no_change() {
    let mut admission = Admission::default();
    assert_eq!(admission.update(vec![present(&pod("a", "10.0.0.1"), None)]), Effect::Objects);
    assert_eq!(touched(&mut admission), ["Pod shop/a"]);
    assert_eq!(admission.update(vec![present(&pod("a", "10.0.0.1"), None)]), Effect::Nothing);
    assert_eq!(touched(&mut admission), [""; 0]);
    assert_eq!(
        admission.update(vec![present(&pod("a", "10.0.0.2"), None), present(&pod("a", "10.0.0.1"), None)]),
        Effect::Objects
    );
    assert_eq!(admission.update(vec![Changed::Gone(ObjectKey::new(Kind::Pod, "shop", "none"))]), Effect::Nothing);
    assert_eq!(admission.update(vec![Changed::Gone(ObjectKey::new(Kind::Pod, "shop", "a"))]), Effect::Objects);
    assert!(admission.objects().pods.is_empty() && admission.keys().next().is_none());
}

#[test]
fn a_list_takes_out_what_it_does_not_have() {
    let mut admission = Admission::default();
    let all = ["a", "b", "c"].map(|name| present(&pod(name, "10.0.0.1"), None));
    admission.update(all.into_iter().chain([present(&policy(&json!({})), None)]).collect());
    admission.take_touched();
    let names = HashSet::from([Name::new("shop", "b"), Name::new("other", "a")]);
    assert_eq!(admission.update(vec![Changed::Only { kind: Kind::Pod, names }]), Effect::Objects);
    assert_eq!(admission.objects().pods.keys().map(|name| &*name.name).collect::<Vec<_>>(), ["b"]);
    assert_eq!(touched(&mut admission), ["Pod shop/a", "Pod shop/c"]);
    assert_eq!(admission.objects().authorization_policies.len(), 1, "other kinds are another matter");
    assert_eq!(admission.update(vec![Changed::Only { kind: Kind::AuthorizationPolicy, names: HashSet::new() }]), Effect::Objects);
    assert!(admission.objects().authorization_policies.is_empty());
}

#[test]
fn a_refused_object_keeps_its_last_good_version_here_too() {
    let state = tempfile::tempdir().unwrap();
    let mut admission = Admission::load(state.path());
    let good = policy(&json!({ "action": "DENY", "rules": [{}] }));
    let bad = policy(&json!({ "action": "DENY", "rules": [{}], "unknown": 1 }));
    admission.update(vec![present(&good, None)]);
    admission.take_touched();
    assert_eq!(admission.update(vec![present(&bad, None)]), Effect::Objects, "it is told so");
    assert_eq!(touched(&mut admission), [""; 0], "and what counts is as it was");
    assert_eq!(admission.update(vec![present(&bad, None)]), Effect::Nothing);
    let standing = admission.standing(&policy_key()).unwrap();
    assert!(standing.refused && standing.kept);
    assert_eq!(admission.objects().authorization_policies.len(), 1);

    // Over a restart, too.
    let mut admission = Admission::load(state.path());
    admission.update(vec![present(&bad, None)]);
    assert_eq!(admission.objects().authorization_policies.len(), 1);
    assert_eq!(admission.update(vec![present(&good, None)]), Effect::Objects);
    assert!(!state.path().join(HELD_FILE).exists());
    // A pod's text is not kept; its object is.
    let broken = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "shop", "name": "a" }, "status": { "podIP": "x" } });
    admission.update(vec![present(&pod("a", "10.0.0.1"), None), present(&broken, None)]);
    let standing = admission.standing(&ObjectKey::new(Kind::Pod, "shop", "a")).unwrap();
    assert!(standing.refused && standing.kept);
    assert_eq!(admission.objects().pods.len(), 1);
}

#[test]
fn a_status_is_kept_beside_the_object() {
    let mut admission = Admission::default();
    let (object, status) = (policy(&json!({})), json!({ "conditions": [] }));
    admission.update(vec![present(&object, None)]);
    assert_eq!(admission.standing(&policy_key()).unwrap().status, None);
    assert_eq!(admission.update(vec![present(&object, Some(&status))]), Effect::Statuses);
    assert_eq!(admission.standing(&policy_key()).unwrap().status, Some(&status));
    assert_eq!(admission.update(vec![present(&object, Some(&status))]), Effect::Nothing);
    assert_eq!(**admission.standing(&policy_key()).unwrap().document, object);
}

#[test]
fn changes_come_to_what_a_whole_state_comes_to() {
    let documents = [pod("a", "10.0.0.1"), pod("b", "10.0.0.2"), policy(&json!({ "rules": [{}] }))];
    let mut whole = Admission::default();
    let of_file = documents.iter().map(|document| ("f.yaml".into(), Arc::new(document.clone())));
    whole.apply(Sources { documents: of_file.collect(), problems: Vec::new() });
    let mut step_by_step = Admission::default();
    for document in documents.iter().rev() {
        step_by_step.update(vec![present(document, None)]);
    }
    assert_eq!(format!("{:?}", whole.objects()), format!("{:?}", step_by_step.objects()));
    assert_eq!(whole.take_touched(), step_by_step.take_touched());
}
