//! A pod is added: does it belong to the mesh, and if so, is it captured?

use std::{
    fmt,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use mesh_config::enrolment::{Enrolment, Ownership, Refusal, enrolment};
use mesh_proto::{
    cni::PluginConfig,
    enrol::{EnrolRequest, PodState},
};

use crate::{
    answer::Failure,
    api::{Api, ApiError},
    invocation::PodReference,
    node::{self, NodeError},
};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// What a question that was begun may take although the time for all of them is nearly up.
const LEAST: Duration = Duration::from_secs(1);

/// What became of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Captured,
    /// It does not belong to the mesh.
    Outside,
    /// Its label asks for the mesh, which can not take it in. The controller tells its owner.
    Refused(Refusal),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Captured => f.write_str("captured"),
            Self::Outside => f.write_str("not in the mesh"),
            Self::Refused(refusal) => write!(f, "not captured: {refusal}"),
        }
    }
}

/// Returns when the pod may start. Waits for whoever is away, in all as long as the configuration says.
pub async fn add(
    config: &PluginConfig,
    reference: &PodReference,
    netns: &Path,
    addresses: &[IpAddr],
) -> Result<Outcome, Failure> {
    let patience = Patience::new(config.wait_seconds);
    let pod = match judge(config, reference, &patience).await? {
        (pod, Enrolment::Enrolled) => pod,
        (_, Enrolment::NotAsked) => return Ok(Outcome::Outside),
        (_, Enrolment::Refused(refusal)) => return Ok(Outcome::Refused(refusal)),
    };
    let request = EnrolRequest {
        workload_uid: workload_uid(config, reference),
        namespace: reference.namespace.clone(),
        name: reference.name.clone(),
        service_account: service_account(&pod).to_owned(),
        netns_path: netns.display().to_string(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        running: false,
        pod_uid: pod.metadata.uid.unwrap_or_default(),
        ..EnrolRequest::default()
    };
    let mut pause = FIRST_PAUSE;
    loop {
        match node::enrol(&config.socket, request.clone(), patience.left()).await {
            Ok(()) => return Ok(Outcome::Captured),
            Err(error) if error.passes() && patience.rest(&mut pause).await => {}
            Err(source) => return Err(Failure::Node { pod: name(reference), source }),
        }
    }
}

/// Fails for a pod that belongs to the mesh and is not captured.
pub async fn check(config: &PluginConfig, reference: &PodReference) -> Result<(), Failure> {
    let patience = Patience::new(config.wait_seconds);
    let (_, judged) = judge(config, reference, &patience).await?;
    if judged != Enrolment::Enrolled {
        return Ok(());
    }
    let failed = |source| Failure::Node { pod: name(reference), source };
    let pods = node::list(&config.socket, patience.left()).await.map_err(failed)?;
    let uid = workload_uid(config, reference);
    let captured = pods.iter().any(|pod| pod.workload_uid == uid && pod.state() == PodState::Captured);
    if captured { Ok(()) } else { Err(failed(NodeError::NotCaptured)) }
}

async fn judge(config: &PluginConfig, reference: &PodReference, patience: &Patience) -> Result<(Pod, Enrolment), Failure> {
    let mut pause = FIRST_PAUSE;
    let (pod, namespace) = loop {
        let answer = tokio::time::timeout(patience.left(), objects(config, reference)).await;
        match answer.unwrap_or(Err(ApiError::Late { seconds: config.wait_seconds })) {
            Ok(objects) => break objects,
            Err(error) if error.passes() && patience.rest(&mut pause).await => {}
            Err(source) => return Err(Failure::Api { pod: name(reference), source }),
        }
    };
    if !is_the_same(reference, &pod) {
        return Err(Failure::AnotherPod { pod: name(reference) });
    }
    let judged = enrolment(&pod, Some(&namespace), Ownership { ambient: config.ambient });
    Ok((pod, judged))
}

async fn objects(
    config: &PluginConfig,
    PodReference { namespace, name, .. }: &PodReference,
) -> Result<(Pod, Namespace), ApiError> {
    let mut api = Api::connect(&config.api).await?;
    let pod = api.get(&format!("/api/v1/namespaces/{namespace}/pods/{name}")).await?;
    let namespace = api.get(&format!("/api/v1/namespaces/{namespace}")).await?;
    Ok((pod, namespace))
}

/// Whether the object is the pod that starts, and not its successor. The kubelet names a static pod by the hash of its file.
fn is_the_same(reference: &PodReference, pod: &Pod) -> bool {
    let Some(uid) = reference.uid.as_deref() else { return true };
    let hash = pod.metadata.annotations.as_ref().and_then(|found| found.get("kubernetes.io/config.hash"));
    pod.metadata.uid.as_deref() == Some(uid) || hash.is_some_and(|hash| hash == uid)
}

fn service_account(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).filter(|name| !name.is_empty()).unwrap_or("default")
}

fn workload_uid(config: &PluginConfig, pod: &PodReference) -> String {
    format!("{}//Pod/{}/{}", config.cluster, pod.namespace, pod.name)
}

fn name(pod: &PodReference) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// The time that a pod's start may take.
struct Patience {
    until: Instant,
}

impl Patience {
    fn new(seconds: u64) -> Self {
        Self { until: Instant::now() + Duration::from_secs(seconds) }
    }

    /// For one more question.
    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now()).max(LEAST)
    }

    /// Pauses, longer each time; `false` at once when the time is up.
    async fn rest(&self, pause: &mut Duration) -> bool {
        if Instant::now() + *pause >= self.until {
            return false;
        }
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(LAST_PAUSE);
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_told_from_its_successor() {
        let pod = |document| serde_json::from_value::<Pod>(document).unwrap();
        let of = |uid: Option<&str>| PodReference { namespace: "a".into(), name: "b".into(), uid: uid.map(str::to_owned) };
        let plain = pod(json!({ "metadata": { "uid": "u-1" } }));
        assert!(is_the_same(&of(Some("u-1")), &plain));
        assert!(is_the_same(&of(None), &plain));
        assert!(!is_the_same(&of(Some("u-2")), &plain));
        let mirror = pod(json!({ "metadata": { "uid": "u-1", "annotations": { "kubernetes.io/config.hash": "h" } } }));
        assert!(is_the_same(&of(Some("h")), &mirror));
    }

    #[test]
    fn an_account_that_is_not_named_is_the_default_one() {
        let pod = |document| serde_json::from_value::<Pod>(document).unwrap();
        assert_eq!(service_account(&pod(json!({ "spec": { "containers": [] } }))), "default");
        assert_eq!(service_account(&pod(json!({ "spec": { "containers": [], "serviceAccountName": "page" } }))), "page");
    }
}
