//! What is cut off objects, and when news are complete. Watches are tried on a real API server (tests/k8s).

use std::{collections::HashSet, mem::size_of_val};

use kube::core::{ObjectList, WatchEvent};
use mesh_config::{
    enrolment::Ownership,
    kinds::{Kind, Name, Object, ObjectKey},
    validate::{Verdict, admit},
};
use serde_json::{Value, json};

use super::{
    follow::Delivery,
    gather::{Batch, Expected},
    kinds::{BUILT_IN, CUSTOM},
    trim::{Nodes, Plain, Pods, Settings, Shape, Slices, Specified},
    watched::Watched,
};
use crate::source::{Changed, Found, News};

fn trimmed<S: Shape>(document: Value) -> Value {
    let Value::Object(mut fields) = document else { panic!("{document}") };
    S::trim(&mut fields);
    Value::Object(fields)
}

/// A pod as an API server sends it, shortened.
fn pod(name: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "shop", "uid": "6d1f6b1a-2d0c-4a53-8d5a-9f3a3a1f0c11", "resourceVersion": "123",
            "creationTimestamp": "2026-01-01T00:00:00Z", "generateName": "page-5d4f-", "generation": 1,
            "labels": { "app": "page", "pod-template-hash": "5d4f" },
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "x".repeat(3_000),
                "ambient.istio.io/redirection": "enabled",
                "sidecar.istio.io/status": "{\"containers\":[\"istio-proxy\"]}",
                "k8s.v1.cni.cncf.io/network-status": "[]",
            },
            "managedFields": [{ "manager": "kubelet", "fieldsV1": { "f:metadata": { "f:labels": {} } } }],
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "page-5d4f", "uid": "u", "controller": true, "blockOwnerDeletion": true }],
        },
        "spec": {
            "nodeName": "n1", "serviceAccountName": "page", "serviceAccount": "page", "hostNetwork": false,
            "runtimeClassName": "kata", "restartPolicy": "Always", "volumes": [{ "name": "token" }], "tolerations": [{}],
            "containers": [
                { "name": "page", "image": "page:1", "env": [{ "name": "A", "value": "B" }], "ports": [
                    { "name": "web", "containerPort": 8080, "protocol": "TCP", "hostPort": 80 }, { "containerPort": 9 },
                ] },
                { "name": "other", "image": "other:1", "ports": [{ "containerPort": 9 }] },
            ],
            "initContainers": [{ "name": "init", "image": "init:1" }],
        },
        "status": {
            "phase": "Running", "hostIP": "192.168.0.1", "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }], "qosClass": "Burstable",
            "containerStatuses": [{ "name": "page", "restartCount": 3 }],
            "conditions": [
                { "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z", "message": "m" },
                { "type": "PodScheduled", "status": "True" },
                { "type": "keelson.io/Captured", "status": "False", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z" },
            ],
        },
    })
}

#[test]
fn of_a_pod_remains_what_is_read() {
    let expected = json!({
        "metadata": {
            "name": "a", "namespace": "shop", "uid": "6d1f6b1a-2d0c-4a53-8d5a-9f3a3a1f0c11",
            "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1,
            "labels": { "app": "page", "pod-template-hash": "5d4f" },
            "annotations": { "ambient.istio.io/redirection": "enabled", "sidecar.istio.io/status": "{}" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "page-5d4f", "uid": "u", "controller": true }],
        },
        "spec": {
            "nodeName": "n1", "serviceAccountName": "page", "serviceAccount": "page", "hostNetwork": false, "runtimeClassName": "kata",
            "containers": [{ "name": "page", "ports": [{ "name": "web", "containerPort": 8080, "protocol": "TCP" }] }],
            "initContainers": [],
        },
        "status": {
            "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }],
            "conditions": [
                { "type": "Ready", "status": "True" },
                { "type": "keelson.io/Captured", "status": "False", "reason": "R", "message": "m" },
            ],
        },
    });
    assert_eq!(trimmed::<Pods>(pod("a")), expected);
    assert_eq!(trimmed::<Pods>(json!({ "metadata": { "name": "a" } })), json!({ "metadata": { "name": "a" } }));
}

#[test]
fn a_heartbeat_of_a_node_is_no_change() {
    let node = |time: &str, version: &str| {
        json!({
            "metadata": { "name": "n1", "resourceVersion": version, "labels": { "topology.kubernetes.io/zone": "z" }, "annotations": { "volumes": "a" } },
            "spec": { "podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"], "providerID": "p" },
            "status": { "conditions": [{ "type": "Ready", "lastHeartbeatTime": time }], "images": [{ "names": ["i"] }] },
        })
    };
    let kept = trimmed::<Nodes>(node("2026-01-01T00:00:00Z", "1"));
    assert_eq!(kept, trimmed::<Nodes>(node("2026-01-01T00:05:00Z", "2")));
    assert_eq!(kept["metadata"]["labels"]["topology.kubernetes.io/zone"], "z");
    assert_eq!(kept["spec"], json!({ "podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"] }));
    assert_eq!(kept.get("status"), None);
}

