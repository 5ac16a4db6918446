//! What a pod is called in metrics and logs: the application it is of, and what runs it.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_policy::model::WorkloadKind;

use crate::{kinds::Name, translate::selector::Labels};

pub(super) fn canonical_name(labels: &Labels) -> Option<&str> {
    ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"].iter().find_map(|name| Some(labels.get(*name)?.as_str()))
}

pub(super) fn canonical_revision(labels: &Labels) -> &str {
    ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]
        .iter()
        .find_map(|name| Some(labels.get(*name)?.as_str()))
        .unwrap_or("latest")
}

/// The kind and name of what runs the pod, told from its controller by the names that controllers give.
pub(super) fn owner(name: &Name, metadata: &ObjectMeta, labels: &Labels) -> (WorkloadKind, Arc<str>) {
    let controller = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let (kind, owner_name) = match controller {
        None => (WorkloadKind::Pod, &*name.name),
        Some(owner) => match owner.kind.as_str() {
            "ReplicaSet" => of_replica_set(&owner.name, labels),
            "ReplicationController" => {
                (WorkloadKind::Pod, labels.get("deploymentconfig").map_or(owner.name.as_str(), String::as_str))
            }
            "Job" => of_job(&owner.name),
            _ => (WorkloadKind::Pod, owner.name.as_str()),
        },
    };
    let overridden = labels.get("service.istio.io/workload-name").map(String::as_str);
    (kind, overridden.unwrap_or(owner_name).into())
}

/// `<deployment>-<hash>`.
fn of_replica_set<'a>(owner: &'a str, labels: &Labels) -> (WorkloadKind, &'a str) {
    let strip = |label: &str| owner.strip_suffix(labels.get(label)?.as_str())?.strip_suffix('-');
    if let Some(deployment) = strip("pod-template-hash") {
        return (WorkloadKind::Deployment, deployment);
    }
    (WorkloadKind::Pod, strip("rollouts-pod-template-hash").unwrap_or(owner))
}

/// `<cron job>-<8 to 10 digits>`, else a job of its own.
fn of_job(owner: &str) -> (WorkloadKind, &str) {
    match owner.rsplit_once('-') {
        Some((cron_job, time))
            if !cron_job.is_empty() && (8..=10).contains(&time.len()) && time.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            (WorkloadKind::CronJob, cron_job)
        }
        _ => (WorkloadKind::Job, owner),
    }
}
