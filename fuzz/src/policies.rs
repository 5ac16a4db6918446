//! Policies and MeshConfig. The input is the YAML of a `spec`, read as an AuthorizationPolicy's, as a PeerAuthentication's and
//! as a MeshConfig.

use std::{collections::BTreeSet, net::IpAddr};

use mesh_config::{
    document::{Format, Limits, documents},
    kinds::Objects,
    translate::{Settings, Translation, translate},
    validate::{Verdict, admit, parse_duration},
};
use mesh_policy::{
    authz::{Connection, DenyReason, Outcome, decide},
    model::{Identity, Snapshot},
};
use serde_json::{Value, json};

use crate::wire;

/// An ALLOW never lets pass what the same rules as a DENY would not stop; STRICT never takes plaintext; a MeshConfig that is
/// taken has the trust domain that it says.
pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(seconds) = parse_duration(text) {
        assert!(seconds < 320_000_000, "{text:?}");
    }
    mesh_config(text);
    let spec = documents(input, Format::Yaml, Limits::default()).ok().and_then(|found| found.into_iter().next());
    if let Some(spec) = spec {
        authorization(&spec);
        peer_authentication(&spec);
    }
}

fn mesh_config(text: &str) {
    let document = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "istio", "namespace": "istio-system" },
        "data": { "mesh": text },
    });
    let Some(translation) = translated(&document) else { return };
    let parsed = documents(text.as_bytes(), Format::Yaml, Limits::default()).expect("a MeshConfig that was taken is YAML");
    let written = parsed.first().and_then(|config| config.get("trustDomain")).and_then(Value::as_str);
    assert_eq!(translation.model.mesh.trust_domain.as_str(), written.unwrap_or("cluster.local"));
}

fn authorization(spec: &Value) {
    let of_action = |action: &str| {
        let mut spec = spec.clone();
        spec.as_object_mut()?.insert("action".into(), action.into());
        let metadata = json!({ "name": "p", "namespace": "shop" });
        let document =
            json!({ "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec });
        translated(&document).map(|translation| translation.model.snapshot())
    };
    let (Some(allow), Some(deny)) = (of_action("ALLOW"), of_action("DENY")) else { return };
    for_each_connection(|connection| {
        if let Outcome::Allow { by: Some(_) } = judged(&allow, connection) {
            let denied = judged(&deny, connection);
            assert!(matches!(denied, Outcome::Deny { reason: DenyReason::PolicyDeny, .. }), "{spec}: {connection:?}: {denied:?}");
        }
    });
}

fn peer_authentication(spec: &Value) {
    let metadata = json!({ "name": "p", "namespace": "shop" });
    let document =
        json!({ "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": metadata, "spec": spec });
    let Some(translation) = translated(&document) else { return };
    if *spec != json!({ "mtls": { "mode": "STRICT" } }) {
        return;
    }
    let snapshot = translation.model.snapshot();
    for_each_connection(|connection| {
        let outcome = judged(&snapshot, connection);
        assert_eq!(outcome.is_allowed(), connection.source_identity.is_some(), "{connection:?}: {outcome:?}");
    });
}

/// The object, one pod that it may concern and the pod's service; `None` when the object is refused.
fn translated(document: &Value) -> Option<Translation> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "page", "namespace": "shop", "labels": { "app": "page" } },
        "spec": { "serviceAccountName": "page", "nodeName": "one", "containers": [{ "name": "page" }] },
        "status": { "phase": "Running", "podIP": "10.1.0.7", "podIPs": [{ "ip": "10.1.0.7" }] },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "page", "namespace": "shop" },
        "spec": { "clusterIP": "10.96.0.7", "selector": { "app": "page" }, "ports": [{ "port": 80, "targetPort": 9080 }] },
    });
    let mut objects = Objects::default();
    for document in [document, &pod, &service] {
        let Verdict::Admitted(admitted) = admit(document) else { return None };
        objects.insert(admitted.key.name, admitted.object);
    }
    let settings = Settings::default();
    let translation = translate(&objects, &settings, &BTreeSet::from([settings.pod_uid("shop", "page")]));
    wire::survives(&translation.model);
    Some(translation)
}

fn for_each_connection(mut judge: impl FnMut(&Connection<'_>)) {
    let identities = ["cluster.local/ns/shop/sa/page", "cluster.local/ns/b/sa/y", "far/ns/a/sa/x"]
        .map(|principal| format!("spiffe://{principal}").parse::<Identity>().expect("an identity"));
    let addresses: [IpAddr; 3] = ["10.0.0.1", "192.168.0.1", "fd00::1"].map(|address| address.parse().expect("an address"));
    for source_identity in identities.iter().map(Some).chain([None]) {
        for source_ip in addresses {
            for destination_port in [80, 9080] {
                let destination_ip = [10, 1, 0, 7].into();
                judge(&Connection { source_identity, source_ip, destination_ip, destination_port });
            }
        }
    }
}

fn judged(snapshot: &Snapshot, connection: &Connection<'_>) -> Outcome {
    let page = snapshot.workload_at(connection.destination_ip).expect("the pod is in the model");
    decide(snapshot, page, connection).outcome
}
