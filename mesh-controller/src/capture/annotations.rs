//! Reports in the annotation of the pods themselves.
//!
//! A report is in force here at once, and on its way to the pod until the watch shows that it is there. Then the annotation alone counts,
//! whichever replica wrote it. A report that can not be written within [`PATIENCE`] is given up and told: a node
//! says all that it has whenever it connects.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use mesh_config::{
    enrolment::{REDIRECTION, REDIRECTION_ENABLED, is_foreign},
    kinds::{Name, Objects},
    translate::Settings,
};
use mesh_policy::model::WorkloadUid;
use tokio::sync::{oneshot, watch};
use tracing::warn;

use super::{Surroundings, Taken};

/// How long a report may be on its way.
const PATIENCE: Duration = Duration::from_mins(2);

/// What a pod's annotation is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Of this pod, and not of a later one of the same name.
    pub pod_uid: String,
    pub captured: bool,
}

pub type Marks = Arc<BTreeMap<Name, Mark>>;

/// What nodes have reported and pods do not say yet.
pub struct Annotations {
    /// The Service of the controllers.
    service: Name,
    pending: BTreeMap<Name, Pending>,
    marks: watch::Sender<Marks>,
}

struct Pending {
    node: String,
    captured: bool,
    since: Instant,
    /// Whoever wants to know that it is written.
    waiting: Vec<oneshot::Sender<bool>>,
}

impl Annotations {
    /// What is to be written goes to `marks`. `service` is that of the controllers.
    pub fn new(marks: watch::Sender<Marks>, service: Name) -> Self {
        Self { service, pending: BTreeMap::new(), marks }
    }

    pub(super) fn set(&mut self, node: &str, uid: &str, captured: bool, surroundings: Surroundings<'_>) -> Taken {
        let Some(name) = pod_of(uid, surroundings.settings) else { return Taken::default() };
        let before = self.is_captured(&name, surroundings.objects);
        let (done, told) = oneshot::channel();
        self.report(node, name.clone(), captured, Some(done));
        self.settle(surroundings.objects);
        let changed = before != self.is_captured(&name, surroundings.objects);
        Taken { changed, told: Some(told), others_serve: self.others_serve(surroundings.objects) }
    }

    /// Whether nodes may be connected to another replica.
    fn others_serve(&self, objects: &Objects) -> bool {
        let Name { namespace, name } = &self.service;
        let of_namespace = objects.endpoint_slices.range(Name::new(namespace, "")..);
        let slices = of_namespace.take_while(|(slice, _)| slice.namespace == *namespace).map(|(_, slice)| slice);
        let own = slices.filter(|slice| {
            let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/service-name"));
            label.is_some_and(|label| **label == **name)
        });
        // One that ends still has its streams.
        let serving = own.flat_map(|slice| &slice.endpoints).filter(|endpoint| {
            endpoint.conditions.as_ref().is_none_or(|conditions| conditions.serving.or(conditions.ready).unwrap_or(true))
        });
        // Of two families each replica has an address.
        let replicas: BTreeSet<_> = serving
            .map(|endpoint| endpoint.target_ref.as_ref().map(|target| target.name.clone()).ok_or(&endpoint.addresses))
            .collect();
        replicas.len() > 1
    }

    pub(super) fn replace(&mut self, node: &str, uids: &BTreeSet<String>, surroundings: Surroundings<'_>) -> bool {
        let Surroundings { objects, settings, ownership } = surroundings;
        let reported: BTreeSet<Name> = uids.iter().filter_map(|uid| pod_of(uid, settings)).collect();
        let namespace_of = |name: &Name| objects.namespaces.get(&Name::new("", &name.namespace)).map(AsRef::as_ref);
        // What another mesh has marked is not the node's to take back.
        let own = |name: &Name, pod: &Pod| is_on(pod, node) && !is_foreign(pod, namespace_of(name), ownership);
        let marked = objects.pods.iter().filter(|(name, pod)| is_marked(pod) && own(name, pod)).map(|(name, _)| name.clone());
        let waiting = self.pending.iter().filter(|(_, pending)| pending.node == node).map(|(name, _)| name.clone());
        let names: BTreeSet<Name> = marked.chain(waiting).chain(reported.iter().cloned()).collect();
        let mut changed = false;
        for name in names {
            let captured = reported.contains(&name);
            let before = self.is_captured(&name, objects);
            self.report(node, name.clone(), captured, None);
            changed |= before != self.is_captured(&name, objects);
        }
        self.settle(objects);
        changed
    }