#[test]
fn other_kinds_keep_what_users_wrote() {
    let service = json!({
        "metadata": {
            "name": "s", "finalizers": ["f"],
            "annotations": { "networking.istio.io/exportTo": ".", "kubectl.kubernetes.io/last-applied-configuration": "{}" },
        },
        "spec": { "clusterIP": "10.96.0.1" }, "status": { "loadBalancer": {} },
    });
    let expected = json!({ "metadata": { "name": "s", "annotations": { "networking.istio.io/exportTo": "." } }, "spec": { "clusterIP": "10.96.0.1" } });
    assert_eq!(trimmed::<Specified>(service.clone()), expected);
    assert_eq!(trimmed::<Plain>(service)["status"], json!({ "loadBalancer": {} }), "its status is looked at");

    let map =
        json!({ "metadata": { "name": "istio" }, "data": { "mesh": "a: b", "meshNetworks": "networks: {}" }, "binaryData": {} });
    assert_eq!(trimmed::<Settings>(map), json!({ "metadata": { "name": "istio" }, "data": { "mesh": "a: b" } }));

    let slice = json!({
        "metadata": { "name": "s-1", "labels": { "kubernetes.io/service-name": "s" }, "annotations": { "endpoints.kubernetes.io/last-change-trigger-time": "t" } },
        "addressType": "IPv4", "ports": [{ "name": "web", "port": 80, "protocol": "TCP" }],
        "endpoints": [{
            "addresses": ["10.0.0.1"], "conditions": { "ready": true, "serving": true, "terminating": false }, "hints": { "forZones": [] },
            "targetRef": { "kind": "Pod", "namespace": "shop", "name": "a", "uid": "u", "resourceVersion": "1" }, "nodeName": "n1", "zone": "z",
        }],
    });
    let endpoint = json!({
        "addresses": ["10.0.0.1"], "conditions": { "ready": true, "serving": true, "terminating": false },
        "targetRef": { "kind": "Pod", "namespace": "shop", "name": "a" }, "nodeName": "n1", "zone": "z",
    });
    let slice = trimmed::<Slices>(slice);
    assert_eq!((&slice["endpoints"][0], slice["metadata"].get("annotations")), (&endpoint, None));
}

#[test]
fn lists_and_events_are_decoded_into_what_is_kept() {
    let list =
        json!({ "kind": "PodList", "apiVersion": "v1", "metadata": { "resourceVersion": "9" }, "items": [pod("a"), pod("b")] });
    let list: ObjectList<Watched<Pods>> = serde_json::from_str(&list.to_string()).unwrap();
    assert_eq!(list.items[1].name(), Some(Name::new("shop", "b")));
    assert_eq!(Value::Object(list.items[0].document.clone()), trimmed::<Pods>(pod("a")));
    let event = json!({ "type": "DELETED", "object": pod("a") });
    let event: WatchEvent<Watched<Pods>> = serde_json::from_str(&event.to_string()).unwrap();
    assert!(matches!(event, WatchEvent::Deleted(object) if object.name() == Some(Name::new("shop", "a"))));
}

/// What a kept pod is worth in bytes is measured in `tests/memory`; here, that nothing of its bulk is kept by the typed form.
#[test]
fn a_trimmed_pod_is_small() {
    let mut document = trimmed::<Pods>(pod("a"));
    document["apiVersion"] = "v1".into();
    document["kind"] = "Pod".into();
    let text = document.to_string();
    assert!(text.len() < 1_200, "{} bytes: {text}", text.len());
    let Verdict::Admitted(admitted) = admit(&document) else { panic!("{document}") };
    let Object::Pod(pod) = admitted.object else { panic!("{:?}", admitted.key) };
    assert!(size_of_val(&*pod) < 8_192, "{}", size_of_val(&*pod));
}

#[test]
fn every_kind_that_is_translated_is_watched_once() {
    let kinds: Vec<Kind> = BUILT_IN.iter().chain(CUSTOM).map(|watch| watch.kind).collect();
    assert_eq!(kinds.iter().collect::<HashSet<_>>().len(), kinds.len());
    // Nothing of service accounts is read but what pods say of theirs.
    assert_eq!(kinds.len(), 20);
    for watch in BUILT_IN.iter().chain(CUSTOM) {
        let resource = watch.resource("v1");
        let found = mesh_config::kinds::recognise(&resource.api_version, &resource.kind);
        assert_eq!(found, mesh_config::kinds::Recognised::Known(watch.kind), "{}", watch.definition());
    }
}

#[test]
fn nothing_counts_before_everything_was_listed() {
    let mut expected = Expected::default();
    let mut take = |deliveries: Vec<Delivery>| {
        let mut batch = Batch::default();
        for delivery in deliveries {
            batch.take(delivery, &mut expected);
        }
        batch.into_news(&mut expected)
    };
    let is_complete = |news: &[News]| news.iter().any(|told| matches!(told, News::Complete));
    let listed = |kind: Kind| Delivery::Listed { kind, names: HashSet::new() };
    let custom = HashSet::from([Kind::HttpRoute, Kind::Telemetry]);

    let found = Found { document: json!({}).into(), status: None };
    let news = take(vec![Delivery::Present { found }, Delivery::Gone { kind: Kind::Pod, name: Name::new("shop", "a") }]);
    assert!(matches!(&news[..], [News::Changes(changes)] if matches!(&changes[..],
        [Changed::Present(_), Changed::Gone(ObjectKey { kind: Kind::Pod, .. })])));
    assert!(
        !is_complete(&take(BUILT_IN.iter().map(|watch| listed(watch.kind)).collect())),
        "which custom kinds there are is not known"
    );
    assert!(!is_complete(&take(vec![Delivery::Available(custom), listed(Kind::HttpRoute)])));
    assert!(matches!(&take(vec![Delivery::Ownership(Ownership { ambient: true })])[..], [News::Ownership(_)]));
    let news = take(vec![Delivery::Withdrawn(Kind::Telemetry)]);
    assert!(matches!(&news[..], [News::Changes(_), News::Complete]), "the rest goes on without: {news:?}");
    assert!(!is_complete(&take(vec![listed(Kind::Telemetry)])), "said once");
}
