//! Which custom kinds the API server has, as their definitions come and go.
//!
//! Their CustomResourceDefinitions say that a kind is there, discovery in which version. A kind is given up, with all of its
//! objects, only when its definition is known to be gone: a server that has just started may not serve it yet.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use kube::{Client, core::ApiResource};
use mesh_config::kinds::Kind;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    follow::{Delivery, FIRST_PAUSE, Follow},
    health::Health,
    kinds::{CUSTOM, Watch},
    names::{Known, Lookout, Names},
};
use crate::pause::Pause;

/// How often the server is asked where definitions may not be watched.
const ASK: Duration = Duration::from_secs(15);
/// A definition that the server does not serve for so long (its names are taken, say) holds nobody up.
const UNSERVED: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

pub(super) struct Served {
    client: Client,
    deliveries: mpsc::Sender<Delivery>,
    health: Health,
    running: HashMap<Kind, Running>,
    unserved: HashMap<Kind, Unserved>,
    announced: bool,
}

struct Running {
    version: String,
    /// Of the definition when it was last looked at.
    generation: i64,
    task: Task,
}

/// There is a definition and the server does not serve it.
struct Unserved {
    since: Instant,
    given_up: bool,
}

/// Ends when dropped.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The news has nobody to hear it.
struct Ended;

impl Served {
    pub(super) fn new(client: Client, deliveries: mpsc::Sender<Delivery>, health: Health) -> Self {
        Self { client, deliveries, health, running: HashMap::new(), unserved: HashMap::new(), announced: false }
    }

    /// Follows for ever.
    pub(super) async fn run(mut self) {
        let resource = ApiResource {
            group: "apiextensions.k8s.io".into(),
            version: "v1".into(),
            api_version: "apiextensions.k8s.io/v1".into(),
            kind: "CustomResourceDefinition".into(),
            plural: "customresourcedefinitions".into(),
        };
        let wanted = |name: &str| CUSTOM.iter().any(|watch| watch.definition() == name);
        let lookout = Lookout { client: self.client.clone(), resource, labels: None, wanted, health: self.health.clone() };
        let (sender, mut known) = watch::channel(Known::NotYet);
        let _lookout = Task(tokio::spawn(lookout.run(sender)));
        let mut pause = Pause::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut again: Option<Instant> = None;
        loop {
            tokio::select! {
                changed = known.changed() => if changed.is_err() {
                    return;
                },
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
            }
            let now = known.borrow_and_update().clone();
            again = match self.look(&now).await {
                Ok(Next::Change) => {
                    pause.reset();
                    None
                }
                Ok(Next::Ask) => Some(Instant::now() + ASK),
                Ok(Next::Soon) => Some(Instant::now() + pause.next()),
                Err(Ended) => return,
            };
        }
    }

    /// Brings what runs to what there is.
    async fn look(&mut self, known: &Known) -> Result<Next, Ended> {
        let names = match known {
            Known::NotYet => return Ok(Next::Change),
            Known::Refused => None,
            Known::Names(names) => Some(names.as_ref()),
        };
        if let Some(names) = names {
            self.give_up(names).await?;
            if !self.announced {
                let there = CUSTOM.iter().filter(|watch| names.contains_key(&watch.definition()));
                self.announce(there.copied().collect()).await?;
            }
            if self.is_settled(names) {
                return Ok(Next::Change);
            }
        }
        let found = match discover(&self.client).await {
            Ok(found) => found,
            Err(error) => {
                debug!(%error, "the API server does not say what it serves");
                return Ok(Next::Soon);
            }
        };
        if !self.announced {
            self.announce(CUSTOM.iter().filter(|watch| found.contains_key(&watch.kind)).copied().collect()).await?;
        }
        let mut next = if names.is_some() { Next::Change } else { Next::Ask };
        for watch in CUSTOM {
            let generation = match names {
                Some(names) => match names.get(&watch.definition()) {
                    Some(generation) => *generation,
                    None => continue,
                },
                None => 0,
            };
            match found.get(&watch.kind) {
                Some(versions) => self.start(watch, versions, generation),
                None if names.is_some() && !self.running.contains_key(&watch.kind) => {
                    next = next.min(self.wait_for(watch).await?);
                }
                None => {}
            }
        }
        Ok(next)
    }

