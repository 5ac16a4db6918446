//! Pods that ask for the mesh and are not in it, and NetworkPolicies that keep the mesh's traffic from them.

use std::collections::BTreeMap;

use anyhow::Result;
use k8s_openapi::api::{
    core::v1::{Namespace, Pod},
    networking::v1::NetworkPolicy,
};
use kube::api::ListParams;
use mesh_config::enrolment::{Enrolment, Ownership, REDIRECTION, REDIRECTION_ENABLED, enrolment};

use super::{Finding, network_policies::blocked};
use crate::k8s::Cluster;

/// How many are named.
const NAMED: usize = 5;

/// Pods by what became of them; each as `namespace/name`.
#[derive(Debug, Default)]
struct Pods {
    captured: usize,
    left_out: Vec<String>,
    refused: Vec<String>,
}

pub(crate) async fn pods(cluster: &Cluster, istio_cni: bool) -> Result<Vec<Finding>> {
    let everything = ListParams::default();
    let namespaces = cluster.all::<Namespace>().list(&everything).await.map_err(|error| cluster.told(error))?;
    let pods = cluster.all::<Pod>().list(&everything).await.map_err(|error| cluster.told(error))?;
    let policies = cluster.all::<NetworkPolicy>().list(&everything).await.map_err(|error| cluster.told(error))?;
    let namespaces: BTreeMap<_, _> =
        namespaces.into_iter().filter_map(|namespace| Some((namespace.metadata.name.clone()?, namespace))).collect();
    let ownership = Ownership { ambient: !istio_cni };
    let mut enrolled = Vec::new();
    let mut sorted = Pods::default();
    for pod in &pods {
        let namespace = pod.metadata.namespace.as_ref().and_then(|name| namespaces.get(name));
        let verdict = enrolment(pod, namespace, ownership);
        if verdict == Enrolment::Enrolled {
            enrolled.push(pod);
        }
        sorted.add(pod, &verdict);
    }
    let mut findings = sorted.findings();
    findings.extend(blocked(&enrolled, &policies.items));
    Ok(findings)
}

impl Pods {
    fn add(&mut self, pod: &Pod, verdict: &Enrolment) {
        let named = |text: Option<&String>| text.cloned().unwrap_or_default();
        let name = format!("{}/{}", named(pod.metadata.namespace.as_ref()), named(pod.metadata.name.as_ref()));
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let annotations = pod.metadata.annotations.as_ref();
        let captured = annotations.and_then(|found| found.get(REDIRECTION)).is_some_and(|value| value == REDIRECTION_ENABLED);
        match verdict {
            Enrolment::Enrolled if captured => self.captured += 1,
            // One that starts or ends is on its way.
            Enrolment::Enrolled if phase == Some("Running") && pod.metadata.deletion_timestamp.is_none() => {
                self.left_out.push(name);
            }
            Enrolment::Refused(why) if why.is_news() => self.refused.push(format!("{name}: {why}")),
            Enrolment::Enrolled | Enrolment::NotAsked | Enrolment::Refused(_) => {}
        }
    }

    fn findings(self) -> Vec<Finding> {
        let Self { captured, left_out, refused } = self;
        let mut findings = Vec::new();
        if captured == 0 && left_out.is_empty() && refused.is_empty() {
            findings.push(Finding::warning(
                "pods",
                "none is in the mesh",
                "kubectl label namespace NAME istio.io/dataplane-mode=ambient takes a namespace's pods in",
            ));
            return findings;
        }
        if captured > 0 {
            findings.push(Finding::good("pods", format!("{captured} are captured")));
        }
        if !left_out.is_empty() {
            findings.push(Finding::bad(
                "pods",
                format!("{} ask for the mesh and are not captured: {}", left_out.len(), some(&left_out)),
                "their nodes' state is above; kubectl describe pod shows what the mesh said of each",
            ));
        }
        if !refused.is_empty() {
            findings.push(Finding::warning(
                "pods",
                format!("{} can not be taken in: {}", refused.len(), some(&refused)),
                "label them istio.io/dataplane-mode=none, or change what is said of them",
            ));
        }
        findings
    }
}

/// The first few.
pub(super) fn some(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let named = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::Verdict, *};

    #[test]
    fn pods_are_sorted_by_what_became_of_them() {
        let mut sorted = Pods::default();
        let labels = json!({ "istio.io/dataplane-mode": "keelson" });
        for (name, annotations, phase, host) in [
            ("in", json!({ REDIRECTION: "enabled" }), "Running", false),
            ("out", json!({}), "Running", false),
            ("starts", json!({}), "Pending", false),
            ("host", json!({}), "Running", true),
            ("done", json!({}), "Succeeded", false),
        ] {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": { "namespace": "a", "name": name, "labels": labels, "annotations": annotations },
                "spec": { "containers": [], "hostNetwork": host },
                "status": { "phase": phase },
            }))
            .unwrap();
            sorted.add(&pod, &enrolment(&pod, None, Ownership::default()));
        }
        let findings = sorted.findings();
        let verdicts: Vec<_> = findings.iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [Verdict::Good, Verdict::Bad, Verdict::Warning]);
        assert!(findings[1].says.ends_with(": a/out"), "{}", findings[1].says);
        assert!(findings[2].says.contains("a/host: the pod is in its node's network"), "{}", findings[2].says);
    }
}
