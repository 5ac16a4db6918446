//! What is trusted, for every namespace: the ConfigMap `istio-ca-root-cert`, key `root-cert.pem`, as workloads and gateways
//! of Istio expect it, and `keelson-ca-root-cert` in our own namespace for the nodes. Written by the leader alone.
//!
//! A ConfigMap that somebody else has written (istiod, where it runs beside us) is left as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, warn};

use crate::telemetry::Telemetry;

/// As Istio calls it.
const EVERYWHERE: &str = "istio-ca-root-cert";
/// What the nodes mount.
const OWN: &str = "keelson-ca-root-cert";
const KEY: &str = "root-cert.pem";
/// Tells ours from others'.
const LABEL: (&str, &str) = ("app.kubernetes.io/managed-by", "keelson-controller");
const AT_ONCE: usize = 8;
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(5);
/// How long news is gathered before it is acted upon.
const GATHER: Duration = Duration::from_millis(50);

/// Keeps the ConfigMaps as they should be.
#[derive(Clone)]
pub struct Roots {
    pub client: Client,
    /// Our own namespace.
    pub namespace: String,
    /// In PEM form.
    pub trusted: watch::Receiver<Arc<str>>,
    pub telemetry: Arc<Telemetry>,
}

/// A ConfigMap as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    ours: bool,
    /// Of the text under [`KEY`]: thousands of copies need not be kept.
    digest: [u8; 32],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    Create,
    Repair,
    /// It says something else, and is not ours.
    Leave,
}

impl Roots {
    /// Follows namespaces, ConfigMaps and roots, for ever.
    pub async fn run(self) {
        let everywhere = watcher::Config::default().fields(&format!("metadata.name={EVERYWHERE}"));
        let own = watcher::Config::default().fields(&format!("metadata.name={OWN}"));
        let namespaces = Api::<PartialObjectMeta<Namespace>>::all(self.client.clone());
        let maps = Api::<ConfigMap>::all(self.client.clone());
        let own_map = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace);
        let mut namespaces = std::pin::pin!(watcher::watcher(namespaces, watcher::Config::default()).default_backoff());
        let mut maps = std::pin::pin!(watcher::watcher(maps, everywhere).default_backoff());
        let mut own_map = std::pin::pin!(watcher::watcher(own_map, own).default_backoff());
        let mut roots = self.trusted.clone();
        let mut seen = Seen::default();
        let mut foreign = BTreeSet::new();
        let mut due: Option<Instant> = None;
        loop {
            let soon = Instant::now() + GATHER;
            tokio::select! {
                event = namespaces.next() => {
                    seen.namespaces.take("Namespaces", event, |namespace| namespace.metadata.deletion_timestamp.is_none());
                }
                event = maps.next() => seen.maps.take("ConfigMaps", event, found),
                event = own_map.next() => seen.own.take("ConfigMaps", event, found),
                changed = roots.changed() => if changed.is_err() {
                    return;
                },
                () = sleep_until(due.unwrap_or(soon)), if due.is_some() => {
                    due = None;
                    if seen.complete() {
                        let text = roots.borrow_and_update().clone();
                        let (plan, left) = seen.plan(&self.namespace, &text);
                        self.note(&mut foreign, left);
                        if self.carry_out(plan, &text, &mut seen).await {
                            due = Some(Instant::now() + RETRY);
                        }
                    }
                    continue;
                }
            }
            // An attempt that is to be repeated later is repeated with the news.
            due = Some(due.map_or(soon, |at| at.min(soon)));
        }
    }

    /// True when something has to be tried again.
    async fn carry_out(&self, plan: Vec<(Place, Action)>, text: &Arc<str>, seen: &mut Seen) -> bool {
        let mut outcomes = stream::iter(plan).map(|(place, action)| self.write(place, action, text)).buffer_unordered(AT_ONCE);
        let mut failed = false;
        while let Some((place, outcome)) = outcomes.next().await {
            match outcome {
                Outcome::Written => seen.wrote(place, text),
                Outcome::Overtaken => {}
                Outcome::Failed => failed = true,
            }
        }
        failed
    }

    async fn write(&self, place: Place, action: Action, text: &Arc<str>) -> (Place, Outcome) {
        let Place { namespace, name } = &place;
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let call = async {
            if action == Action::Repair {
                let patch = json!({ "metadata": { "labels": { LABEL.0: LABEL.1 } }, "data": { KEY: &**text } });
                return api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
            }
            let mut map = ConfigMap::default();
            map.metadata.name = Some((*name).to_owned());
            map.metadata.labels = Some(BTreeMap::from([(LABEL.0.to_owned(), LABEL.1.to_owned())]));
            map.data = Some(BTreeMap::from([(KEY.to_owned(), text.to_string())]));
            api.create(&PostParams::default(), &map).await
        };
        let problem = match timeout(PATIENCE, call).await {
            Ok(Ok(_)) => {
                debug!(namespace, name, ?action, "wrote what is trusted");
                return (place, Outcome::Written);
            }
            Ok(Err(kube::Error::Api(status)))
                if matches!(status.code, 404 | 409) || status.message.contains("being terminated") =>
            {
                return (place, Outcome::Overtaken);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the API server does not answer".to_owned(),
        };
        self.telemetry.metrics.root_errors.inc();
        warn!(namespace, name, error = problem, "what is trusted cannot be written");
        (place, Outcome::Failed)
    }

    /// Says once which ConfigMaps are somebody else's.
    fn note(&self, before: &mut BTreeSet<String>, now: BTreeSet<String>) {
        let news: Vec<&String> = now.difference(before).take(10).collect();
        if !news.is_empty() {
            warn!(
                namespaces = ?news, count = now.len(),
                "the ConfigMap {EVERYWHERE} is somebody else's there and trusts other roots: it is left as it is (remove it to have ours)"
            );
        }
        self.telemetry.metrics.foreign_roots.set(i64::try_from(now.len()).unwrap_or(i64::MAX));
        *before = now;
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Written,
    /// It is there already, or its namespace is going: the watch tells.
    Overtaken,
    Failed,
}

/// Where a ConfigMap belongs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    namespace: String,
    name: &'static str,
}

