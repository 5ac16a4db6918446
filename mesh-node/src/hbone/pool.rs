//! The tunnels of one pod.
//!
//! A pool belongs to one pod on one worker, so tunnels of two pods are never shared, whatever their identity. Whoever
//! comes first to a destination starts a handshake; those who come meanwhile wait in line ([`Queue`]). A full tunnel gets
//! a second beside it, for as long as both are needed. A tunnel leaves the pool when it breaks, has been idle, or was made with a certificate that has
//! been renewed; in the last case its streams go on.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use mesh_policy::model::Identity;
use tokio::{net::TcpStream, time::timeout};

use super::{
    client::{Place, Tunnel},
    error::HboneError,
    headers::ConnectRequest,
    queue::{Handshake, Queue, Reserved},
    settings::Settings,
    stream::H2Stream,
    window::Budget,
};
use crate::identity::TlsIdentity;

/// Tunnels that one stream may find closed under it and try another.
const MAX_STALE: usize = 3;

/// Makes the TCP connections of a pool: from inside the pod's namespace, exempt from capture.
pub trait Dial: Send + Sync + 'static {
    fn dial(&self, address: SocketAddr) -> impl Future<Output = io::Result<TcpStream>> + Send;
}

impl<F, R> Dial for F
where
    F: Fn(SocketAddr) -> R + Send + Sync + 'static,
    R: Future<Output = io::Result<TcpStream>> + Send,
{
    fn dial(&self, address: SocketAddr) -> impl Future<Output = io::Result<TcpStream>> + Send {
        self(address)
    }
}

/// What a tunnel is shared by, beside the pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub source: Identity,
    /// Who may answer; in one order, since another order is another key.
    pub destination: Arc<[Identity]>,
    /// The pod's address and the HBONE port.
    pub address: SocketAddr,
}

/// One tunnel, for dumps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSnapshot {
    pub address: SocketAddr,
    pub peer: Identity,
    pub streams: usize,
}

/// See the module. Dropped, its tunnels close as their streams end.
pub struct Pool<D> {
    shared: Arc<Shared<D>>,
}

struct Shared<D> {
    dial: D,
    settings: Settings,
    budget: Arc<Budget>,
    /// Locked before any of the queues in it, never after.
    queues: Mutex<HashMap<PoolKey, Arc<Queue>>>,
}

impl<D: Dial> Pool<D> {
    /// `budget` bounds what waits in all streams of the pod.
    pub fn new(dial: D, settings: Settings, budget: Arc<Budget>) -> Self {
        Self { shared: Arc::new(Shared { dial, settings, budget, queues: Mutex::default() }) }
    }

    /// Opens a stream to `key`, in a tunnel that is there or in a new one made with `tls`.
    ///
    /// A tunnel that closes before it has answered is replaced, [`MAX_STALE`] times at most.
    pub async fn open(&self, key: &PoolKey, tls: &Arc<TlsIdentity>, request: &ConnectRequest) -> Result<H2Stream, HboneError> {
        let mut stale = 0;
        loop {
            let place = self.place(key, tls).await?;
            match place.open(request).await {
                Err(error) if error.is_stale_tunnel() && stale < MAX_STALE => stale += 1,
                result => return result,
            }
        }
    }

    async fn place(&self, key: &PoolKey, tls: &Arc<TlsIdentity>) -> Result<Place, HboneError> {
        let (queue, served) = match self.shared.reserve(key, tls) {
            (_, Reserved::Place(place)) => return Ok(place),
            (queue, Reserved::Wait(served)) => (queue, served),
        };
        self.shared.start(&queue);
        // Dialling and the handshake each have their deadline, so this one passes only when the line is long and slow.
        let after = self.shared.settings.handshake_timeout * 2;
        let Ok(Ok(served)) = timeout(after, served).await else {
            return Err(HboneError::NoPlace { address: key.address, after });
        };
        served
    }

    /// Opens no more streams in the tunnels to an address, whose pod is gone. Open streams go on.
    pub fn evict(&self, address: SocketAddr) {
        let mut queues = self.shared.queues();
        queues.retain(|key, queue| {
            if key.address == address {
                queue.retire();
            }
            !queue.is_empty()
        });
    }

    pub fn snapshot(&self) -> Vec<TunnelSnapshot> {
        self.shared.queues().values().flat_map(|queue| queue.snapshot()).collect()
    }
}

impl<D: Dial> Shared<D> {
    /// Begins as many handshakes as are wanted, each in a task of its own: it does not die with the connection that asked.
    fn start(self: &Arc<Self>, queue: &Arc<Queue>) {
        while let Some(handshake) = queue.begin() {
            self.settings.spawner.spawn(tunnel(Arc::downgrade(self), handshake));
        }
    }

    async fn make(
        &self,
        key: &PoolKey,
        tls: &Arc<TlsIdentity>,
    ) -> Result<(Tunnel, impl Future<Output = ()> + Send + 'static), HboneError> {
        let address = key.address;
        let after = self.settings.handshake_timeout;
        let dialled = timeout(after, self.dial.dial(address)).await;
        let tcp = dialled
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| HboneError::Dial { address, source: Arc::new(source) })?;
        Tunnel::handshake(tcp, tls, &key.destination, &self.settings, Arc::clone(&self.budget)).await
    }
}

/// The life of one tunnel, from its handshake to its end.
async fn tunnel<D: Dial>(pool: Weak<Shared<D>>, handshake: Handshake) {
    let Some(shared) = pool.upgrade() else { return };
    let queue = Arc::clone(handshake.queue());
    let made = shared.make(queue.key(), handshake.tls()).await;
    match made {
        Err(error) => {
            handshake.settle(Err(error));
            shared.start(&queue);
        }
        Ok((tunnel, task)) => {
            handshake.settle(Ok(tunnel.clone()));
            shared.start(&queue);
            // A tunnel must not keep a pool that its pod has left.
            let spare = shared.settings.spare_idle_timeout;
            drop(shared);
            let mut task = pin!(task);
            while timeout(spare, &mut task).await.is_err() {
                queue.retire_if_spare(&tunnel, spare);
            }
            queue.remove(&tunnel);
        }
    }
    if let Some(shared) = pool.upgrade() {
        shared.forget_if_empty(&queue);
    }
}

impl<D> Shared<D> {
    fn queues(&self) -> MutexGuard<'_, HashMap<PoolKey, Arc<Queue>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the map's lock: a queue that somebody joins is in the map.
    fn reserve(&self, key: &PoolKey, tls: &Arc<TlsIdentity>) -> (Arc<Queue>, Reserved) {
        let mut queues = self.queues();
        let new = || Arc::new(Queue::new(key.clone(), self.settings.client_streams));
        let queue = queues.entry(key.clone()).or_insert_with(new);
        (Arc::clone(queue), queue.reserve(tls))
    }

    fn forget_if_empty(&self, queue: &Queue) {
        let mut queues = self.queues();
        if queues.get(queue.key()).is_some_and(|there| there.is_empty()) {
            queues.remove(queue.key());
        }
    }
}

impl<D> Drop for Shared<D> {
    fn drop(&mut self) {
        self.queues().values().for_each(|queue| queue.retire());
    }
}
