//! The names of some objects at every moment, for what matters by its presence alone.

use std::{collections::BTreeMap, pin::pin, sync::Arc};

use futures_util::StreamExt;
use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject, PartialObjectMeta},
    runtime::watcher::{self, Event},
};
use tokio::{sync::watch, time::sleep};

use super::{
    follow::{FIRST_PAUSE, LONGEST_PAUSE},
    health::{Health, is_forbidden},
};
use crate::pause::Pause;

/// Names and `metadata.generation`.
pub(super) type Names = BTreeMap<String, i64>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Known {
    #[default]
    NotYet,
    /// Nobody allows it.
    Refused,
    Names(Arc<Names>),
}

/// Which objects to look for.
pub(super) struct Lookout {
    pub(super) client: Client,
    pub(super) resource: ApiResource,
    pub(super) labels: Option<&'static str>,
    pub(super) wanted: fn(&str) -> bool,
    pub(super) health: Health,
}

impl Lookout {
    /// Follows for ever.
    pub(super) async fn run(self, known: watch::Sender<Known>) {
        let Self { client, resource, labels, wanted, health } = self;
        let what = format!("{}.{}", resource.plural, resource.group);
        let mut config = watcher::Config::default().timeout(60);
        config.label_selector = labels.map(str::to_owned);
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &resource);
        let mut events = pin!(watcher::watcher(api, config));
        let mut pause = Pause::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut names = Names::new();
        let mut complete = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => {
                    names.clear();
                    complete = false;
                }
                Ok(Event::InitApply(object) | Event::Apply(object)) => {
                    let Some(name) = object.metadata.name.filter(|name| wanted(name)) else { continue };
                    names.insert(name, object.metadata.generation.unwrap_or_default());
                }
                Ok(Event::Delete(object)) => {
                    object.metadata.name.and_then(|name| names.remove(&name));
                }
                Ok(Event::InitDone) => {
                    pause.reset();
                    complete = true;
                    health.listed(&what, names.len());
                }
                Err(error) => {
                    health.failed(&what, &error);
                    if is_forbidden(&error) {
                        known.send_if_modified(|known| {
                            let news = *known == Known::NotYet;
                            if news {
                                *known = Known::Refused;
                            }
                            news
                        });
                    }
                    sleep(pause.next()).await;
                    continue;
                }
            }
            if complete {
                known.send_if_modified(|known| {
                    let news = !matches!(known, Known::Names(found) if **found == names);
                    if news {
                        *known = Known::Names(Arc::new(names.clone()));
                    }
                    news
                });
            }
        }
    }
}
