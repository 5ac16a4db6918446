//! Every pod forgets, with each snapshot, the backends that are gone.

use std::sync::Arc;

use crate::{enrol::LocalPods, state::Store};

/// For ever.
pub async fn forget(store: Arc<Store>, pods: Arc<LocalPods>) {
    let mut changes = store.subscribe();
    while changes.changed().await.is_ok() {
        let snapshot = store.load();
        for pod in pods.all().values() {
            pod.balance.retain(&snapshot, &pod.namespace);
        }
    }
}
