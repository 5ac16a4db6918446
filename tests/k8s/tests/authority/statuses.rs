//! What objects are told in their own status.

use crate::wait::eventually;
use k8s_openapi::api::{core::v1::Service, events::v1::Event};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::surroundings::Surroundings;

/// The status of an object once it is as it should be.
async fn status(found: &Surroundings, kind: &str, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let api = found.api(kind);
    let (api, holds) = (&api, &holds);
    eventually(&format!("the status of {kind} {name}"), || async move {
        let object = api.get(name).await.unwrap();
        object.data.get("status").filter(|status| holds(status)).cloned()
    })
    .await
}

fn virtual_service(retries: &Value) -> Value {
    json!({ "hosts": ["page"], "http": [{ "route": [{ "destination": { "host": "page" } }], "retries": retries }] })
}

#[tokio::test]
async fn objects_are_told_what_becomes_of_them() {
    let found = Surroundings::new().await;
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": "page" }, "spec": { "selector": { "app": "page" }, "ports": [{ "name": "http", "port": 80 }] },
    }))
    .unwrap();
    Api::namespaced(found.client.clone(), &found.namespace).create(&PostParams::default(), &service).await.unwrap();
    let routes = found.api("VirtualService");
    let good = found.object("VirtualService", "page", &virtual_service(&json!({ "attempts": 2 })));
    routes.create(&PostParams::default(), &good).await.unwrap();
    let parent = json!({ "group": "", "kind": "Service", "name": "page" });
    let of_gateway = json!({ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "other" });
    let spec = json!({ "parentRefs": [of_gateway, parent], "rules": [{ "backendRefs": [{ "name": "page", "port": 80 }] }] });
    let http = found.api("HTTPRoute");
    http.create(&PostParams::default(), &found.object("HTTPRoute", "page", &spec)).await.unwrap();
    let theirs = json!({ "parentRef": of_gateway, "controllerName": "example.com/other", "conditions": [] });
    let patch = json!({ "status": { "parents": [theirs] } });
    http.patch_status("page", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();

    let controller = found.controller("one").await;
    controller.is_elected().await;
    let accepted = status(&found, "VirtualService", "page", |status| status["observedGeneration"] == 1).await;
    assert_eq!(accepted["conditions"][0]["type"], "Accepted");
    assert_eq!(accepted["conditions"][0]["status"], "True", "{accepted}");
    let since = accepted["conditions"][0]["lastTransitionTime"].clone();

    // Another generation, the same verdict: the time stays.
    let more = json!({ "spec": virtual_service(&json!({ "attempts": 3 })) });
    routes.patch("page", &PatchParams::default(), &Patch::Merge(more)).await.unwrap();
    let again = status(&found, "VirtualService", "page", |status| status["observedGeneration"] == 2).await;
    assert_eq!(again["conditions"][0]["lastTransitionTime"], since);
    let bad = json!({ "spec": virtual_service(&json!({ "attempts": -3 })) });
    routes.patch("page", &PatchParams::default(), &Patch::Merge(bad)).await.unwrap();
    let refused = status(&found, "VirtualService", "page", |status| status["observedGeneration"] == 3).await;
    assert_eq!(refused["conditions"][0]["status"], "False", "{refused}");
    assert_eq!(refused["conditions"][0]["reason"], "Invalid");
    let message = refused["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("last good version") && message.contains("spec.http[0].retries.attempts"), "{message}");
    assert_eq!(refused["validationMessages"][0]["level"], "ERROR");

    let is_told = |status: &Value| status["parents"].as_array().is_some_and(|parents| parents.len() == 2);
    let route = status(&found, "HTTPRoute", "page", is_told).await;
    assert_eq!(route["parents"][0], theirs, "another controller's word stays");
    assert_eq!(route["parents"][1]["controllerName"], "keelson.io/mesh-controller");
    assert_eq!(route["parents"][1]["parentRef"], parent);
    let conditions = route["parents"][1]["conditions"].as_array().unwrap();
    let brief = |one: &Value| (one["type"].as_str().map(str::to_owned), one["status"].as_str().map(str::to_owned));
    let yes = |kind: &str| (Some(kind.to_owned()), Some("True".to_owned()));
    assert_eq!(conditions.iter().map(brief).collect::<Vec<_>>(), [yes("Accepted"), yes("ResolvedRefs")]);

    // A waypoint needs no proxy of its own; another class is somebody else's.
    let gateways = found.api("Gateway");
    for (name, class) in [("waypoint", "istio-waypoint"), ("ingress", "another")] {
        let listeners = json!([{ "name": "mesh", "port": 15008, "protocol": "HBONE" }]);
        let spec = json!({ "gatewayClassName": class, "listeners": listeners });
        gateways.create(&PostParams::default(), &found.object("Gateway", name, &spec)).await.unwrap();
    }
    let waypoint = status(&found, "Gateway", "waypoint", |status| status["conditions"].is_array()).await;
    let conditions = waypoint["conditions"].as_array().unwrap();
    assert_eq!(conditions.iter().map(brief).collect::<Vec<_>>(), [yes("Accepted"), yes("Programmed")]);
    assert_eq!(gateways.get("ingress").await.unwrap().data.get("status"), None);

    // What is right is not written again.
    let version = http.get("page").await.unwrap().resource_version();
    found.make_pod("any", "default").await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(http.get("page").await.unwrap().resource_version(), version);
    found.remove(&[]).await;
}

#[tokio::test]
async fn a_pod_that_cannot_be_taken_in_is_told() {
    let found = Surroundings::new().await;
    let controller = found.controller("one").await;
    controller.is_elected().await;
    let spec = json!({
        "hostNetwork": true, "nodeName": found.node,
        "containers": [{ "name": "main", "image": "keelson.test/pause:1", "imagePullPolicy": "Never" }],
    });
    let labels = json!({ "istio.io/dataplane-mode": "keelson" });
    let pod = serde_json::from_value(json!({ "metadata": { "name": "outside", "labels": labels }, "spec": spec })).unwrap();
    found.pods().create(&PostParams::default(), &pod).await.unwrap();
    let told = async || {
        let pod = found.pods().get("outside").await.unwrap();
        pod.status?.conditions?.into_iter().find(|condition| condition.type_ == "keelson.io/Captured")
    };
    let condition = eventually("the pod's condition", &told).await;
    assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("False", Some("HostNetwork")));
    let events = Api::<Event>::namespaced(found.client.clone(), &found.namespace);
    let of_pod = async || {
        let all = events.list(&ListParams::default().fields("regarding.name=outside")).await.unwrap();
        let ours =
            all.items.into_iter().filter(|event| event.reporting_controller.as_deref() == Some("keelson.io/mesh-controller"));
        Some(ours.collect::<Vec<_>>()).filter(|ours| !ours.is_empty())
    };
    let ours = eventually("the pod's event", &of_pod).await;
    assert_eq!((ours.len(), ours[0].reason.as_deref()), (1, Some("HostNetwork")));

    // It no longer asks: nothing is in its way.
    let declined = json!({ "metadata": { "labels": { "istio.io/dataplane-mode": "none" } } });
    found.pods().patch("outside", &PatchParams::default(), &Patch::Merge(declined)).await.unwrap();
    eventually("the condition is gone", || async { told().await.is_none().then_some(()) }).await;
    found.remove(&[]).await;
}