    /// Whether nothing has come, gone or changed.
    fn is_settled(&self, names: &Names) -> bool {
        CUSTOM.iter().all(|watch| match (names.get(&watch.definition()), self.running.get(&watch.kind)) {
            (None, None) => true,
            (Some(generation), Some(running)) => running.generation == *generation,
            (None, Some(_)) | (Some(_), None) => false,
        })
    }

    async fn announce(&mut self, there: Vec<Watch>) -> Result<(), Ended> {
        self.announced = true;
        for watch in &there {
            self.health.expect(watch);
        }
        self.tell(Delivery::Available(there.iter().map(|watch| watch.kind).collect())).await
    }

    /// Ends what has no definition any more.
    async fn give_up(&mut self, names: &Names) -> Result<(), Ended> {
        for watch in CUSTOM.iter().filter(|watch| !names.contains_key(&watch.definition())) {
            self.unserved.remove(&watch.kind);
            let Some(mut running) = self.running.remove(&watch.kind) else { continue };
            // What it was about to tell comes before the end.
            running.task.0.abort();
            let _ = (&mut running.task.0).await;
            info!(kind = watch.definition(), "the definition was removed, and its objects with it");
            self.health.withdrawn(&watch.definition());
            self.tell(Delivery::Withdrawn(watch.kind)).await?;
        }
        Ok(())
    }

    fn start(&mut self, watch: &Watch, versions: &[String], generation: i64) {
        self.unserved.remove(&watch.kind);
        if let Some(running) = self.running.get_mut(&watch.kind)
            && versions.contains(&running.version)
        {
            running.generation = generation;
            return;
        }
        let Some(version) = versions.first() else { return };
        info!(kind = watch.definition(), version, "watching");
        self.health.expect(watch);
        let (client, deliveries, health) = (self.client.clone(), self.deliveries.clone(), self.health.clone());
        let follow = Follow { client, deliveries, health, watch: *watch };
        let task = Task(tokio::spawn(follow.run(watch.resource(version))));
        self.running.insert(watch.kind, Running { version: version.clone(), generation, task });
    }

    /// The server will soon serve what is defined; if it does not, the rest goes on without.
    async fn wait_for(&mut self, watch: &Watch) -> Result<Next, Ended> {
        let unserved = self.unserved.entry(watch.kind).or_insert_with(|| Unserved { since: Instant::now(), given_up: false });
        if unserved.given_up {
            return Ok(Next::Ask);
        }
        if unserved.since.elapsed() < UNSERVED {
            return Ok(Next::Soon);
        }
        unserved.given_up = true;
        warn!(kind = watch.definition(), "the definition is there and the API server does not serve it: see its conditions");
        self.health.withdrawn(&watch.definition());
        self.tell(Delivery::Withdrawn(watch.kind)).await?;
        Ok(Next::Ask)
    }

    async fn tell(&self, delivery: Delivery) -> Result<(), Ended> {
        self.deliveries.send(delivery).await.map_err(|_| Ended)
    }
}

/// When to look again; the earliest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Soon,
    Ask,
    /// When a definition changes.
    Change,
}

/// The versions in which the server has each kind, the one to be preferred first.
async fn discover(client: &Client) -> Result<HashMap<Kind, Vec<String>>, kube::Error> {
    let groups: HashSet<&str> = CUSTOM.iter().map(|watch| watch.group).collect();
    let mut found: HashMap<Kind, Vec<String>> = HashMap::new();
    for group in client.list_api_groups().await?.groups.into_iter().filter(|group| groups.contains(group.name.as_str())) {
        for version in group.versions {
            let resources = client.list_api_group_resources(&version.group_version).await?.resources;
            for watch in CUSTOM.iter().filter(|watch| watch.group == group.name) {
                if resources.iter().any(|resource| resource.name == watch.plural) {
                    found.entry(watch.kind).or_default().push(version.version.clone());
                }
            }
        }
    }
    Ok(found)
}
