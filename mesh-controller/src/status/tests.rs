use std::{collections::BTreeSet, path::Path, sync::Arc};

use mesh_config::{
    document::{Format, Limits, documents},
    translate::{Settings, translate},
};
use serde_json::{Value, json};

use super::*;
use crate::source::{Admission, Sources};

/// Takes all documents of a text, as those of one folder.
fn take(admission: &mut Admission, text: &str) {
    let documents = documents(text.as_bytes(), Format::Yaml, Limits::default()).unwrap();
    let documents = documents.into_iter().map(|document| ("all.yaml".into(), Arc::new(document))).collect();
    admission.apply(Sources { documents, problems: Vec::new() });
}

/// The `status` of an object's file.
fn status(admission: &Admission, file: &str) -> Value {
    let settings = Settings::default();
    let translation = translate(admission.objects(), &settings, &BTreeSet::new());
    let told = Told { messages: &translation.messages, conditions: &translation.conditions };
    let files = files::files(&desired(admission, &told, PodsTold::Captured(&BTreeSet::new()), &settings));
    let text = files.get(Path::new(file)).unwrap_or_else(|| panic!("{file} of {:?}", files.keys()));
    documents(text.as_bytes(), Format::Yaml, Limits::default()).unwrap().remove(0)["status"].clone()
}

/// Type, status and reason of each condition.
fn brief(conditions: &Value) -> Vec<[&str; 3]> {
    let conditions = conditions.as_array().unwrap().iter();
    conditions.map(|condition| ["type", "status", "reason"].map(|name| condition[name].as_str().unwrap())).collect()
}

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: page, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
";

fn route(backend: &str) -> String {
    format!(
        "{SERVICE}---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r, namespace: shop, generation: 4}}
spec:
  parentRefs: [{{group: '', kind: Service, name: page}}, {{name: a-gateway}}]
  rules: [{{backendRefs: [{backend}]}}]
"
    )
}

#[test]
fn a_route_has_a_status_for_each_parent_in_the_mesh() {
    let mut admission = Admission::default();
    take(&mut admission, &route("{name: page, port: 80}"));
    let good = status(&admission, "HTTPRoute/shop/r.yaml");
    assert_eq!(brief(&good["conditions"]), [["Accepted", "True", "Accepted"]]);
    let parents = good["parents"].as_array().unwrap();
    assert_eq!(parents.len(), 1, "a Gateway is somebody else's");
    assert_eq!(parents[0]["parentRef"], json!({ "group": "", "kind": "Service", "name": "page" }));
    assert_eq!(parents[0]["controllerName"], "keelson.io/mesh-controller");
    assert_eq!(parents[0]["conditions"][0]["observedGeneration"], 4);
    assert_eq!(brief(&parents[0]["conditions"]), [["Accepted", "True", "Accepted"], ["ResolvedRefs", "True", "ResolvedRefs"]]);

    take(&mut admission, &route("{name: absent, port: 80}"));
    let unresolved = status(&admission, "HTTPRoute/shop/r.yaml");
    assert_eq!(brief(&unresolved["conditions"]), [["Accepted", "True", "PartiallyHonoured"]]);
    assert_eq!(brief(&unresolved["parents"][0]["conditions"])[1], ["ResolvedRefs", "False", "BackendNotFound"]);
    assert_eq!(unresolved["validationMessages"][0]["code"], "TARGET_NOT_FOUND");
    assert_ne!(unresolved["observedHash"], good["observedHash"]);
}

#[test]
fn a_refused_route_says_so_at_its_parents() {
    let mut admission = Admission::default();
    take(&mut admission, &route("{name: page, port: 80}"));
    take(&mut admission, &route("{name: page}"));
    let refused = status(&admission, "HTTPRoute/shop/r.yaml");
    assert_eq!(brief(&refused["conditions"]), [["Accepted", "False", "Invalid"]]);
    assert_eq!(brief(&refused["parents"][0]["conditions"]), [["Accepted", "False", "UnsupportedValue"]]);
    let message = refused["parents"][0]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("spec.rules[0].backendRefs[0].port") && message.contains("last good version"), "{message}");
    let routes = translate(admission.objects(), &Settings::default(), &BTreeSet::new()).model.routes;
    assert_eq!(routes.len(), 1, "its last good version is in force");
}

#[test]
fn a_waypoint_is_programmed() {
    let mut admission = Admission::default();
    let gateway = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
";
    take(&mut admission, gateway);
    let status = status(&admission, "Gateway/shop/waypoint.yaml");
    assert_eq!(brief(&status["conditions"]), [["Accepted", "True", "Accepted"], ["Programmed", "True", "Programmed"]]);
    assert_eq!(status.get("parents"), None);
}
