//! Objects from a Kubernetes API server.
//!
//! ```text
//! one watch a kind (follow) ─┐
//! which kinds there are (served) ─┼→ gather: a short quiet time → News → reconciler
//! is istio-cni installed (neighbour) ─┘
//! ```
//!
//! Memory: an object is cut down to what is read of it as it is decoded ([`trim`]); a list comes in pages. Failure: a watch
//! that breaks goes on where it was; one that can not (410) lists again, and what is gone meanwhile is taken out when the list is complete.
//! What can not be read at all stays as it was and is named by [`Health`]. Nothing is published before every kind that the
//! server has was listed once.

mod client;
mod follow;
mod gather;
mod health;
mod kinds;
mod names;
mod neighbour;
mod served;
#[cfg(test)]
mod tests;
mod trim;
mod watched;

pub use client::{ConnectError, connect};
pub use health::{Health, Trouble};
use kube::Client;
use tokio::{sync::mpsc, task::JoinSet};

use super::News;

/// Reads objects until it is dropped.
pub struct Cluster {
    tasks: JoinSet<()>,
}

impl Cluster {
    /// Starts to read; what is found goes to `news`, how it goes to `health`.
    pub fn start(client: &Client, news: mpsc::Sender<News>, health: &Health) -> Self {
        let (deliveries, gathered) = mpsc::channel(1024);
        let mut tasks = JoinSet::new();
        for watch in kinds::BUILT_IN {
            let follow =
                follow::Follow { client: client.clone(), deliveries: deliveries.clone(), health: health.clone(), watch: *watch };
            tasks.spawn(follow.run(watch.resource("v1")));
        }
        let served = served::Served::new(client.clone(), deliveries.clone(), health.clone());
        tasks.spawn(served.run());
        tasks.spawn(neighbour::watch(client.clone(), deliveries, health.clone()));
        tasks.spawn(gather::gather(gathered, news));
        Self { tasks }
    }

    /// Returns when one of its parts has ended, which none should.
    pub async fn ended(&mut self) {
        self.tasks.join_next().await;
    }
}
