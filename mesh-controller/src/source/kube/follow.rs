//! One kind: listed, then watched, for ever.

use std::{collections::HashSet, pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt;
use kube::{
    Api, Client,
    core::ApiResource,
    runtime::watcher::{self, Event},
};
use mesh_config::{
    enrolment::Ownership,
    kinds::{Kind, Name},
};
use serde_json::Value;
use tokio::{sync::mpsc, time::sleep};

use super::{
    health::Health,
    kinds::{Extent, Watch},
    trim::{Nodes, Plain, Pods, Settings, Shape, Slices, Specified},
    watched::Watched,
};
use crate::{pause::Pause, source::Found};

/// A watch that has been silent for so long is opened anew, so that a connection that was lost without a word is found.
const WATCH_SECONDS: u32 = 60;
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(250);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// What the parts tell [`super::gather`].
#[derive(Debug)]
pub(super) enum Delivery {
    Present {
        found: Found,
    },
    Gone {
        kind: Kind,
        name: Name,
    },
    /// The list is complete: there are no others.
    Listed {
        kind: Kind,
        names: HashSet<Name>,
    },
    /// The custom kinds that there are; told once before anything else of them counts.
    Available(HashSet<Kind>),
    /// The kind is no longer there, or can not be had.
    Withdrawn(Kind),
    Ownership(Ownership),
}

/// What one kind is followed with.
#[derive(Clone)]
pub(super) struct Follow {
    pub(super) client: Client,
    pub(super) deliveries: mpsc::Sender<Delivery>,
    pub(super) health: Health,
    pub(super) watch: Watch,
}

impl Follow {
    pub(super) async fn run(self, resource: ApiResource) {
        match self.watch.kind {
            Kind::Pod => self.follow::<Pods>(resource).await,
            Kind::Node => self.follow::<Nodes>(resource).await,
            Kind::EndpointSlice => self.follow::<Slices>(resource).await,
            Kind::Service | Kind::Namespace => self.follow::<Specified>(resource).await,
            Kind::ConfigMap => self.follow::<Settings>(resource).await,
            _ => self.follow::<Plain>(resource).await,
        }
    }

    async fn follow<S: Shape>(self, resource: ApiResource) {
        let Self { client, deliveries, health, watch } = self;
        let (kind, what) = (watch.kind, watch.definition());
        let config = watcher::Config::default().timeout(WATCH_SECONDS).page_size(S::PAGE);
        let (api, config): (Api<Watched<S>>, _) = match watch.extent {
            Extent::All => (Api::all_with(client, &resource), config),
            Extent::One { namespace, name } => {
                (Api::namespaced_with(client, namespace, &resource), config.fields(&format!("metadata.name={name}")))
            }
        };
        let mut events = pin!(watcher::watcher(api, config));
        let mut pause = Pause::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut names = HashSet::new();
        while let Some(event) = events.next().await {
            let delivery = match event {
                Ok(Event::Init) => {
                    names.clear();
                    continue;
                }
                Ok(Event::InitApply(object)) => {
                    let Some(name) = object.name() else { continue };
                    names.insert(name.clone());
                    Delivery::Present { found: found(object, kind, &resource) }
                }
                Ok(Event::InitDone) => {
                    pause.reset();
                    health.listed(&what, names.len());
                    Delivery::Listed { kind, names: std::mem::take(&mut names) }
                }
                Ok(Event::Apply(object)) => {
                    pause.reset();
                    Delivery::Present { found: found(object, kind, &resource) }
                }
                Ok(Event::Delete(object)) => {
                    pause.reset();
                    let Some(name) = object.name() else { continue };
                    Delivery::Gone { kind, name }
                }
                Err(error) => {
                    health.failed(&what, &error);
                    sleep(pause.next()).await;
                    continue;
                }
            };
            if deliveries.send(delivery).await.is_err() {
                return;
            }
        }
    }
}

/// Lists do not say of each item what it is.
fn found<S>(object: Watched<S>, kind: Kind, resource: &ApiResource) -> Found {
    let mut document = object.document;
    document.insert("apiVersion".into(), resource.api_version.as_str().into());
    document.insert("kind".into(), resource.kind.as_str().into());
    let status = if kind.has_status() { document.remove("status").map(Arc::new) } else { None };
    Found { document: Arc::new(Value::Object(document)), status }
}