/// Everything that was seen of the cluster.
#[derive(Default)]
struct Seen {
    /// Whether each namespace is to stay.
    namespaces: Reflected<bool>,
    maps: Reflected<Found>,
    own: Reflected<Found>,
}

impl Seen {
    fn complete(&self) -> bool {
        self.namespaces.complete && self.maps.complete && self.own.complete
    }

    /// Takes what the watch will tell in a moment.
    fn wrote(&mut self, place: Place, text: &str) {
        let Place { namespace, name } = place;
        let maps = if name == OWN { &mut self.own } else { &mut self.maps };
        maps.items.insert(namespace, Found { ours: true, digest: digest(text) });
    }

    /// What is to be written, and the namespaces whose ConfigMap is somebody else's.
    fn plan(&self, own_namespace: &str, roots: &str) -> (Vec<(Place, Action)>, BTreeSet<String>) {
        let wanted = digest(roots);
        let mut plan = Vec::new();
        let mut foreign = BTreeSet::new();
        let lasting = self.namespaces.items.iter().filter(|(_, stays)| **stays);
        for (namespace, _) in lasting {
            match action(self.maps.items.get(namespace), &wanted) {
                Some(Action::Leave) => drop(foreign.insert(namespace.clone())),
                Some(action) => plan.push((Place { namespace: namespace.clone(), name: EVERYWHERE }, action)),
                None => {}
            }
            if namespace == own_namespace {
                // Nobody else has a claim to this name.
                let own = self.own.items.get(namespace).map(|found| Found { ours: true, ..*found });
                let place = Place { namespace: namespace.clone(), name: OWN };
                plan.extend(action(own.as_ref(), &wanted).map(|action| (place, action)));
            }
        }
        (plan, foreign)
    }
}

/// What to do about a ConfigMap; None: it is right.
fn action(found: Option<&Found>, wanted: &[u8; 32]) -> Option<Action> {
    match found {
        None => Some(Action::Create),
        Some(Found { digest, .. }) if digest == wanted => None,
        Some(Found { ours: true, .. }) => Some(Action::Repair),
        Some(Found { ours: false, .. }) => Some(Action::Leave),
    }
}

fn found(map: &ConfigMap) -> Found {
    let text = map.data.as_ref().and_then(|data| data.get(KEY)).map(String::as_str).unwrap_or_default();
    Found { ours: map.labels().get(LABEL.0).is_some_and(|value| value == LABEL.1), digest: digest(text) }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// What a watch has told: one value for each namespace.
struct Reflected<V> {
    items: BTreeMap<String, V>,
    /// A new list on its way.
    draft: BTreeMap<String, V>,
    complete: bool,
    failed: bool,
}

impl<V> Default for Reflected<V> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), draft: BTreeMap::new(), complete: false, failed: false }
    }
}

