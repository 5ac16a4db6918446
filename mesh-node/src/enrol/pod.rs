//! A pod that this node has captured, as the data path sees it.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use mesh_policy::{
    balance::InFlight,
    model::{Identity, Snapshot, Workload, WorkloadUid},
};

use tokio::net::TcpStream;

use super::{netns::Netns, routing::DeliveryRouting};
use crate::{
    balance::PodBalance, ebpf::Exempt, hbone, http, inbound::ports::DeliveryPorts, metered::Cost, outbound::Dialer,
    reason::Failure, worker::WorkerId,
};

/// Lives as long as a connection of the pod does, also after the pod has left.
pub struct Pod {
    pub uid: WorkloadUid,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub service_account: Arc<str>,
    pub addresses: Vec<IpAddr>,
    pub netns: Arc<Netns>,
    /// The worker that holds its listeners.
    pub home: WorkerId,
    /// What the pod has on each worker, by [`WorkerId`].
    pub lanes: Vec<Lane>,
    /// Ports inside the pod that are the proxy's own: nobody is delivered to them.
    pub own_ports: Vec<u16>,
    pub delivery_ports: DeliveryPorts,
    /// Bounds the bytes that the pod's tunnels may hold unread.
    pub budget: Arc<hbone::Budget>,
    pub connections: ConnectionCount,
    pub in_flight: EndpointsInFlight,
    /// What the pod knows of the endpoints that it asks.
    pub balance: PodBalance,
    /// Copies of its requests that are on their way.
    pub mirrors: Arc<http::mirror::PodMirrors>,
    /// Plaintext is not judged: the pod ran before it was enrolled and not every node knows yet that it speaks HBONE.
    pub plaintext_passes: AtomicBool,
    /// Nor is it any more: HBONE is being withdrawn.
    pub leaving: AtomicBool,
    /// Routes deliveries inside the pod; undone with the last connection.
    pub routing: DeliveryRouting,
    /// What was last told of it. See [`Pod::workload`].
    pub last_known: ArcSwapOption<Workload>,
}

/// One pod on one worker: no tunnel is shared between pods or workers, so none needs a lock that anybody waits for.
pub struct Lane {
    pub cost: Arc<Cost>,
    pub tunnels: hbone::Pool<PodDial>,
    /// Connections that carry the pod's own HTTP requests.
    pub upstreams: http::upstream::Pool<http::Place>,
}

/// Tunnels leave from inside the pod.
pub struct PodDial {
    pub dialer: Dialer,
    pub netns: Arc<Netns>,
}

impl hbone::Dial for PodDial {
    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let failed = |failure: Failure| io::Error::other(failure.to_string());
        self.dialer.dial(&self.netns, address, Exempt::Proxy).await.map_err(failed)
    }
}

impl Pod {
    /// Who the pod is, by where it entered the kernel.
    pub fn identity(&self, snapshot: &Snapshot) -> Identity {
        Identity {
            trust_domain: snapshot.mesh().trust_domain.clone(),
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
        }
    }

    /// What the mesh knows of the pod, or knew: one that is deleted leaves the mesh's configuration before its processes have
    /// ended, and until then it answers, by the policies that it had, whoever has not heard of it yet, and asks in its
    /// own name. None: it was never known.
    pub fn workload(&self, snapshot: &Snapshot) -> Option<Arc<Workload>> {
        snapshot.workload(&self.uid).cloned().or_else(|| self.last_known.load_full())
    }

    /// Keeps what a snapshot says of the pod.
    pub fn remember(&self, snapshot: &Snapshot) {
        if let Some(workload) = snapshot.workload(&self.uid) {
            self.last_known.store(Some(workload.clone()));
        }
    }

    /// What comes without an identity is not judged at the moment.
    pub fn lets_plaintext_pass(&self) -> bool {
        self.plaintext_passes.load(Relaxed) || self.leaving.load(Relaxed)
    }

    pub fn lane(&self, worker: WorkerId) -> &Lane {
        &self.lanes[worker.0]
    }
}

/// How many connections a pod has open, bounded.
pub struct ConnectionCount {
    open: Arc<AtomicUsize>,
    most: usize,
}

/// One counted connection.
pub struct Counted(Arc<AtomicUsize>);

impl ConnectionCount {
    pub fn new(most: usize) -> Self {
        Self { open: Arc::default(), most }
    }

    /// Counts one more, unless the pod has as many as it may.
    pub fn take(&self) -> Option<Counted> {
        let taken = self.open.fetch_add(1, Relaxed);
        let counted = Counted(self.open.clone());
        (taken < self.most).then_some(counted)
    }

    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The pod's open connections by endpoint, for the choice of the less busy one. Each pod counts its own: what a
/// neighbour does to an endpoint must not steer this pod.
#[derive(Default)]
pub struct EndpointsInFlight(Arc<Mutex<HashMap<WorkloadUid, u32>>>);

/// One connection in flight to an endpoint.
pub struct InFlightGuard {
    counts: Arc<Mutex<HashMap<WorkloadUid, u32>>>,
    uid: WorkloadUid,
}

impl EndpointsInFlight {
    pub fn enter(&self, uid: &WorkloadUid) -> InFlightGuard {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(uid.clone()).or_default() += 1;
        InFlightGuard { counts: self.0.clone(), uid: uid.clone() }
    }
}

impl InFlight for EndpointsInFlight {
    fn of(&self, uid: &WorkloadUid) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).copied().unwrap_or(0)
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

/// The captured pods of this node, by workload.
#[derive(Default)]
pub struct LocalPods(ArcSwap<HashMap<WorkloadUid, Arc<Pod>>>);

impl LocalPods {
    pub fn get(&self, uid: &WorkloadUid) -> Option<Arc<Pod>> {
        self.0.load().get(uid).cloned()
    }

    pub fn contains(&self, uid: &WorkloadUid) -> bool {
        self.0.load().contains_key(uid)
    }

    pub fn all(&self) -> Guard<Arc<HashMap<WorkloadUid, Arc<Pod>>>> {
        self.0.load()
    }

    pub(super) fn insert(&self, pod: &Arc<Pod>) {
        self.0.rcu(|pods| {
            let mut pods = HashMap::clone(pods);
            pods.insert(pod.uid.clone(), pod.clone());
            pods
        });
    }

    pub(super) fn remove(&self, uid: &WorkloadUid) {
        self.0.rcu(|pods| {
            let mut pods = HashMap::clone(pods);
            pods.remove(uid);
            pods
        });
    }
}
