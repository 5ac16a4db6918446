//! Every backend of one pod.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use mesh_policy::{
    balance::outlier::{Cause, Judgement},
    model::{Snapshot, WorkloadUid},
};

use super::{Backend, BackendKey, Limited};

/// A pod that talks to more services, ports and subsets than this is not remembered all of them at once.
pub const MOST_BACKENDS: usize = 4096;

/// One source pod's state of balancing, shared by whatever serves it.
pub struct PodBalance {
    backends: Mutex<HashMap<BackendKey, Arc<Backend>>>,
    epoch: Instant,
    counters: Arc<Counters>,
}

impl Default for PodBalance {
    fn default() -> Self {
        Self { backends: Mutex::default(), epoch: Instant::now(), counters: Arc::default() }
    }
}

impl PodBalance {
    /// The state of a backend. Ask once a request.
    pub fn backend(&self, key: &BackendKey) -> Arc<Backend> {
        let mut backends = self.backends();
        if let Some(backend) = backends.get(key) {
            return backend.clone();
        }
        if backends.len() >= MOST_BACKENDS {
            backends.retain(|_, backend| is_used(backend));
        }
        let backend = Arc::new(Backend::new(key.clone(), self.epoch, self.counters.clone()));
        backends.insert(key.clone(), backend.clone());
        backend
    }

    /// Forgets the backends that are gone. `namespace` is the pod's: whose DestinationRules name subsets. What has
    /// something open is kept until the next time.
    pub fn retain(&self, snapshot: &Snapshot, namespace: &Arc<str>) {
        let is_there = |key: &BackendKey| {
            let BackendKey { service, port, subset } = key;
            let has_subset =
                |name: &Arc<str>| snapshot.traffic(service, namespace).is_some_and(|rule| rule.subsets.contains_key(name));
            snapshot.service(service).is_some_and(|service| service.port(*port).is_some())
                && subset.as_ref().is_none_or(has_subset)
        };
        self.backends().retain(|key, backend| is_there(key) || is_used(backend));
    }

    /// What happened since the pod joined.
    pub fn counts(&self) -> Counts {
        let Counters { ejected_5xx, ejected_gateway, ejected_local, spared, overflows } = &*self.counters;
        let [connection, pending, request, retry] = overflows;
        Counts {
            ejections: [
                (Cause::Consecutive5xx, ejected_5xx.load(Relaxed)),
                (Cause::ConsecutiveGatewayErrors, ejected_gateway.load(Relaxed)),
                (Cause::ConsecutiveLocalFailures, ejected_local.load(Relaxed)),
            ],
            spared: spared.load(Relaxed),
            overflows: [
                (Limited::Connection, connection.load(Relaxed)),
                (Limited::PendingRequest, pending.load(Relaxed)),
                (Limited::Request, request.load(Relaxed)),
                (Limited::Retry, retry.load(Relaxed)),
            ],
        }
    }

    /// Every backend as it is, for people to look at.
    pub fn report(&self) -> Vec<BackendReport> {
        let backends: Vec<_> = self.backends().values().cloned().collect();
        let report = |backend: Arc<Backend>| BackendReport {
            key: backend.key().clone(),
            open: Limited::ALL.map(|limited| (limited, backend.open(limited))),
            ejected: backend.ejected(),
        };
        backends.into_iter().map(report).collect()
    }

    fn backends(&self) -> MutexGuard<'_, HashMap<BackendKey, Arc<Backend>>> {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody holds it, or a permit of it.
fn is_used(backend: &Arc<Backend>) -> bool {
    Arc::strong_count(backend) > 1
}

/// Totals of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub ejections: [(Cause, u64); 3],
    /// Endpoints that were not ejected only because of `maxEjectionPercent`.
    pub spared: u64,
    pub overflows: [(Limited, u64); 4],
}

#[derive(Clone, Debug)]
pub struct BackendReport {
    pub key: BackendKey,
    pub open: [(Limited, u32); 4],
    pub ejected: Vec<WorkloadUid>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    ejected_5xx: AtomicU64,
    ejected_gateway: AtomicU64,
    ejected_local: AtomicU64,
    spared: AtomicU64,
    /// In the order of [`Limited::ALL`].
    overflows: [AtomicU64; 4],
}

impl Counters {
    pub(super) fn count(&self, judgement: Judgement) {
        let counter = match judgement {
            Judgement::Nothing => return,
            Judgement::Ejected(Cause::Consecutive5xx) => &self.ejected_5xx,
            Judgement::Ejected(Cause::ConsecutiveGatewayErrors) => &self.ejected_gateway,
            Judgement::Ejected(Cause::ConsecutiveLocalFailures) => &self.ejected_local,
            Judgement::Spared(_) => &self.spared,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn overflow(&self, limited: Limited) {
        let [connection, pending, request, retry] = &self.overflows;
        let counter = match limited {
            Limited::Connection => connection,
            Limited::PendingRequest => pending,
            Limited::Request => request,
            Limited::Retry => retry,
        };
        counter.fetch_add(1, Relaxed);
    }
}
