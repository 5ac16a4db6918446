//! Brings the objects' own status to what it should be.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use mesh_config::kinds::{Name, ObjectKey};
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, warn};

use super::{form::Form, pods::Pods, queue::Queue};
use crate::{
    status::desired::{Desired, ObjectStatus, PodNews},
    telemetry::Telemetry,
};

const AT_ONCE: usize = 8;
/// Of one object, with its repetitions.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often an object is read again that somebody else wrote in between.
const ATTEMPTS: usize = 4;

/// Writes while its [`Writer::run`] is polled: dropped by whoever no longer leads.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    pods: Pods,
    telemetry: Arc<Telemetry>,
}

/// Something to write.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Object(ObjectKey),
    Pod(Name),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Object(Arc<ObjectStatus>),
    Pod(PodNews),
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("somebody else writes it all the time")]
    Contended,
    #[error("the API server does not answer")]
    Slow,
}

impl Writer {
    /// `instance`: this replica, as events name it.
    pub fn new(client: Client, instance: String, telemetry: Arc<Telemetry>) -> Self {
        Self { pods: Pods::new(client.clone(), instance), client, telemetry }
    }

    /// Follows the desired state until its sender is gone.
    pub async fn run(self, mut desired: watch::Receiver<Arc<Desired>>) {
        let mut queue: Queue<Target, Wanted> = Queue::default();
        let mut attempts: JoinSet<(Target, bool)> = JoinSet::new();
        queue.want(wanted(&desired.borrow_and_update()), Instant::now());
        loop {
            while queue.running() < AT_ONCE
                && let Some((target, wanted)) = queue.next(Instant::now())
            {
                let writer = self.clone();
                attempts.spawn(async move {
                    let succeeded = writer.attempt(&target, &wanted).await;
                    (target, succeeded)
                });
            }
            let due = queue.due().filter(|_| queue.running() < AT_ONCE);
            tokio::select! {
                changed = desired.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    queue.want(wanted(&desired.borrow_and_update()), Instant::now());
                }
                Some(ended) = attempts.join_next(), if !attempts.is_empty() => match ended {
                    Ok((target, succeeded)) => queue.done(&target, succeeded, Instant::now()),
                    Err(error) => warn!(%error, "writing a status ended badly"),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    /// True: what was wanted stands, or there is nothing left to tell it to.
    async fn attempt(&self, target: &Target, wanted: &Wanted) -> bool {
        let write = async {
            match (target, wanted) {
                (Target::Object(key), Wanted::Object(status)) => self.object(key, status).await,
                (Target::Pod(name), Wanted::Pod(news)) => Ok(self.pods.tell(name, news, &now()).await?),
                (Target::Object(_), Wanted::Pod(_)) | (Target::Pod(_), Wanted::Object(_)) => Ok(()),
            }
        };
        let error = match timeout(PATIENCE, write).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error,
            Err(_) => WriteError::Slow,
        };
        self.telemetry.metrics.status_errors.inc();
        warn!(?target, %error, "a status is not written");
        false
    }

    async fn object(&self, key: &ObjectKey, wanted: &ObjectStatus) -> Result<(), WriteError> {
        let Some(form) = Form::of(key.kind, true) else { return Ok(()) };
        let Some(resource) = wanted.api_version.as_deref().map(|version| resource(version, key.kind.as_str())) else {
            return Ok(());
        };
        let api: Api<DynamicObject> = match &*key.name.namespace {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        };
        for _ in 0..ATTEMPTS {
            let Some(found) = api.get_opt(&key.name.name).await? else { return Ok(()) };
            // Something newer than what was judged: its own verdict is on its way.
            if wanted.generation.is_some() && found.metadata.generation != wanted.generation {
                return Ok(());
            }
            let Some(status) = form.patch(found.data.get("status"), wanted, &now()) else { return Ok(()) };
            let version = found.metadata.resource_version;
            let patch = json!({ "metadata": { "resourceVersion": version }, "status": status });
            match api.patch_status(&key.name.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => {
                    debug!(object = %key, "status written");
                    self.telemetry.metrics.statuses_written.inc();
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                // It was there a moment ago; or its definition has no status.
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Err(WriteError::Contended)
    }
}

/// Everything that differs.
fn wanted(desired: &Desired) -> BTreeMap<Target, Wanted> {
    let objects = desired.objects.iter().filter(|(_, status)| status.differs);
    let objects = objects.map(|(key, status)| (Target::Object(key.clone()), Wanted::Object(status.clone())));
    let pods = desired.pods.iter().map(|(name, news)| (Target::Pod(name.clone()), Wanted::Pod(news.clone())));
    objects.chain(pods).collect()
}

/// `kind` in the version in which it was read.
pub(super) fn resource(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let plural = match kind.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o']) => format!("{stem}ies"),
        _ if kind.ends_with('s') => format!("{kind}es"),
        _ => format!("{kind}s"),
    };
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), &plural.to_lowercase())
}

/// To the second, as Kubernetes writes times.
fn now() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}
