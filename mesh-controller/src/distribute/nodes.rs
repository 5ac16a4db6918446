//! Which nodes are connected, and what each has acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

use crate::telemetry::Telemetry;

/// A node that has connected again may not have caught up: it is looked at again this much later.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a stream has acknowledged of workloads and services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to this generation was taken, but for what was refused.
    pub acknowledged: u64,
    /// Names of resources in refused responses.
    pub refused: BTreeSet<Arc<str>>,
}

impl Progress {
    fn holds(&self, generation: u64, name: &str) -> bool {
        self.acknowledged >= generation && !self.refused.contains(name)
    }
}

/// All open streams.
pub struct Nodes {
    open: Mutex<Open>,
    telemetry: Arc<Telemetry>,
}

#[derive(Default)]
struct Open {
    next: u64,
    streams: BTreeMap<u64, (String, watch::Receiver<Progress>)>,
}

/// One open stream; forgotten when dropped.
pub struct Connection {
    nodes: Arc<Nodes>,
    id: u64,
    pub progress: watch::Sender<Progress>,
}

impl Nodes {
    pub fn new(telemetry: Arc<Telemetry>) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), telemetry })
    }

    pub fn connect(self: &Arc<Self>, node: &str) -> Connection {
        let (progress, receiver) = watch::channel(Progress::default());
        let id = self.change(|open| {
            open.next += 1;
            open.streams.insert(open.next, (node.to_owned(), receiver));
            open.next
        });
        Connection { nodes: self.clone(), id, progress }
    }

    /// Names of the connected nodes.
    pub fn names(&self) -> BTreeSet<String> {
        self.newest().into_keys().collect()
    }

    /// Waits until every connected node holds a resource as it is from this generation on; the nodes that do not at
    /// the deadline.
    pub async fn acknowledged(&self, generation: u64, name: &str, deadline: Instant) -> Vec<String> {
        loop {
            let mut pending = Vec::new();
            for (node, mut progress) in self.newest() {
                let held = timeout_at(deadline, progress.wait_for(|progress| progress.holds(generation, name))).await;
                // A stream that has ended is no longer connected.
                if held.is_err() {
                    pending.push(node);
                }
            }
            let all = self.newest().values().all(|progress| progress.borrow().holds(generation, name));
            if all || Instant::now() >= deadline {
                return pending;
            }
            sleep_until((Instant::now() + LOOK_AGAIN).min(deadline)).await;
        }
    }

    /// The newest stream of each node: an older one may be half open.
    fn newest(&self) -> BTreeMap<String, watch::Receiver<Progress>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.streams.values().cloned().collect()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Open) -> T) -> T {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut open);
        let nodes: BTreeSet<&String> = open.streams.values().map(|(node, _)| node).collect();
        self.telemetry.metrics.connected_nodes.set(i64::try_from(nodes.len()).unwrap_or(i64::MAX));
        result
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.nodes.change(|open| drop(open.streams.remove(&self.id)));
    }
}
