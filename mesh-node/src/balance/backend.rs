//! What one pod knows of one service's port and subset.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use mesh_policy::{
    balance::{
        NoEndpoint, Picker, Pool, PoolId, Query, Standing,
        outlier::{Detector, Judgement, Outcome},
    },
    model::{Balance, OutlierDetection, ServiceKey, Subset, TrafficPolicy, Warmup, WorkloadUid},
};

use super::{
    limits::{Gauges, Limited, Overflow, Permit, Recent, retries_allowed},
    pod::Counters,
};

/// A service's port and subset.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendKey {
    pub service: ServiceKey,
    pub port: u16,
    pub subset: Option<Arc<str>>,
}

impl BackendKey {
    /// Of the service as a whole.
    pub fn of_port(service: ServiceKey, port: u16) -> Self {
        Self { service, port, subset: None }
    }
}

pub struct Backend {
    key: BackendKey,
    /// What the durations below count from.
    epoch: Instant,
    pub(super) gauges: Gauges,
    recent: Recent,
    turn: AtomicU64,
    endpoints: Mutex<Endpoints>,
    /// No endpoint has anything to be cleared of by a success. Spares the lock.
    blameless: AtomicBool,
    counters: Arc<Counters>,
}

/// The endpoints as they were judged so far.
struct Endpoints {
    pool: PoolId,
    count: usize,
    detector: Detector,
    /// As [`Standing`] wants it.
    out: Option<Arc<HashSet<WorkloadUid>>>,
    newcomers: Newcomers,
}

/// When endpoints came, while a policy lets them warm up. Those of the first look have been there before for all one
/// knows, and share alike anyway.
#[derive(Default)]
struct Newcomers {
    known: Option<HashSet<WorkloadUid>>,
    since: Option<Arc<HashMap<WorkloadUid, Duration>>>,
}

impl Backend {
    pub(super) fn new(key: BackendKey, epoch: Instant, counters: Arc<Counters>) -> Self {
        let detector = Detector::default();
        let endpoints = Endpoints { pool: PoolId::default(), count: 0, detector, out: None, newcomers: Newcomers::default() };
        Self {
            key,
            epoch,
            gauges: Gauges::default(),
            recent: Recent::default(),
            turn: AtomicU64::new(0),
            endpoints: Mutex::new(endpoints),
            blameless: AtomicBool::new(true),
            counters,
        }
    }

    pub fn key(&self) -> &BackendKey {
        &self.key
    }

    /// The endpoints for a request, by the policy and what the pod knows of them. `pool` is the service's, `query.port`
    /// and `query.subset` are the backend's.
    pub fn candidates(&self, pool: &Pool, query: &Query<'_>, now: Instant) -> Result<Picker, NoEndpoint> {
        pool.candidates(query, &self.standing(pool, query.subset, query.policy, now))
    }

    /// What the pod knows of the endpoints now. Takes a turn where endpoints take turns.
    pub fn standing(&self, pool: &Pool, subset: Option<&Subset>, policy: &TrafficPolicy, now: Instant) -> Standing {
        let now = self.since_epoch(now);
        let turn = if policy.balance == Balance::RoundRobin { self.turn.fetch_add(1, Relaxed) } else { 0 };
        if policy.outlier.is_none() && policy.warmup.is_none() {
            return Standing { out: None, since: None, now, turn };
        }
        let mut endpoints = self.endpoints();
        endpoints.look_at(pool, self.key.port, subset, policy, now);
        let out = policy.outlier.as_ref().and_then(|outlier| {
            if endpoints.detector.advance(outlier, now) {
                endpoints.publish();
                self.blameless.store(endpoints.detector.remembered() == 0, Relaxed);
            }
            endpoints.out.clone()
        });
        let since = policy.warmup.as_ref().and_then(|warmup| endpoints.newcomers.warming(warmup, now));
        Standing { out, since, now, turn }
    }

    /// Takes note of how an attempt ended. What a policy refused is not to be recorded: it says nothing of the endpoint.
    pub fn record(&self, policy: &TrafficPolicy, uid: &WorkloadUid, outcome: Outcome, now: Instant) -> Judgement {
        let Some(outlier) = &policy.outlier else { return Judgement::Nothing };
        if outcome.is_success(outlier) && self.blameless.load(Relaxed) {
            return Judgement::Nothing;
        }
        let mut endpoints = self.endpoints();
        let judgement = endpoints.judge(outlier, uid, outcome, self.since_epoch(now));
        self.blameless.store(endpoints.detector.remembered() == 0, Relaxed);
        drop(endpoints);
        self.counters.count(judgement);
        judgement
    }

