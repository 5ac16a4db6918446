//! The one owner of everything that changes: objects, reports of captured pods, and what follows from them.
//!
//! Changes that arrive together become one state. Each state is translated whole, published if it differs from the one
//! before, and told to the objects. Where pods are follows the changes alone.

use std::{
    collections::BTreeSet,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_config::translate::{Settings, Translation, translate};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval},
};
use tracing::{debug, info};

use crate::{
    capture::{Captures, Surroundings, Taken},
    distribute::Published,
    placement::{Placement, Places},
    source::{Admission, Effect, News, Sources},
    status::{Desired, PodsTold, Told, desired},
    telemetry::Telemetry,
};

/// How often reports that wait for something are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Something that changes the state.
pub enum Change {
    Capture { node: String, uid: String, captured: bool, done: oneshot::Sender<Recorded> },
    Sync { node: String, uids: BTreeSet<String>, done: oneshot::Sender<Vec<String>> },
}

/// What became of a report.
#[derive(Debug)]
pub struct Recorded {
    /// The generation from which on it is in force.
    pub generation: u64,
    /// True once every replica is told, false when that can not be brought about; None: there is nobody to tell.
    pub told: Option<oneshot::Receiver<bool>>,
    /// Whether other replicas serve nodes, whose acknowledgements are not known here.
    pub others_serve: bool,
}

/// The reconciler has ended.
#[derive(Debug, thiserror::Error)]
#[error("the reconciler has ended")]
pub struct Ended;

/// How others change the state.
#[derive(Clone)]
pub struct Handle(mpsc::Sender<Change>);

impl Handle {
    /// Records a report.
    pub async fn capture(&self, node: &str, uid: &str, captured: bool) -> Result<Recorded, Ended> {
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

/// Where what follows goes.
pub struct Outlets {
    pub published: watch::Sender<Arc<Published>>,
    pub placement: watch::Sender<Arc<Placement>>,
    pub statuses: watch::Sender<Arc<Desired>>,
}

pub struct Reconciler {
    settings: Settings,
    admission: Admission,
    captures: Captures,
    places: Places,
    outlets: Outlets,
    telemetry: Arc<Telemetry>,
    /// Whether the source has told everything once: nothing is published before.
    complete: bool,
    /// What the last translation told.
    translated: Translation,
    captured: BTreeSet<mesh_policy::model::WorkloadUid>,
}

impl Reconciler {
    pub fn new(
        settings: Settings,
        admission: Admission,
        captures: Captures,
        places: Places,
        outlets: Outlets,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let (translated, captured) = (Translation::default(), BTreeSet::new());
        Self { settings, admission, captures, places, outlets, telemetry, complete: false, translated, captured }
    }

    /// A handle and the changes that it sends.
    pub fn channel() -> (Handle, mpsc::Receiver<Change>) {
        let (sender, receiver) = mpsc::channel(1024);
        (Handle(sender), receiver)
    }

    /// Takes the first state of a source that has it at once: nothing is served before.
    pub fn start(&mut self, sources: Sources) {
        let _ = self.admission.apply(sources);
        self.complete = true;
        self.reconcile(Instant::now());
    }

    /// Follows changes until nobody is left to report any.
    pub async fn run(mut self, mut news: mpsc::Receiver<News>, mut changes: mpsc::Receiver<Change>) {
        let mut batch = Vec::new();
        let mut watched = true;
        let mut unsettled = false;
        let mut look_again = interval(LOOK_AGAIN);
        look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                told = news.recv(), if watched => {
                    // Without news of objects, reports of nodes still count.
                    let Some(told) = told else {
                        watched = false;
                        continue;
                    };
                    let started = Instant::now();
                    let mut all = vec![told];
                    while let Ok(newer) = news.try_recv() {
                        all.push(newer);
                    }
                    self.hear(all, started);
                }
                count = changes.recv_many(&mut batch, 1024) => {
                    if count == 0 {
                        return;
                    }
                    self.apply(mem::take(&mut batch));
                }
                _ = look_again.tick(), if unsettled => {}
            }
            unsettled = self.captures.settle(self.admission.objects());
        }
    }

