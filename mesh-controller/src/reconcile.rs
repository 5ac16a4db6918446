//! The one owner of everything that changes: objects, reports of captured pods, and what follows from them.
//!
//! Changes that arrive together become one state. Each state is translated whole, published if it differs from the one
//! before, and told to the objects' status files.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use mesh_config::translate::{Settings, Translation, translate};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info};

use crate::{
    capture::Captures,
    distribute::Published,
    placement::Placement,
    source::{Admission, Sources},
    status::{Desired, Told, desired},
    telemetry::Telemetry,
};

/// Something that changes the state.
pub enum Change {
    Capture { node: String, uid: String, captured: bool, done: oneshot::Sender<u64> },
    Sync { node: String, uids: BTreeSet<String>, done: oneshot::Sender<Vec<String>> },
}

/// The reconciler has ended.
#[derive(Debug, thiserror::Error)]
#[error("the reconciler has ended")]
pub struct Ended;

/// How others change the state.
#[derive(Clone)]
pub struct Handle(mpsc::Sender<Change>);

impl Handle {
    /// Records a report; the generation from which on it is in force.
    pub async fn capture(&self, node: &str, uid: &str, captured: bool) -> Result<u64, Ended> {
        let (done, result) = oneshot::channel();
        let change = Change::Capture { node: node.into(), uid: uid.into(), captured, done };
        self.0.send(change).await.map_err(|_| Ended)?;
        result.await.map_err(|_| Ended)
    }

    /// Replaces a node's reports; those that are not its pods.
    pub async fn sync(&self, node: &str, uids: BTreeSet<String>) -> Result<Vec<String>, Ended> {
        let (done, result) = oneshot::channel();
        self.0.send(Change::Sync { node: node.into(), uids, done }).await.map_err(|_| Ended)?;
        result.await.map_err(|_| Ended)
    }
}

pub struct Reconciler {
    pub settings: Settings,
    pub admission: Admission,
    pub captures: Captures,
    pub published: watch::Sender<Arc<Published>>,
    pub placement: watch::Sender<Arc<Placement>>,
    pub statuses: watch::Sender<Arc<Desired>>,
    pub telemetry: Arc<Telemetry>,
}

impl Reconciler {
    /// A handle and the changes that it sends.
    pub fn channel() -> (Handle, mpsc::Receiver<Change>) {
        let (sender, receiver) = mpsc::channel(1024);
        (Handle(sender), receiver)
    }

    /// Takes the first state: nothing is served before.
    pub fn start(&mut self, sources: Sources) {
        let _ = self.admission.apply(sources);
        self.reconcile(Instant::now());
    }

    /// Follows changes until nobody is left to report any.
    pub async fn run(mut self, mut sources: mpsc::Receiver<Sources>, mut changes: mpsc::Receiver<Change>) {
        let mut batch = Vec::new();
        let mut watched = true;
        loop {
            tokio::select! {
                state = sources.recv(), if watched => {
                    // Without news of objects, reports of nodes still count.
                    let Some(mut state) = state else {
                        watched = false;
                        continue;
                    };
                    // Only the newest state counts.
                    while let Ok(newer) = sources.try_recv() {
                        state = newer;
                    }
                    let started = Instant::now();
                    if self.admission.apply(state) {
                        self.reconcile(started);
                    }
                }
                count = changes.recv_many(&mut batch, 1024) => {
                    if count == 0 {
                        return;
                    }
                    self.apply(std::mem::take(&mut batch));
                }
            }
        }
    }

    fn apply(&mut self, batch: Vec<Change>) {
        let started = Instant::now();
        let mut captures = Vec::new();
        let mut syncs = Vec::new();
        let mut changed = false;
        for change in batch {
            match change {
                Change::Capture { node, uid, captured, done } => {
                    info!(node, uid, captured, "capture reported");
                    changed |= self.captures.set(&node, &uid, captured);
                    captures.push(done);
                }
                Change::Sync { node, uids, done } => {
                    debug!(node, count = uids.len(), "captured pods reported");
                    let unknown = self.unknown(&node, &uids);
                    changed |= self.captures.replace(&node, uids);
                    syncs.push((done, unknown));
                }
            }
        }
        if changed {
            self.reconcile(started);
        }
        let generation = self.published.borrow().generation;
        // Whoever asked may have left.
        for done in captures {
            let _ = done.send(generation);
        }
        for (done, unknown) in syncs {
            let _ = done.send(unknown);
        }
    }

    fn unknown(&self, node: &str, uids: &BTreeSet<String>) -> Vec<String> {
        let pods = self.admission.objects().pods.iter();
        let placed = pods.filter(|(_, pod)| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node));
        let known: BTreeSet<_> = placed.map(|(name, _)| self.settings.pod_uid(&name.namespace, &name.name).to_string()).collect();
        uids.difference(&known).cloned().collect()
    }

    fn reconcile(&mut self, started: Instant) {
        let objects = self.admission.objects();
        let captured = self.captures.standing(objects, &self.settings);
        let Translation { model, messages, conditions, root_namespace: _ } = translate(objects, &self.settings, &captured);

        let placement = Placement::of(objects, &model.mesh.trust_domain);
        self.placement.send_if_modified(|before| {
            let changed = **before != placement;
            if changed {
                *before = Arc::new(placement);
            }
            changed
        });
        let statuses =
            desired(&self.admission, &Told { messages: &messages, conditions: &conditions }, &captured, &self.settings);
        let next = self.published.borrow().next(model);
        if let Some(next) = next {
            let (generation, workloads) = (next.generation, next.model.workloads.len());
            let (services, policies) = (next.model.services.len(), next.model.policies.len());
            self.published.send_replace(Arc::new(next));
            info!(generation, workloads, services, policies, took_ms = started.elapsed().as_millis() as u64, "published");
        }
        self.statuses.send_replace(Arc::new(statuses));

        let metrics = &self.telemetry.metrics;
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.rejected_objects.set(count(self.admission.refused()));
        metrics.file_errors.set(count(self.admission.problems().len()));
        metrics.objects.set(count(self.admission.keys().count()));
        metrics.reconcile_seconds.observe(started.elapsed().as_secs_f64());
    }
}