    /// Takes the place of an older report on the pod.
    fn report(&mut self, node: &str, name: Name, captured: bool, done: Option<oneshot::Sender<bool>>) {
        let mut waiting: Vec<_> = done.into_iter().collect();
        match self.pending.remove(&name) {
            Some(older) if older.node == node && older.captured == captured => waiting.extend(older.waiting),
            Some(older) => older.resolve(false),
            None => {}
        }
        self.pending.insert(name, Pending { node: node.to_owned(), captured, since: Instant::now(), waiting });
    }

    /// Ends what has come to its end, and says what is to be written; true when something is still on its way.
    pub(super) fn settle(&mut self, objects: &Objects) -> bool {
        let mut marks = BTreeMap::new();
        let ended: Vec<(Name, End)> = (self.pending.iter())
            .filter_map(|(name, pending)| {
                let end = match objects.pods.get(name) {
                    // It may come; what is gone has nothing left to be withdrawn.
                    None if pending.captured => None,
                    None => Some(End::Known),
                    Some(pod) if !is_on(pod, &pending.node) => Some(End::NotItsPod),
                    Some(pod) if is_marked(pod) == pending.captured => Some(End::Known),
                    Some(pod) => {
                        let pod_uid = pod.metadata.uid.clone().unwrap_or_default();
                        marks.insert(name.clone(), Mark { pod_uid, captured: pending.captured });
                        None
                    }
                };
                let late = || (pending.since.elapsed() > PATIENCE).then_some(End::Late);
                Some((name.clone(), end.or_else(late)?))
            })
            .collect();
        for (name, end) in ended {
            marks.remove(&name);
            if let Some(pending) = self.pending.remove(&name) {
                pending.end(&name, end);
            }
        }
        self.marks.send_if_modified(|before| {
            let changed = **before != marks;
            if changed {
                *before = Arc::new(marks);
            }
            changed
        });
        !self.pending.is_empty()
    }

    pub(super) fn standing(&self, objects: &Objects, settings: &Settings) -> BTreeSet<WorkloadUid> {
        let captured = objects.pods.iter().filter(|(name, pod)| {
            let reported = self.pending.get(name).filter(|pending| is_on(pod, &pending.node));
            reported.map_or_else(|| is_marked(pod), |pending| pending.captured)
        });
        captured.map(|(name, _)| settings.pod_uid(&name.namespace, &name.name)).collect()
    }

    fn is_captured(&self, name: &Name, objects: &Objects) -> bool {
        let pod = objects.pods.get(name);
        let reported = self.pending.get(name).filter(|pending| pod.is_some_and(|pod| is_on(pod, &pending.node)));
        reported.map_or_else(|| pod.is_some_and(|pod| is_marked(pod)), |pending| pending.captured)
    }
}

/// How a report ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The pod says so itself, or is gone.
    Known,
    NotItsPod,
    Late,
}

impl Pending {
    fn end(self, name: &Name, end: End) {
        let Name { namespace, name } = name;
        match end {
            End::Known => {}
            End::NotItsPod => warn!(node = self.node, "a report on pod {namespace}/{name} is passed over: it runs elsewhere"),
            End::Late => {
                warn!(
                    node = self.node,
                    captured = self.captured,
                    "a report on pod {namespace}/{name} could not be written and is given up"
                );
            }
        }
        self.resolve(matches!(end, End::Known));
    }

    fn resolve(self, known: bool) {
        for waiting in self.waiting {
            // Whoever asked may have left.
            let _ = waiting.send(known);
        }
    }
}

/// The pod of `<cluster>//Pod/<namespace>/<name>`.
fn pod_of(uid: &str, settings: &Settings) -> Option<Name> {
    let (namespace, name) = uid.strip_prefix(&*settings.cluster)?.strip_prefix("//Pod/")?.split_once('/')?;
    (!name.contains('/')).then(|| Name::new(namespace, name))
}

fn is_on(pod: &Pod, node: &str) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node)
}

fn is_marked(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(REDIRECTION)).is_some_and(|value| value == REDIRECTION_ENABLED)
}
