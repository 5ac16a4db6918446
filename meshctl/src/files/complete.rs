//! What a cluster would add to manifests: pods of Deployments and their like, addresses, health, namespaces.
//!
//! Addresses are of 198.18.0.0/15 (RFC 2544, for tests of networks): no cluster has them, and nobody takes them for real.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
};

use mesh_config::{
    kinds::{Name, Objects},
    translate::Settings,
};
use mesh_policy::model::WorkloadUid;
use serde_json::{Value, json};

const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";

/// Kinds that run pods from `spec.template`.
const TEMPLATED: [&str; 5] = ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"];

/// Completes the documents in place, and says what was assumed.
pub(super) fn complete(documents: &mut Vec<(PathBuf, Value)>) -> Vec<String> {
    let mut assumptions = Vec::new();
    let pods: Vec<(PathBuf, Value)> = documents.iter().filter_map(|(file, owner)| Some((file.clone(), pod_of(owner)?))).collect();
    if !pods.is_empty() {
        assumptions.push(format!("{} workloads with a template run one healthy pod each", pods.len()));
    }
    documents.extend(pods);

    let mut addresses = (1u32..).map(|number| Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number));
    let mut unaddressed = (0, 0);
    for (_, document) in documents.iter_mut() {
        match kind(document) {
            "Pod" => unaddressed.0 += u32::from(stand_up(document, &mut addresses)),
            "Service" => unaddressed.1 += u32::from(give_address(document, &mut addresses)),
            _ => {}
        }
    }
    let (of_pods, of_services) = unaddressed;
    if of_pods + of_services > 0 {
        assumptions.push(format!("{of_pods} pods and {of_services} services without address have one of 198.18.0.0/15"));
    }
    let missing = missing_namespaces(documents);
    if !missing.is_empty() {
        let names = missing.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        assumptions.push(format!("namespaces without manifest are in the mesh: {names}"));
        let document = |name: &String| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {DATAPLANE_MODE: "ambient"}}});
        documents.extend(missing.iter().map(|name| (PathBuf::new(), document(name))));
    }
    assumptions
}

/// The pods that enrolment would capture: by their own label, else their namespace's.
pub(super) fn captured(objects: &Objects, settings: &Settings) -> BTreeSet<WorkloadUid> {
    let label = |labels: Option<&BTreeMap<String, String>>| labels.and_then(|labels| labels.get(DATAPLANE_MODE).cloned());
    let wanted = objects.pods.iter().filter(|(name, pod)| {
        let own_network = !pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        let of_namespace = objects.namespaces.get(&Name::new("", &name.namespace));
        let mode = label(pod.metadata.labels.as_ref()).or_else(|| label(of_namespace?.metadata.labels.as_ref()));
        own_network && mode.is_some_and(|mode| mode == "ambient" || mode == "keelson")
    });
    wanted.map(|(name, _)| settings.pod_uid(&name.namespace, &name.name)).collect()
}

fn kind(document: &Value) -> &str {
    document["kind"].as_str().unwrap_or_default()
}

/// One pod of what has a template.
fn pod_of(owner: &Value) -> Option<Value> {
    let group = owner["apiVersion"].as_str()?.rsplit_once('/')?.0;
    if !TEMPLATED.contains(&kind(owner)) || !["apps", "batch"].contains(&group) || owner["spec"]["replicas"] == json!(0) {
        return None;
    }
    let template = &owner["spec"]["template"];
    let name = format!("{}-0", owner["metadata"]["name"].as_str()?);
    let mut metadata = template["metadata"].as_object().cloned().unwrap_or_default();
    metadata.insert("name".into(), name.into());
    if let Some(namespace) = owner["metadata"].get("namespace") {
        metadata.insert("namespace".into(), namespace.clone());
    }
    Some(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}))
}

/// A pod that a node runs and finds healthy; true if its address is made up.
fn stand_up(pod: &mut Value, addresses: &mut impl Iterator<Item = Ipv4Addr>) -> bool {
    if pod["spec"].get("nodeName").is_none() {
        pod["spec"]["nodeName"] = "node".into();
    }
    if pod["status"].get("podIP").is_some() {
        return false;
    }
    let address = addresses.next().map(|address| address.to_string());
    pod["status"] = json!({
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
    });
    true
}

/// An address for a service that wants one; true if it is made up.
fn give_address(service: &mut Value, addresses: &mut impl Iterator<Item = Ipv4Addr>) -> bool {
    let spec = &mut service["spec"];
    let has = spec.get("clusterIP").is_some_and(|address| address.as_str() != Some(""));
    if has || spec["type"] == "ExternalName" {
        return false;
    }
    let address = addresses.next().map(|address| address.to_string());
    spec["clusterIP"] = json!(address);
    spec["clusterIPs"] = json!([address]);
    true
}

fn missing_namespaces(documents: &[(PathBuf, Value)]) -> BTreeSet<String> {
    let mut named: BTreeSet<String> = BTreeSet::new();
    let mut known: BTreeSet<String> = BTreeSet::new();
    for (_, document) in documents {
        match kind(document) {
            "Namespace" => known.extend(document["metadata"]["name"].as_str().map(Into::into)),
            "Pod" | "Service" => {
                named.insert(document["metadata"]["namespace"].as_str().unwrap_or("default").into());
            }
            _ => {}
        }
    }
    named.difference(&known).cloned().collect()
}
