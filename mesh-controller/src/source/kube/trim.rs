//! What is kept of an object: what translation, placement and status read, and nothing else.
//!
//! A pod as the server sends it is some 10 KB of text, most of it `managedFields`, environment and volumes; what is left is a
//! tenth. Anything that changes by itself while nothing changes for the mesh (heartbeats of nodes, `resourceVersion`) is cut
//! off too, so that it is no change here.

use serde_json::{Map, Value};

use crate::status::api::POD_CONDITION;

type Fields = Map<String, Value>;

/// How objects of a kind are cut down.
pub(super) trait Shape: Send + Sync + 'static {
    /// Objects of one page of a list.
    const PAGE: u32 = 500;

    fn trim(document: &mut Fields);
}

/// Kinds whose every field counts.
pub(super) enum Plain {}
pub(super) enum Pods {}
pub(super) enum Nodes {}
pub(super) enum Slices {}
/// Services: what the cloud says of them is not asked.
pub(super) enum Specified {}
/// ConfigMaps.
pub(super) enum Settings {}

impl Shape for Plain {
    fn trim(document: &mut Fields) {
        metadata(document, is_meant_for_people);
        drop_from(document, "metadata", &["ownerReferences"]);
    }
}

impl Shape for Specified {
    fn trim(document: &mut Fields) {
        Plain::trim(document);
        document.remove("status");
    }
}

impl Shape for Settings {
    fn trim(document: &mut Fields) {
        Plain::trim(document);
        keep(document, "data", &["mesh"]);
        document.remove("binaryData");
    }
}

impl Shape for Nodes {
    fn trim(document: &mut Fields) {
        metadata(document, |_| false);
        keep(document, "spec", &["podCIDR", "podCIDRs"]);
        document.remove("status");
    }
}

impl Shape for Pods {
    const PAGE: u32 = 250;

    fn trim(document: &mut Fields) {
        // Others keep whole network configurations in annotations.
        metadata(document, |name| name.contains("istio.io/"));
        // That there is one says it all.
        let annotations = object(document, "metadata").and_then(|metadata| object(metadata, "annotations"));
        if let Some(status) = annotations.and_then(|annotations| annotations.get_mut("sidecar.istio.io/status")) {
            *status = "{}".into();
        }
        if let Some(owners) = object(document, "metadata").and_then(|metadata| metadata.get_mut("ownerReferences")) {
            each(owners, &["apiVersion", "kind", "name", "uid", "controller"]);
        }
        let kept = [
            "nodeName",
            "serviceAccountName",
            "serviceAccount",
            "hostNetwork",
            "runtimeClassName",
            "containers",
            "initContainers",
        ];
        keep(document, "spec", &kept);
        if let Some(spec) = object(document, "spec") {
            containers(spec, "containers");
            containers(spec, "initContainers");
            spec.entry("containers").or_insert_with(|| Value::Array(Vec::new()));
        }
        keep(document, "status", &["phase", "podIP", "podIPs", "conditions"]);
        let conditions = object(document, "status").and_then(|status| status.get_mut("conditions"));
        if let Some(Value::Array(conditions)) = conditions {
            conditions.retain_mut(|condition| {
                let Some(fields) = condition.as_object_mut() else { return false };
                match fields.get("type").and_then(Value::as_str) {
                    // Which containers are not ready yet changes nothing.
                    Some("Ready") => fields.retain(|field, _| matches!(field.as_str(), "type" | "status")),
                    Some(POD_CONDITION) => {
                        fields.retain(|field, _| matches!(field.as_str(), "type" | "status" | "reason" | "message"));
                    }
                    _ => return false,
                }
                true
            });
            conditions.shrink_to_fit();
        }
    }
}

impl Shape for Slices {
    fn trim(document: &mut Fields) {
        metadata(document, |_| false);
        drop_from(document, "metadata", &["ownerReferences"]);
        if let Some(endpoints) = document.get_mut("endpoints") {
            each(endpoints, &["addresses", "conditions", "targetRef", "nodeName", "zone"]);
            for endpoint in endpoints.as_array_mut().into_iter().flatten() {
                if let Some(target) = endpoint.as_object_mut() {
                    keep(target, "targetRef", &["kind", "namespace", "name"]);
                }
            }
        }
    }
}

/// Only ports with a name are asked for, so only containers that have some.
fn containers(spec: &mut Fields, field: &str) {
    let Some(Value::Array(containers)) = spec.get_mut(field) else { return };
    for container in containers.iter_mut() {
        if let Some(ports) = container.get_mut("ports").and_then(Value::as_array_mut) {
            ports.retain(|port| port.get("name").is_some());
        }
    }
    containers.retain(|container| container.get("ports").and_then(Value::as_array).is_some_and(|ports| !ports.is_empty()));
    containers.shrink_to_fit();
    if let Some(containers) = spec.get_mut(field) {
        each(containers, &["name", "ports"]);
    }
    if let Some(containers) = spec.get_mut(field).and_then(Value::as_array_mut) {
        for container in containers {
            if let Some(ports) = container.get_mut("ports") {
                each(ports, &["name", "containerPort", "protocol"]);
            }
        }
    }
}

fn metadata(document: &mut Fields, annotation: impl Fn(&str) -> bool) {
    let kept = [
        "name",
        "namespace",
        "uid",
        "labels",
        "annotations",
        "creationTimestamp",
        "deletionTimestamp",
        "generation",
        "ownerReferences",
    ];
    keep(document, "metadata", &kept);
    let Some(metadata) = object(document, "metadata") else { return };
    if let Some(annotations) = object(metadata, "annotations") {
        annotations.retain(|name, _| annotation(name));
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
}

/// Any but what tools keep for themselves.
fn is_meant_for_people(annotation: &str) -> bool {
    !annotation.starts_with("kubectl.kubernetes.io/") && !annotation.starts_with("endpoints.kubernetes.io/")
}

fn object<'a>(fields: &'a mut Fields, name: &str) -> Option<&'a mut Fields> {
    fields.get_mut(name)?.as_object_mut()
}

fn keep(fields: &mut Fields, name: &str, kept: &[&str]) {
    if let Some(found) = object(fields, name) {
        found.retain(|field, _| kept.contains(&field.as_str()));
    }
}

fn drop_from(fields: &mut Fields, name: &str, dropped: &[&str]) {
    if let Some(found) = object(fields, name) {
        found.retain(|field, _| !dropped.contains(&field.as_str()));
    }
}

/// Keeps these fields of each item of a list.
fn each(items: &mut Value, kept: &[&str]) {
    for item in items.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        item.retain(|field, _| kept.contains(&field.as_str()));
    }
}
