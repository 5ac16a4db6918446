//! Waiting until an installation works, and saying why if it does not.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, bail};
use k8s_openapi::api::{
    admissionregistration::v1::ValidatingWebhookConfiguration,
    apps::v1::{DaemonSet, Deployment},
    core::v1::Pod,
};
use kube::{Api, api::ListParams};
use tokio::time::{Instant, sleep};

use super::bundle::PART_OF;
use crate::{
    k8s::{Cluster, containers, of_pods},
    output::Printer,
};

const PAUSE: Duration = Duration::from_millis(500);

/// What is waited for, and how far it is: `keelson-node 1/2`.
struct Progress {
    waiting: Vec<String>,
}

/// Returns when every part of the installation is ready.
///
/// # Errors
///
/// After `patience`, with what pods, events and logs say.
pub(crate) async fn await_ready(cluster: &Cluster, patience: Duration, printer: &Printer) -> Result<()> {
    let end = Instant::now() + patience;
    let (mut last, mut told) = (Vec::new(), BTreeSet::new());
    loop {
        let progress = look(cluster).await?;
        if progress.waiting.is_empty() {
            return Ok(());
        }
        if progress.waiting != last {
            printer.note(&format!("waiting for {}", progress.waiting.join(", ")));
        }
        last = progress.waiting;
        for line in complaints(cluster).await? {
            if told.insert(line.clone()) {
                printer.warn(&line);
            }
        }
        if Instant::now() >= end {
            let mut why = of_pods(cluster, &format!("{}={}", PART_OF.0, PART_OF.1)).await.unwrap_or_default();
            why.insert(0, format!("not ready after {} s: {}", patience.as_secs(), last.join(", ")));
            bail!("{}", why.join("\n  "));
        }
        sleep(PAUSE).await;
    }
}

async fn look(cluster: &Cluster) -> Result<Progress> {
    let mut waiting = Vec::new();
    let deployments: Api<Deployment> = cluster.own();
    match deployments.get_opt("keelson-controller").await.map_err(|error| cluster.told(error))? {
        Some(deployment) => {
            let (wanted, ready) = of_deployment(&deployment);
            if ready < wanted {
                waiting.push(format!("keelson-controller {ready}/{wanted}"));
            }
        }
        None => waiting.push("Deployment keelson-controller".to_owned()),
    }
    let sets: Api<DaemonSet> = cluster.own();
    match sets.get_opt("keelson-node").await.map_err(|error| cluster.told(error))? {
        Some(set) => {
            if let Some((wanted, ready)) = of_daemon_set(&set) {
                if ready < wanted {
                    waiting.push(format!("keelson-node {ready}/{wanted}"));
                }
            } else {
                waiting.push("keelson-node".to_owned());
            }
        }
        None => waiting.push("DaemonSet keelson-node".to_owned()),
    }
    let webhooks: Api<ValidatingWebhookConfiguration> = cluster.all();
    let webhook = webhooks.get_opt("keelson").await.map_err(|error| cluster.told(error))?;
    let unarmed = webhook.is_some_and(|found| found.webhooks.iter().flatten().any(|one| one.client_config.ca_bundle.is_none()));
    if unarmed {
        waiting.push("the webhook's certificate".to_owned());
    }
    Ok(Progress { waiting })
}

/// Wanted and ready; of the newest form only.
pub(crate) fn of_deployment(deployment: &Deployment) -> (i32, i32) {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let Some(status) = &deployment.status else { return (wanted.max(1), 0) };
    if status.observed_generation < deployment.metadata.generation {
        return (wanted.max(1), 0);
    }
    let updated = status.updated_replicas.unwrap_or(0);
    (wanted, updated.min(status.available_replicas.unwrap_or(0)))
}

/// Wanted and ready; none until somebody counted.
pub(crate) fn of_daemon_set(set: &DaemonSet) -> Option<(i32, i32)> {
    let status = set.status.as_ref().filter(|status| status.observed_generation >= set.metadata.generation)?;
    let updated = status.updated_number_scheduled.unwrap_or(0);
    // A set without a node is none that works.
    Some((status.desired_number_scheduled.max(1), updated.min(status.number_available.unwrap_or(0))))
}

/// What will not go away by waiting, as soon as it is known: an image that is not there, a container that ends again and again.
async fn complaints(cluster: &Cluster) -> Result<Vec<String>> {
    let pods: Api<Pod> = cluster.own();
    let label = ListParams::default().labels(&format!("{}={}", PART_OF.0, PART_OF.1));
    let pods = pods.list(&label).await.map_err(|error| cluster.told(error))?;
    let grave = |line: &String| ["Image", "CrashLoop", "not scheduled", "CreateContainer"].iter().any(|word| line.contains(word));
    let of_pod = |pod: &Pod| {
        let name = pod.metadata.name.clone().unwrap_or_default();
        containers(pod).into_iter().filter(grave).map(move |line| format!("{name}: {line}")).collect::<Vec<_>>()
    };
    Ok(pods.iter().flat_map(of_pod).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn readiness_is_that_of_the_newest_form() {
        let deployment = |status| -> Deployment {
            serde_json::from_value(json!({ "metadata": { "generation": 2 }, "spec": { "replicas": 2, "selector": {}, "template": {} }, "status": status }))
                .unwrap()
        };
        assert_eq!(
            of_deployment(&deployment(json!({ "observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": 2 }))),
            (2, 0)
        );
        assert_eq!(
            of_deployment(&deployment(json!({ "observedGeneration": 2, "updatedReplicas": 1, "availableReplicas": 2 }))),
            (2, 1)
        );
        assert_eq!(
            of_deployment(&deployment(json!({ "observedGeneration": 2, "updatedReplicas": 2, "availableReplicas": 2 }))),
            (2, 2)
        );
        let set = |status| -> DaemonSet {
            serde_json::from_value(
                json!({ "metadata": { "generation": 1 }, "spec": { "selector": {}, "template": {} }, "status": status }),
            )
            .unwrap()
        };
        let counted = |extra: i32| {
            json!({ "observedGeneration": 1, "currentNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 2,
                    "desiredNumberScheduled": 2, "updatedNumberScheduled": extra, "numberAvailable": 2 })
        };
        assert_eq!(of_daemon_set(&set(counted(1))), Some((2, 1)));
        assert_eq!(of_daemon_set(&set(counted(2))), Some((2, 2)));
        assert_eq!(of_daemon_set(&set(json!(null))), None);
    }
}
