//! Every open connection, for metrics, the access log, `meshctl connections`, and for policy changes that revoke.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use mesh_policy::model::Percent;
use serde::Serialize;
use tokio::sync::Notify;
use tracing::Level;

use super::{
    AccessForm, Cluster, Path, SpanCounts, SpanSink,
    facts::OfConnection,
    flow::{Direction, Flow, Security, Transport},
    follow::Followed,
    log_form,
    metrics::{Metrics, TcpCounters},
    path::Paths,
    plan::Plan,
};
use crate::{
    copy::Meter,
    reason::{Failure, Reason},
};

/// Locks are held for a map operation only; this many of them keep workers out of each other's way.
const SHARDS: usize = 16;

/// Where connections are opened and looked up.
pub struct Telemetry {
    pub metrics: Metrics,
    next_id: AtomicU64,
    shards: [Mutex<HashMap<u64, Arc<Open>>>; SHARDS],
    /// Text until it is told.
    access_form: OnceLock<AccessForm>,
    /// Where spans go, where no Telemetry says it.
    pub(super) spans: OnceLock<Arc<dyn SpanSink>>,
    /// The share of requests that are traced of themselves, where no Telemetry says it.
    pub(super) share: OnceLock<Percent>,
    /// What became of all spans.
    pub span_counts: Arc<SpanCounts>,
    /// None: nothing but this process says what is told.
    pub(super) followed: OnceLock<Followed>,
}

struct Open {
    flow: Flow,
    since: Instant,
    kind: Kind,
    sent: AtomicU64,
    received: AtomicU64,
    revoked: AtomicBool,
    revoke: Notify,
}

/// What a connection's opening, its end and policy have to do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Policy let it in, and closes it when it changes.
    Judged,
    /// It was let in without being asked, and policy does not close it either.
    Unjudged,
    /// Its requests are judged, counted and logged, each of them.
    Requests,
}

