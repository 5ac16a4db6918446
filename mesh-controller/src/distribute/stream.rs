//! One node's delta stream as a state machine: requests in, the next response out.
//!
//! At most one response of a type is unanswered at a time. While a node is slow nothing queues up for it: what it gets
//! next is the difference to the newest state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_proto::xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

use super::{
    nodes::Progress,
    published::{Entry, Published, ResourceType},
};

/// Resources of one response: a first state of a large mesh comes in several.
const CHUNK: usize = 4_000;

/// What a request turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It only (un)subscribed.
    Subscription,
    Acknowledged(ResourceType),
    Refused {
        kind: ResourceType,
        message: String,
    },
    /// It answers a response that is no longer the last one.
    Stale,
    UnknownType,
}

/// The state of one stream.
#[derive(Debug, Default)]
pub struct Stream {
    mesh: Subscription,
    authorization: Subscription,
    document: Subscription,
    address: Subscription,
    nonce: u64,
}

#[derive(Debug, Default)]
struct Subscription {
    /// Whether the node has asked for the type at all.
    open: bool,
    wildcard: bool,
    names: BTreeSet<String>,
    /// What the node holds, or will once it has answered: name and version.
    sent: BTreeMap<Arc<str>, Arc<str>>,
    /// Names that were asked for and are not there; the node was told.
    missing: BTreeSet<String>,
    /// The first response is due even when it is empty.
    answered: bool,
    outstanding: Option<Outstanding>,
    refused: BTreeSet<Arc<str>>,
    /// The generation up to which there was nothing left to send.
    clean_at: Option<u64>,
    /// The generation up to which everything was answered.
    acknowledged: u64,
}

#[derive(Debug)]
struct Outstanding {
    nonce: String,
    names: Vec<Arc<str>>,
    /// The generation that is complete with this response; None: there is more to come.
    completes: Option<u64>,
}

/// What part of a type's changes may be sent at this point of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    All,
    Upserts,
}

/// Policies go before the workloads that name them, and are removed after; routes go after the services that they name.
pub(super) const ORDER: [(ResourceType, Part); 5] = [
    (ResourceType::Mesh, Part::All),
    (ResourceType::Authorization, Part::Upserts),
    (ResourceType::Address, Part::All),
    (ResourceType::Document, Part::All),
    (ResourceType::Authorization, Part::All),
];

impl Stream {
    /// Takes a request.
    pub fn request(&mut self, request: DeltaDiscoveryRequest, published: &Published) -> Answer {
        let Some(kind) = ResourceType::of_url(&request.type_url) else {
            return Answer::UnknownType;
        };
        let subscription = self.of(kind);
        subscription.subscribe(kind, &request, published);
        if request.response_nonce.is_empty() {
            return Answer::Subscription;
        }
        let Some(outstanding) = subscription.outstanding.take_if(|sent| sent.nonce == request.response_nonce) else {
            return Answer::Stale;
        };
        // States that brought nothing of the type while the answer was awaited are held with it.
        let held = outstanding.completes.max(subscription.clean_at);
        subscription.acknowledged = subscription.acknowledged.max(held.unwrap_or(0));
        match request.error_detail {
            None => {
                for name in outstanding.names {
                    subscription.refused.remove(&name);
                }
                Answer::Acknowledged(kind)
            }
            Some(error) => {
                subscription.refused.extend(outstanding.names);
                Answer::Refused { kind, message: error.message }
            }
        }
    }

    /// The next response that is due, if there is one.
    pub fn response(&mut self, published: &Published) -> Option<(ResourceType, DeltaDiscoveryResponse)> {
        if published.generation == 0 {
            return None;
        }
        for (kind, part) in ORDER {
            let subscription = self.of(kind);
            if !subscription.open || subscription.clean_at == Some(published.generation) {
                continue;
            }
            let difference = subscription.difference(kind, part, published);
            if difference.is_empty() && subscription.answered {
                if part == Part::All {
                    subscription.clean_at = Some(published.generation);
                    if subscription.outstanding.is_none() {
                        subscription.acknowledged = published.generation;
                    }
                }
                continue;
            }
            // The rest of the order waits too: it may build on this.
            if subscription.outstanding.is_some() {
                return None;
            }
            self.nonce += 1;
            let nonce = self.nonce.to_string();
            return Some((kind, self.of(kind).send(kind, nonce, difference, published)));
        }
        None
    }

