//! What the API server asks before it takes an object.

use crate::wait::eventually;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::json;

use crate::surroundings::Surroundings;

fn policy(namespace: &str, name: &str, operation: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{action: DENY, rules: [{{to: [{{operation: {operation}}}]}}]}}\n"
    )
}

#[tokio::test]
async fn a_bad_object_is_not_even_taken() {
    let found = Surroundings::new().await;
    let controller = found.controller("one").await;
    // As the installation makes it, but for the address: there is no Service before this controller.
    let configurations = Api::<ValidatingWebhookConfiguration>::all(found.client.clone());
    let in_namespace = json!({ "matchLabels": { "kubernetes.io/metadata.name": found.namespace } });
    let configuration = json!({
        "metadata": { "name": "keelson" },
        "webhooks": [{
            "name": "validate.keelson.io", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
            "timeoutSeconds": 5, "clientConfig": { "url": format!("https://{}/validate", controller.webhook) },
            "namespaceSelector": in_namespace,
            "rules": [{
                "apiGroups": ["security.istio.io"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"],
                "resources": ["authorizationpolicies"], "scope": "Namespaced",
            }],
        }],
    });
    configurations.create(&PostParams::default(), &serde_json::from_value(configuration).unwrap()).await.unwrap();
    let apply = |text: &str| {
        let output = found.cluster.kubectl(&["apply", "-f", "-"], text).unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    // Until the leader has told the API server whom to trust, nothing passes.
    let good = policy(&found.namespace, "good", "{ports: ['80']}");
    eventually("a good object is taken", || async { apply(&good).0.then_some(()) }).await;
    let (taken, said) = apply(&policy(&found.namespace, "bad", "{porst: ['80']}"));
    assert!(!taken && said.contains("spec.rules[0].to[0].operation.porst"), "{said}");
    println!("{said}");
    configurations.delete("keelson", &DeleteParams::default()).await.unwrap();
    found.remove(&[]).await;
}