impl<V> Reflected<V> {
    fn take<K: Resource + Debug>(
        &mut self,
        what: &str,
        event: Option<Result<Event<K>, watcher::Error>>,
        value: impl Fn(&K) -> V,
    ) {
        // Objects of a namespace go by it, namespaces by their name.
        let key = |object: &K| object.meta().namespace.clone().or_else(|| object.meta().name.clone()).unwrap_or_default();
        match event {
            Some(Ok(event)) => {
                self.failed = false;
                match event {
                    Event::Init => self.draft.clear(),
                    Event::InitApply(object) => drop(self.draft.insert(key(&object), value(&object))),
                    Event::InitDone => {
                        self.items = std::mem::take(&mut self.draft);
                        self.complete = true;
                    }
                    Event::Apply(object) => drop(self.items.insert(key(&object), value(&object))),
                    Event::Delete(object) => drop(self.items.remove(&key(&object))),
                }
            }
            Some(Err(error)) => {
                if !self.failed {
                    warn!(%error, "{what} cannot be watched: trying again");
                }
                self.failed = true;
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(namespaces: &[(&str, bool)], maps: &[(&str, bool, &str)], own: &[(&str, bool, &str)]) -> Seen {
        let of = |maps: &[(&str, bool, &str)]| Reflected {
            items: maps.iter().map(|(at, ours, text)| ((*at).to_owned(), Found { ours: *ours, digest: digest(text) })).collect(),
            complete: true,
            ..Reflected::default()
        };
        let namespaces = namespaces.iter().map(|(name, stays)| ((*name).to_owned(), *stays)).collect();
        let namespaces = Reflected { items: namespaces, complete: true, ..Reflected::default() };
        Seen { namespaces, maps: of(maps), own: of(own) }
    }

    fn plan(seen: &Seen) -> (Vec<(String, &'static str, Action)>, Vec<String>) {
        let (plan, foreign) = seen.plan("mesh", "R");
        (plan.into_iter().map(|(at, action)| (at.namespace, at.name, action)).collect(), foreign.into_iter().collect())
    }

    #[test]
    fn every_namespace_is_told_and_nobody_elses_map_is_touched() {
        let namespaces = [("going", false), ("mesh", true), ("new", true), ("right", true), ("theirs", true), ("wrong", true)];
        let maps = [("right", true, "R"), ("theirs", false, "T"), ("wrong", true, "X"), ("mesh", false, "R")];
        let (actions, foreign) = plan(&seen(&namespaces, &maps, &[]));
        let expected =
            [("mesh", OWN, Action::Create), ("new", EVERYWHERE, Action::Create), ("wrong", EVERYWHERE, Action::Repair)];
        assert_eq!(actions, expected.map(|(at, name, action)| (at.to_owned(), name, action)));
        assert_eq!(foreign, ["theirs"], "the same roots by somebody else are as good");
    }

    #[test]
    fn the_nodes_own_map_is_always_ours() {
        let (actions, foreign) = plan(&seen(&[("mesh", true)], &[("mesh", false, "T")], &[("mesh", false, "T")]));
        assert_eq!(actions, [("mesh".to_owned(), OWN, Action::Repair)]);
        assert_eq!(foreign, ["mesh"]);
    }

    #[test]
    fn nothing_is_planned_before_everything_was_listed() {
        let mut seen = Seen::default();
        assert!(!seen.complete());
        let namespace =
            Namespace { metadata: kube::core::ObjectMeta { name: Some("a".into()), ..Default::default() }, ..Default::default() };
        seen.namespaces.take("Namespaces", Some(Ok(Event::Init)), |_: &Namespace| true);
        seen.namespaces.take("Namespaces", Some(Ok(Event::InitApply(namespace.clone()))), |_| true);
        assert!(!seen.namespaces.complete && seen.namespaces.items.is_empty());
        seen.namespaces.take("Namespaces", Some(Ok(Event::<Namespace>::InitDone)), |_| true);
        assert!(seen.namespaces.complete && seen.namespaces.items.contains_key("a"));
        seen.namespaces.take("Namespaces", Some(Ok(Event::Delete(namespace))), |_| true);
        assert!(seen.namespaces.items.is_empty());
    }
}