    /// One more request, for as long as it lives. Its attempts are part of it.
    pub fn try_request(self: &Arc<Self>, policy: &TrafficPolicy, now: Instant) -> Result<Permit, Overflow> {
        let permit = self.take(Limited::Request, policy.limits.max_requests)?;
        if let Some(budget) = &policy.retry_budget
            && !budget.interval.is_zero()
        {
            self.recent.count_one(budget.interval, self.since_epoch(now));
        }
        Ok(permit)
    }

    /// One more request that waits for a connection, until it has one.
    pub fn try_pending(self: &Arc<Self>, policy: &TrafficPolicy) -> Result<Permit, Overflow> {
        self.take(Limited::PendingRequest, policy.limits.max_pending_requests)
    }

    /// One more connection, to be kept with it.
    pub fn try_connection(self: &Arc<Self>, policy: &TrafficPolicy) -> Result<Permit, Overflow> {
        self.take(Limited::Connection, policy.limits.max_connections)
    }

    /// One more attempt, until it has its answer: within the retry budget if there is one, else the number of retries.
    pub fn try_retry(self: &Arc<Self>, policy: &TrafficPolicy, now: Instant) -> Result<Permit, Overflow> {
        let most = match &policy.retry_budget {
            Some(budget) => Some(retries_allowed(budget, &self.gauges, &self.recent, self.since_epoch(now))),
            None => policy.limits.max_retries,
        };
        self.take(Limited::Retry, most)
    }

    /// How many of a kind are open.
    pub fn open(&self, limited: Limited) -> u32 {
        self.gauges.read(limited)
    }

    /// Endpoints that are ejected, as of the last request.
    pub fn ejected(&self) -> Vec<WorkloadUid> {
        self.endpoints().detector.ejected().cloned().collect()
    }

    fn take(self: &Arc<Self>, limited: Limited, most: Option<u32>) -> Result<Permit, Overflow> {
        Permit::take(self, limited, most.unwrap_or(u32::MAX)).inspect_err(|_| self.counters.overflow(limited))
    }

    fn since_epoch(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }

    fn endpoints(&self) -> MutexGuard<'_, Endpoints> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Endpoints {
    /// Notices who came and who left, once for each pool.
    fn look_at(&mut self, pool: &Pool, port: u16, subset: Option<&Subset>, policy: &TrafficPolicy, now: Duration) {
        let warms_unnoticed = policy.warmup.is_some() && self.newcomers.known.is_none();
        if pool.is(&self.pool) && !warms_unnoticed {
            return;
        }
        self.pool = pool.id();
        let present: HashSet<WorkloadUid> = pool.members(port, subset).map(|member| member.workload.uid.clone()).collect();
        self.count = present.len();
        if self.detector.remembered() > 0 {
            self.detector.retain(|uid| present.contains(uid));
            self.publish();
        }
        self.newcomers = match policy.warmup {
            Some(_) => std::mem::take(&mut self.newcomers).meet(present, now),
            None => Newcomers::default(),
        };
    }

    fn judge(&mut self, policy: &OutlierDetection, uid: &WorkloadUid, outcome: Outcome, now: Duration) -> Judgement {
        let before = self.detector.ejected_count();
        let judgement = self.detector.record(policy, uid, outcome, self.count, now);
        // One may return and another leave at once: then the number stays.
        if self.detector.ejected_count() != before || matches!(judgement, Judgement::Ejected(_)) {
            self.publish();
        }
        judgement
    }

    fn publish(&mut self) {
        let out: HashSet<_> = self.detector.ejected().cloned().collect();
        self.out = (!out.is_empty()).then(|| Arc::new(out));
    }
}

impl Newcomers {
    fn meet(self, present: HashSet<WorkloadUid>, now: Duration) -> Self {
        let Self { known, since } = self;
        let mut since = since.map(Arc::unwrap_or_clone).unwrap_or_default();
        since.retain(|uid, _| present.contains(uid));
        if let Some(known) = known {
            since.extend(present.difference(&known).map(|uid| (uid.clone(), now)));
        }
        Self { known: Some(present), since: (!since.is_empty()).then(|| Arc::new(since)) }
    }

    /// Those that are not warm yet.
    fn warming(&mut self, warmup: &Warmup, now: Duration) -> Option<Arc<HashMap<WorkloadUid, Duration>>> {
        let is_warm = |since: &Duration| now.saturating_sub(*since) >= warmup.duration;
        if let Some(since) = &mut self.since
            && since.values().any(is_warm)
        {
            Arc::make_mut(since).retain(|_, since| !is_warm(since));
        }
        self.since = self.since.take().filter(|since| !since.is_empty());
        self.since.clone()
    }
}