    /// Takes news in their order.
    fn hear(&mut self, mut news: Vec<News>, started: Instant) {
        // A whole state makes void what was told of objects before it.
        if let Some(newest) = news.iter().rposition(|told| matches!(told, News::State(_))) {
            let mut index = 0;
            news.retain(|told| {
                index += 1;
                index > newest || !matches!(told, News::State(_) | News::Changes(_))
            });
        }
        let was_complete = self.complete;
        let mut effect = Effect::Nothing;
        let mut placed = false;
        for told in news {
            match told {
                News::State(sources) => {
                    let changed = self.admission.apply(sources);
                    effect = effect.max(if changed { Effect::Objects } else { Effect::Nothing });
                }
                News::Changes(changes) => effect = effect.max(self.admission.update(changes)),
                News::Complete => self.complete = true,
                News::Ownership(ownership) => {
                    placed |= self.places.set_ownership(ownership, self.admission.objects());
                    effect = effect.max(Effect::Statuses);
                }
            }
        }
        if !self.complete {
            return;
        }
        if effect == Effect::Objects || !was_complete {
            self.reconcile(started);
        } else if effect == Effect::Statuses {
            self.tell();
        }
        if placed {
            self.outlets.placement.send_replace(Arc::new(self.places.placement().clone()));
        }
    }

    fn apply(&mut self, batch: Vec<Change>) {
        let started = Instant::now();
        let mut captures = Vec::new();
        let mut syncs = Vec::new();
        let mut changed = false;
        let ownership = self.places.ownership();
        for change in batch {
            let surroundings = Surroundings { objects: self.admission.objects(), settings: &self.settings, ownership };
            match change {
                Change::Capture { node, uid, captured, done } => {
                    info!(node, uid, captured, "capture reported");
                    let taken = self.captures.set(&node, &uid, captured, surroundings);
                    changed |= taken.changed;
                    captures.push((done, taken));
                }
                Change::Sync { node, uids, done } => {
                    debug!(node, count = uids.len(), "captured pods reported");
                    let unknown = self.unknown(&node, &uids);
                    changed |= self.captures.replace(&node, uids, surroundings);
                    syncs.push((done, unknown));
                }
            }
        }
        if changed && self.complete {
            self.reconcile(started);
        }
        let generation = self.outlets.published.borrow().generation;
        // Whoever asked may have left.
        for (done, Taken { changed: _, told, others_serve }) in captures {
            let _ = done.send(Recorded { generation, told, others_serve });
        }
        for (done, unknown) in syncs {
            let _ = done.send(unknown);
        }
    }

    fn unknown(&self, node: &str, uids: &BTreeSet<String>) -> Vec<String> {
        let pods = self.places.placement().pods_of(node);
        let names = pods.iter().flat_map(|pods| pods.keys());
        let known: BTreeSet<_> = names.map(|name| self.settings.pod_uid(&name.namespace, &name.name).to_string()).collect();
        uids.difference(&known).cloned().collect()
    }

    fn reconcile(&mut self, started: Instant) {
        let objects = self.admission.objects();
        self.captured = self.captures.standing(objects, &self.settings);
        let mut translated = translate(objects, &self.settings, &self.captured);
        let model = mem::take(&mut translated.model);
        self.translated = translated;

        let touched = self.admission.take_touched();
        let mut placed = self.places.update(&touched, self.admission.objects());
        placed |= self.places.set_trust_domain(&model.mesh.trust_domain);
        if placed {
            self.outlets.placement.send_replace(Arc::new(self.places.placement().clone()));
        }
        let next = self.outlets.published.borrow().next(model);
        if let Some(next) = next {
            let (generation, workloads) = (next.generation, next.model.workloads.len());
            let (services, policies) = (next.model.services.len(), next.model.policies.len());
            self.outlets.published.send_replace(Arc::new(next));
            info!(generation, workloads, services, policies, took_ms = started.elapsed().as_millis() as u64, "published");
        }
        self.tell();
        self.telemetry.metrics.reconcile_seconds.observe(started.elapsed().as_secs_f64());
    }

    /// Says what every object is to be told.
    fn tell(&self) {
        let told = Told { messages: &self.translated.messages, conditions: &self.translated.conditions };
        let pods = match &self.captures {
            Captures::Reports(_) => PodsTold::Captured(&self.captured),
            Captures::Annotations(_) => PodsTold::Refused(self.places.placement()),
        };
        self.outlets.statuses.send_replace(Arc::new(desired(&self.admission, &told, pods, &self.settings)));
        let metrics = &self.telemetry.metrics;
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.rejected_objects.set(count(self.admission.refused()));
        metrics.file_errors.set(count(self.admission.problems().len()));
        metrics.objects.set(count(self.admission.keys().count()));
    }
}
