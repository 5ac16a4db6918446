//! Whether the mesh's accounts may do what they have to.

use anyhow::Result;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::{Api, api::PostParams};

use super::Finding;
use crate::k8s::Cluster;

struct Right {
    account: &'static str,
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    /// Only in the mesh's own namespace.
    own: bool,
    name: &'static str,
}

const fn right(account: &'static str, verb: &'static str, group: &'static str, resource: &'static str) -> Right {
    Right { account, verb, group, resource, subresource: "", own: false, name: "" }
}

const CONTROLLER: &str = "keelson-controller";
const NODE: &str = "keelson-node";

/// One of each rule of the roles: what is missing is missing by the rule.
const RIGHTS: &[Right] = &[
    right(CONTROLLER, "watch", "", "pods"),
    right(CONTROLLER, "watch", "", "services"),
    right(CONTROLLER, "watch", "discovery.k8s.io", "endpointslices"),
    right(CONTROLLER, "watch", "networking.istio.io", "virtualservices"),
    right(CONTROLLER, "watch", "security.istio.io", "authorizationpolicies"),
    right(CONTROLLER, "watch", "telemetry.istio.io", "telemetries"),
    right(CONTROLLER, "watch", "gateway.networking.k8s.io", "httproutes"),
    right(CONTROLLER, "patch", "", "pods"),
    right(CONTROLLER, "create", "", "configmaps"),
    right(CONTROLLER, "create", "", "events"),
    right(CONTROLLER, "create", "authentication.k8s.io", "tokenreviews"),
    Right { subresource: "status", ..right(CONTROLLER, "patch", "gateway.networking.k8s.io", "httproutes") },
    Right { name: "keelson", ..right(CONTROLLER, "patch", "admissionregistration.k8s.io", "validatingwebhookconfigurations") },
    Right { own: true, name: "keelson-ca-secret", ..right(CONTROLLER, "get", "", "secrets") },
    Right { own: true, name: CONTROLLER, ..right(CONTROLLER, "update", "coordination.k8s.io", "leases") },
    right(NODE, "get", "", "pods"),
    right(NODE, "get", "", "namespaces"),
];

pub(crate) async fn privileges(cluster: &Cluster) -> Result<Finding> {
    let reviews: Api<SubjectAccessReview> = cluster.all();
    let mut missing = Vec::new();
    for right in RIGHTS {
        let Right { account, verb, group, resource, subresource, own, name } = right;
        let attributes = ResourceAttributes {
            verb: Some((*verb).to_owned()),
            group: Some((*group).to_owned()),
            resource: Some((*resource).to_owned()),
            subresource: (!subresource.is_empty()).then(|| (*subresource).to_owned()),
            namespace: own.then(|| cluster.namespace.clone()),
            name: (!name.is_empty()).then(|| (*name).to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(format!("system:serviceaccount:{}:{account}", cluster.namespace)),
                groups: Some(vec!["system:serviceaccounts".to_owned(), "system:authenticated".to_owned()]),
                resource_attributes: Some(attributes),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = match reviews.create(&PostParams::default(), &review).await {
            Ok(answer) => answer,
            Err(kube::Error::Api(status)) if status.code == 403 => {
                return Ok(Finding::warning("rights", "you may not ask what others may do", "ask as a cluster's administrator"));
            }
            Err(error) => return Err(cluster.told(error)),
        };
        if !answer.status.is_some_and(|status| status.allowed) {
            let of = if subresource.is_empty() { (*resource).to_owned() } else { format!("{resource}/{subresource}") };
            missing.push(format!("{account}: {verb} {of}"));
        }
    }
    Ok(if missing.is_empty() {
        Finding::good("rights", "both accounts may do what they have to")
    } else {
        Finding::bad(
            "rights",
            format!("missing: {}", missing.join(", ")),
            "meshctl upgrade puts the roles and their bindings back",
        )
    })
}