impl Telemetry {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            metrics: Metrics::new(),
            next_id: AtomicU64::new(1),
            shards: Default::default(),
            access_form: OnceLock::new(),
            spans: OnceLock::new(),
            share: OnceLock::new(),
            span_counts: Arc::default(),
            followed: OnceLock::new(),
        })
    }

    /// How requests are logged; counts once.
    pub fn set_access_form(&self, form: AccessForm) {
        let _ = self.access_form.set(form);
    }

    pub(super) fn access_form(&self) -> AccessForm {
        self.access_form.get().copied().unwrap_or_default()
    }

    /// Counts a connection as opened and lists it until the guard ends.
    pub fn open(self: &Arc<Self>, flow: Flow) -> Tracked {
        self.list(flow, Kind::Judged)
    }

    /// The same for a connection that no policy has judged: it reached a pod that was on its way into the mesh or out of it,
    /// and lives on like those that were open before.
    pub fn open_unjudged(self: &Arc<Self>, flow: Flow) -> Tracked {
        self.list(flow, Kind::Unjudged)
    }

    /// Lists a connection whose requests are told apart.
    pub fn open_requests(self: &Arc<Self>, flow: Flow) -> Tracked {
        self.list(flow, Kind::Requests)
    }

    fn list(self: &Arc<Self>, flow: Flow, kind: Kind) -> Tracked {
        // Requests have plans of their own.
        let plan = if kind == Kind::Requests { None } else { self.plan(&flow) };
        let counters = (kind != Kind::Requests).then(|| self.metrics.open(&flow, plan.as_deref()));
        let id = self.next_id.fetch_add(1, Relaxed);
        let open = Arc::new(Open {
            flow,
            since: Instant::now(),
            kind,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            revoked: AtomicBool::new(false),
            revoke: Notify::new(),
        });
        self.shard(id).insert(id, open.clone());
        Tracked { telemetry: self.clone(), id, open, counters, plan, paths: Paths::default(), ended: false }
    }

    /// Counts a request that was not answered by its server.
    pub fn note_failure(&self, flow: &Flow, reason: Reason) {
        self.metrics.failure(flow, reason);
    }

    /// Counts and logs a connection that was refused before it reached its destination.
    pub fn refuse(&self, flow: &Flow, since: Instant, failure: &Failure) {
        self.metrics.refuse(flow, failure.reason);
        log(self.plan(flow).as_deref(), flow, since, (0, 0), Some(failure));
    }

    pub fn rows(&self) -> Vec<ConnectionRow> {
        let mut rows: Vec<_> = self.all().into_iter().map(|(id, open)| ConnectionRow::new(id, &open)).collect();
        rows.sort_by_key(|row| row.id);
        rows
    }

    /// The open connections, for whoever judges them anew.
    pub fn revocable(&self) -> Vec<Revocable> {
        self.all().into_iter().filter(|(_, open)| open.kind == Kind::Judged).map(|(_, open)| Revocable(open)).collect()
    }

    pub fn count(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn all(&self) -> Vec<(u64, Arc<Open>)> {
        self.shards
            .iter()
            .flat_map(|shard| lock(shard).iter().map(|(id, open)| (*id, open.clone())).collect::<Vec<_>>())
            .collect()
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, HashMap<u64, Arc<Open>>> {
        lock(&self.shards[id as usize % SHARDS])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open connection that may be closed by a policy change.
pub struct Revocable(Arc<Open>);

impl Revocable {
    pub fn flow(&self) -> &Flow {
        &self.0.flow
    }

    /// Wakes the connection's task, which closes both sides.
    pub fn revoke(&self) {
        self.0.revoked.store(true, Relaxed);
        self.0.revoke.notify_one();
    }
}

/// One open connection. Ends when it is [closed](Self::close) or dropped.
pub struct Tracked {
    telemetry: Arc<Telemetry>,
    id: u64,
    open: Arc<Open>,
    /// None: its requests are counted.
    counters: Option<TcpCounters>,
    plan: Option<Arc<Plan>>,
    paths: Paths,
    ended: bool,
}

impl Tracked {
    pub fn flow(&self) -> &Flow {
        &self.open.flow
    }

    /// The way of requests of this connection. Made once for each way, until the configuration changes.
    pub fn path(&self, flow: Flow, cluster: Cluster) -> Arc<Path> {
        let generation = self.telemetry.generation();
        if let Some(path) = self.paths.get(generation, &flow, &cluster) {
            return path;
        }
        let path = self.telemetry.path(flow, cluster);
        self.paths.put(&path);
        path
    }

    /// As a policy change does it.
    pub fn revoke(&self) {
        Revocable(self.open.clone()).revoke();
    }

    /// Completes when a policy change closes the connection.
    pub async fn revoked(&self) {
        self.open.revoke.notified().await;
    }

    /// Ends the connection, with its failure if it did not end well.
    pub fn close(mut self, failure: Option<&Failure>) {
        self.end(failure);
    }

    fn end(&mut self, failure: Option<&Failure>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.telemetry.shard(self.id).remove(&self.id);
        let Some(counters) = &self.counters else { return };
        counters.closed.inc();
        let (sent, received) = (self.open.sent.load(Relaxed), self.open.received.load(Relaxed));
        if let Some(failure) = failure {
            self.telemetry.metrics.failure(&self.open.flow, failure.reason);
        }
        log(self.plan.as_deref(), &self.open.flow, self.open.since, (sent, received), failure);
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.end(Some(&Failure::from(Reason::Draining)));
    }
}

impl Meter for Tracked {
    fn sent(&self, bytes: u64) {
        self.open.sent.fetch_add(bytes, Relaxed);
        // Istio counts from the server's side: requests are received, responses sent.
        if let Some(counters) = &self.counters {
            counters.received.inc_by(bytes);
        }
    }

    fn received(&self, bytes: u64) {
        self.open.received.fetch_add(bytes, Relaxed);
        if let Some(counters) = &self.counters {
            counters.sent.inc_by(bytes);
        }
    }
}

/// Both halves of a connection that stays on the node.
impl Meter for (Tracked, Tracked) {
    fn sent(&self, bytes: u64) {
        self.0.sent(bytes);
        self.1.sent(bytes);
    }

    fn received(&self, bytes: u64) {
        self.0.received(bytes);
        self.1.received(bytes);
    }
}

/// What the plan wants of a connection that has ended, else one line; its field names are ztunnel's.
fn log(plan: Option<&Plan>, flow: &Flow, since: Instant, bytes: (u64, u64), failure: Option<&Failure>) {
    if let Some(logs) = plan.and_then(|plan| plan.logs.as_deref()) {
        let flags = failure.map_or("-", |failure| failure.reason.response_flags());
        let failure = failure.map(|failure| failure.detail.as_str());
        let ended = OfConnection { flow, bytes: Some(bytes), since: since.elapsed(), flags, failure };
        if !log_form::write(logs, &ended, &ended) {
            return;
        }
    }
    let (request, response) = bytes;
    let Flow { direction, transport, security: _, source_address, original_destination, destination_address, .. } = flow;
    let (source, destination) = (&flow.source, &flow.destination);
    let dst = destination_address.unwrap_or(*original_destination);
    let hbone = (*transport == Transport::Hbone).then(|| SocketAddr::new(dst.ip(), mesh_common::ports::HBONE));
    let hbone = hbone.map(tracing::field::display);
    let (sent, received) = match direction {
        Direction::Outbound => (request, response),
        Direction::Inbound => (response, request),
    };
    let identity = |party: &super::Party| party.identity.as_ref().map(ToString::to_string);
    let duration = format!("{}ms", since.elapsed().as_millis());
    macro_rules! line {
        ($level:expr, $message:expr) => {
            tracing::event!(
                target: "access",
                $level,
                src.addr = %source_address,
                src.workload = source.workload.as_deref().map(|w| &*w.name),
                src.namespace = source.workload.as_deref().map(|w| &*w.namespace),
                src.identity = identity(source),
                src.cluster = source.workload.as_deref().map(|w| &*w.cluster).filter(|cluster| !cluster.is_empty()),
                dst.addr = %dst,
                dst.hbone_addr = hbone,
                dst.service = flow.service.as_deref().map(|s| &*s.hostname),
                dst.workload = destination.workload.as_deref().map(|w| &*w.name),
                dst.namespace = destination.workload.as_deref().map(|w| &*w.namespace),
                dst.identity = identity(destination),
                dst.cluster = destination.workload.as_deref().map(|w| &*w.cluster).filter(|cluster| !cluster.is_empty()),
                direction = direction.as_str(),
                bytes_sent = sent,
                bytes_recv = received,
                duration = duration,
                reason = failure.map(|failure| failure.reason.code()),
                error = failure.map(|failure| failure.detail.as_str()),
                message = $message,
            )
        };
    }
    if failure.is_none() {
        line!(Level::INFO, "connection complete");
    } else {
        line!(Level::ERROR, "connection failed");
    }
}

/// A row of `meshctl connections`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionRow {
    pub id: u64,
    pub direction: Direction,
    pub protocol: Transport,
    pub security: Security,
    /// `namespace/name`, where the workload is known.
    pub source: Option<String>,
    pub destination: Option<String>,
    pub service: Option<String>,
    pub source_identity: Option<String>,
    pub destination_identity: Option<String>,
    pub source_address: SocketAddr,
    pub original_destination: SocketAddr,
    pub destination_address: Option<SocketAddr>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub age_ms: u64,
}

impl ConnectionRow {
    fn new(id: u64, open: &Open) -> Self {
        let flow = &open.flow;
        let name = |party: &super::Party| party.workload.as_ref().map(|w| format!("{}/{}", w.namespace, w.name));
        let identity = |party: &super::Party| party.identity.as_ref().map(ToString::to_string);
        Self {
            id,
            direction: flow.direction,
            protocol: flow.transport,
            security: flow.security,
            source: name(&flow.source),
            destination: name(&flow.destination),
            service: flow.service.as_ref().map(|service| service.key().to_string()),
            source_identity: identity(&flow.source),
            destination_identity: identity(&flow.destination),
            source_address: flow.source_address,
            original_destination: flow.original_destination,
            destination_address: flow.destination_address,
            bytes_sent: open.sent.load(Relaxed),
            bytes_received: open.received.load(Relaxed),
            age_ms: u64::try_from(open.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}
