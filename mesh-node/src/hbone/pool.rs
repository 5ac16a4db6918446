//! The tunnels of one pod.
//!
//! A pool belongs to one pod on one worker, so tunnels of two pods are never shared, whatever their identity. Whoever
//! comes first to a destination starts a handshake; those who come meanwhile wait for the same one. A full tunnel gets a
//! second beside it. A tunnel leaves the pool when it breaks, has been idle, or was made with a certificate that has
//! been renewed; in the last case its streams go on.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_policy::model::Identity;
use tokio::{net::TcpStream, sync::watch};

use super::{
    client::{Place, Tunnel},
    error::HboneError,
    headers::ConnectRequest,
    settings::Settings,
    stream::H2Stream,
    window::Budget,
};
use crate::identity::TlsIdentity;

/// Tunnels that one stream may wait for, one after the other, while others take the places of each.
const MAX_HANDSHAKES: usize = 4096;

/// Tunnels that one stream may find closed under it before it fails.
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
    entries: Mutex<HashMap<PoolKey, Entry>>,
}

#[derive(Default)]
struct Entry {
    tunnels: Vec<Tunnel>,
    handshake: Option<Handshake>,
}

/// The outcome of a handshake that is under way; the tunnel itself is in the pool by then.
type Handshake = watch::Receiver<Option<Result<(), HboneError>>>;

impl<D: Dial> Pool<D> {
    /// `budget` bounds what waits in all streams of the pod.
    pub fn new(dial: D, settings: Settings, budget: Arc<Budget>) -> Self {
        Self { shared: Arc::new(Shared { dial, settings, budget, entries: Mutex::default() }) }
    }

    /// Opens a stream to `key`, in a tunnel that is there or in a new one made with `tls`.
    ///
    /// A tunnel that turns out to be closed is replaced; a fresh one that fails is an error.
    pub async fn open(&self, key: &PoolKey, tls: &Arc<TlsIdentity>, request: &ConnectRequest) -> Result<H2Stream, HboneError> {
        for _ in 0..MAX_STALE {
            let (place, fresh) = self.reserve(key, tls).await?;
            match place.open(request).await {
                Err(error) if error.is_stale_tunnel() && !fresh => {}
                result => return result,
            }
        }
        Err(HboneError::Closed { address: key.address, cause: "one tunnel after the other closed".into() })
    }

    /// A place in a tunnel, and whether the tunnel was made for it.
    async fn reserve(&self, key: &PoolKey, tls: &Arc<TlsIdentity>) -> Result<(Place, bool), HboneError> {
        let gone = || HboneError::Closed { address: key.address, cause: "the handshake was given up".into() };
        for waited in 0..MAX_HANDSHAKES {
            let mut handshake = match self.find(key, tls) {
                Found::Place(place) => return Ok((place, waited > 0)),
                Found::Handshake(handshake) => handshake,
            };
            let outcome = handshake.wait_for(Option::is_some).await.map_err(|_| gone())?;
            if let Some(Err(error)) = &*outcome {
                return Err(error.clone());
            }
        }
        Err(HboneError::Closed { address: key.address, cause: "others took the places of every new tunnel".into() })
    }

    fn find(&self, key: &PoolKey, tls: &Arc<TlsIdentity>) -> Found {
        let mut entries = self.shared.entries();
        let entry = entries.entry(key.clone()).or_default();
        entry.tunnels.retain(|tunnel| {
            let keeps = tunnel.is_open() && tunnel.is_of(tls);
            if !keeps {
                tunnel.retire();
            }
            keeps
        });
        if let Some(place) = entry.tunnels.iter().find_map(Tunnel::reserve) {
            return Found::Place(place);
        }
        match &entry.handshake {
            Some(handshake) if handshake.has_changed().is_ok() => Found::Handshake(handshake.clone()),
            _ => Found::Handshake(entry.handshake.insert(self.start(key, tls)).clone()),
        }
    }

    /// Starts a handshake in a task of its own: it does not die with the connection that asked first.
    fn start(&self, key: &PoolKey, tls: &Arc<TlsIdentity>) -> Handshake {
        let (outcome, handshake) = watch::channel(None);
        let (shared, key, tls) = (Arc::downgrade(&self.shared), key.clone(), Arc::clone(tls));
        self.shared.settings.spawner.spawn(async move {
            let Some(pool) = shared.upgrade() else { return };
            let made = pool.make(&key, &tls).await;
            let (tunnel, task) = match made {
                Ok(made) => made,
                Err(error) => {
                    pool.settle(&key, None);
                    let _ = outcome.send(Some(Err(error)));
                    return;
                }
            };
            pool.settle(&key, Some(tunnel.clone()));
            // The task must not keep a pool that its pod has left.
            drop(pool);
            let _ = outcome.send(Some(Ok(())));
            drop(outcome);
            task.await;
            if let Some(pool) = shared.upgrade() {
                pool.forget(&key, tunnel.id());
            }
        });
        handshake
    }

    /// Opens no more streams in the tunnels to an address, whose pod is gone. Open streams go on.
    pub fn evict(&self, address: SocketAddr) {
        let evicted: Vec<Entry> = {
            let mut entries = self.shared.entries();
            entries.extract_if(|key, _| key.address == address).map(|(_, entry)| entry).collect()
        };
        evicted.iter().flat_map(|entry| &entry.tunnels).for_each(Tunnel::retire);
    }

    pub fn snapshot(&self) -> Vec<TunnelSnapshot> {
        let entries = self.shared.entries();
        let tunnels = entries.values().flat_map(|entry| &entry.tunnels).filter(|tunnel| tunnel.is_open());
        tunnels
            .map(|tunnel| TunnelSnapshot { address: tunnel.address(), peer: tunnel.peer().clone(), streams: tunnel.streams() })
            .collect()
    }
}

enum Found {
    Place(Place),
    Handshake(Handshake),
}

impl<D: Dial> Shared<D> {
    async fn make(
        &self,
        key: &PoolKey,
        tls: &Arc<TlsIdentity>,
    ) -> Result<(Tunnel, impl Future<Output = ()> + Send + 'static), HboneError> {
        let address = key.address;
        let after = self.settings.handshake_timeout;
        let dialled = tokio::time::timeout(after, self.dial.dial(address)).await;
        let tcp = dialled
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| HboneError::Dial { address, source: Arc::new(source) })?;
        Tunnel::handshake(tcp, tls, &key.destination, &self.settings, Arc::clone(&self.budget)).await
    }
}

impl<D> Shared<D> {
    fn entries(&self) -> MutexGuard<'_, HashMap<PoolKey, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handshake is over.
    fn settle(&self, key: &PoolKey, made: Option<Tunnel>) {
        let mut entries = self.entries();
        let entry = entries.entry(key.clone()).or_default();
        entry.handshake = None;
        entry.tunnels.extend(made);
        if entry.tunnels.is_empty() {
            entries.remove(key);
        }
    }

    /// A tunnel is over.
    fn forget(&self, key: &PoolKey, id: u64) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(key) else { return };
        entry.tunnels.retain(|tunnel| tunnel.id() != id);
        if entry.tunnels.is_empty() && entry.handshake.is_none() {
            entries.remove(key);
        }
    }
}

impl<D> Drop for Shared<D> {
    fn drop(&mut self) {
        let entries = std::mem::take(&mut *self.entries());
        entries.values().flat_map(|entry| &entry.tunnels).for_each(Tunnel::retire);
    }
}
