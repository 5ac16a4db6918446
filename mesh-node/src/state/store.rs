//! The present snapshot: swapped by its one writer, loaded once per connection by everybody else.

use std::{sync::Arc, time::Duration};

use arc_swap::{ArcSwap, Guard};
use mesh_policy::model::Snapshot;
use tokio::{sync::watch, time::Instant};

pub struct Store {
    snapshot: ArcSwap<Snapshot>,
    generation: watch::Sender<u64>,
}

impl Store {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { snapshot: ArcSwap::default(), generation: watch::Sender::new(0) })
    }

    /// The snapshot of this moment. Keep the guard short, or take the `Arc`.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    pub fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Zero until something has been published.
    pub fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Asks every new snapshot until one has an answer, at most for `patience`.
    pub async fn wait_for<T>(&self, patience: Duration, mut ask: impl FnMut(&Arc<Snapshot>) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut changes = self.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(answer) = ask(&self.load()) {
                return Some(answer);
            }
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                // Time is up; or the store is gone, and so is the process.
                Err(_) | Ok(Err(_)) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_policy::model::Model;

    use super::*;

    #[tokio::test]
    async fn a_waiter_sees_the_snapshot_that_answers_and_gives_up_without_one() {
        let store = Store::new();
        let waiting = store.clone();
        let waiter = tokio::spawn(async move {
            waiting.wait_for(Duration::from_secs(30), |s| (s.mesh().hbone_idle_timeout_s == 7).then_some(())).await
        });
        store.publish(Model::default().snapshot());
        let mut model = Model::default();
        model.mesh.hbone_idle_timeout_s = 7;
        store.publish(model.snapshot());
        assert_eq!(waiter.await.expect("waiter"), Some(()));
        assert_eq!(store.wait_for(Duration::from_millis(1), |_| None::<()>).await, None);
    }
}
