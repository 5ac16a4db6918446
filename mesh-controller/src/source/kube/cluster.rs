//! All that reads, started together and ended together.

use kube::Client;
use tokio::{sync::mpsc, task::JoinSet};

use super::{follow::Follow, gather::gather, health::Health, kinds, neighbour, served::Served};
use crate::source::News;

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
            let follow = Follow { client: client.clone(), deliveries: deliveries.clone(), health: health.clone(), watch: *watch };
            tasks.spawn(follow.run(watch.resource("v1")));
        }
        let served = Served::new(client.clone(), deliveries.clone(), health.clone());
        tasks.spawn(served.run());
        tasks.spawn(neighbour::watch(client.clone(), deliveries, health.clone()));
        tasks.spawn(gather(gathered, news));
        Self { tasks }
    }

    /// Returns when one of its parts has ended, which none should.
    pub async fn ended(&mut self) {
        self.tasks.join_next().await;
    }
}