    /// What the node has acknowledged of workloads and services. A newer state that is on its way takes nothing of it.
    pub fn progress(&self) -> Progress {
        Progress { acknowledged: self.address.acknowledged, refused: self.address.refused.clone() }
    }

    fn of(&mut self, kind: ResourceType) -> &mut Subscription {
        match kind {
            ResourceType::Mesh => &mut self.mesh,
            ResourceType::Authorization => &mut self.authorization,
            ResourceType::Document => &mut self.document,
            ResourceType::Address => &mut self.address,
        }
    }
}

#[derive(Default)]
struct Difference {
    changed: Vec<Arc<Entry>>,
    removed: Vec<String>,
}

impl Difference {
    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

impl Subscription {
    fn subscribe(&mut self, kind: ResourceType, request: &DeltaDiscoveryRequest, published: &Published) {
        let first = !self.open;
        self.open = true;
        if first {
            self.sent = request.initial_resource_versions.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect();
            // Asking for nothing in particular at first means everything.
            self.wildcard = request.resource_names_subscribe.is_empty();
        }
        let mut changed = first;
        for name in &request.resource_names_subscribe {
            changed = true;
            if name == "*" {
                self.wildcard = true;
                continue;
            }
            self.names.insert(name.clone());
            self.missing.remove(name);
            // The node may have dropped what it asks for again. What it named as held in this very request it has.
            if !first {
                let own = published.find(kind, name).map(|entry| entry.name.clone());
                self.sent.remove(own.as_deref().unwrap_or(name));
            }
        }
        for name in &request.resource_names_unsubscribe {
            changed = true;
            if name == "*" {
                self.wildcard = false;
                continue;
            }
            self.names.remove(name);
            self.missing.remove(name);
        }
        if changed {
            self.clean_at = None;
        }
    }

    fn difference(&mut self, kind: ResourceType, part: Part, published: &Published) -> Difference {
        let mut difference = Difference::default();
        let mut wanted: BTreeMap<Arc<str>, Arc<Entry>> = BTreeMap::new();
        if !self.wildcard {
            for name in &self.names {
                if let Some(entry) = published.find(kind, name) {
                    wanted.insert(entry.name.clone(), entry.clone());
                } else if part == Part::All && !self.missing.contains(name) && !self.sent.contains_key(name.as_str()) {
                    difference.removed.push(name.clone());
                }
            }
            // What is no longer subscribed is no longer followed.
            let names = &self.names;
            self.sent
                .retain(|name, _| wanted.contains_key(name) || names.contains(&**name) || published.get(kind, name).is_none());
        }
        let is_news = |entry: &&Arc<Entry>| self.sent.get(&entry.name) != Some(&entry.version);
        if self.wildcard {
            difference.changed = published.of_type(kind).filter(is_news).cloned().collect();
        } else {
            difference.changed = wanted.values().filter(is_news).cloned().collect();
        }
        if part == Part::All {
            let gone = self.sent.keys().filter(|name| published.get(kind, name).is_none());
            difference.removed.extend(gone.map(ToString::to_string));
        }
        difference
    }

    fn send(
        &mut self,
        kind: ResourceType,
        nonce: String,
        difference: Difference,
        published: &Published,
    ) -> DeltaDiscoveryResponse {
        let Difference { mut changed, removed } = difference;
        let completes = (changed.len() <= CHUNK).then_some(published.generation);
        changed.truncate(CHUNK);
        let mut names: Vec<Arc<str>> = Vec::with_capacity(changed.len() + removed.len());
        for entry in &changed {
            self.sent.insert(entry.name.clone(), entry.version.clone());
            self.missing.remove(&*entry.name);
            names.push(entry.name.clone());
        }
        for name in &removed {
            self.sent.remove(name.as_str());
            if self.names.contains(name) {
                self.missing.insert(name.clone());
            }
            names.push(name.as_str().into());
        }
        self.answered = true;
        self.outstanding = Some(Outstanding { nonce: nonce.clone(), names, completes });
        let resource = |entry: Arc<Entry>| Resource {
            version: entry.version.to_string(),
            resource: Some(entry.body.clone()),
            name: entry.name.to_string(),
            aliases: entry.aliases.clone(),
            ttl: None,
        };
        DeltaDiscoveryResponse {
            system_version_info: published.generation.to_string(),
            resources: changed.into_iter().map(resource).collect(),
            type_url: kind.url().into(),
            nonce,
            removed_resources: removed,
        }
    }
}
