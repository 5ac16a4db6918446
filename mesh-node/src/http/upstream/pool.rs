//! Which connection carries a request.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use hyper::{Request, Response, body::Incoming};
use tokio::sync::{Notify, futures::Notified, watch};

use super::connection::{Connection, SendError, Usage, Version};
use crate::{
    http::{body::Body, io::Io},
    metered::{Charged, Cost},
    reason::{Failure, Reason},
};

/// What connections to servers may use. [`Settings::default`] holds what a node uses.
#[derive(Clone, Debug)]
pub struct Settings {
    /// HTTP/1 connections without a request that are kept for one destination.
    pub spare: usize,
    /// Without a request for so long, a connection is closed.
    pub idle: Duration,
    pub http1_buffer: usize,
    pub http1_fields: usize,
    /// Requests that we have open on one HTTP/2 connection; the server's own limit counts if it is lower.
    pub http2_streams: usize,
    pub http2_header_list: u32,
    pub http2_stream_window: u32,
    pub http2_connection_window: u32,
    pub http2_send_buffer: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            spare: 256,
            idle: Duration::from_hours(1),
            http1_buffer: 64 * 1024,
            http1_fields: 100,
            http2_streams: 256,
            http2_header_list: 64 * 1024,
            http2_stream_window: 256 * 1024,
            http2_connection_window: 4 * 1024 * 1024,
            http2_send_buffer: 256 * 1024,
        }
    }
}

/// What a rule lets one connection be used for; None is what the settings say. The default bounds nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// Requests in its life.
    pub requests: Option<u32>,
    /// Requests at a time, of HTTP/2.
    pub streams: Option<u32>,
    /// Without a request for so long, it is closed.
    pub idle: Option<Duration>,
    /// No request begins on one that has stood for so long.
    pub age: Option<Duration>,
}

impl Terms {
    fn allow(&self, usage: &Usage, served: u32) -> bool {
        // Whatever its age, a new connection is good for the request that it was made for.
        let young = self.age.is_none_or(|most| served == 0 || usage.begun.elapsed() < most);
        young && self.requests.is_none_or(|most| served < most)
    }
}

/// So many HTTP/2 connections are made for one request before it is given up.
const MOST_MADE: usize = 8;

/// See the module.
pub struct Pool<K> {
    shared: Arc<Shared<K>>,
    tasks: Charged,
    settings: Settings,
}

struct Shared<K> {
    spare: usize,
    freed: Notify,
    destinations: Mutex<Destinations<K>>,
}

/// Every destination that there is, or was, a connection to: those without any are swept out as the others grow in number.
struct Destinations<K> {
    places: HashMap<(K, Version), Destination>,
    /// How many there may be until those without a connection are looked for.
    sweep_at: usize,
}

/// So many destinations are never swept: looking through them for each new one would cost more than they do.
const LEFT_ALONE: usize = 64;

impl<K> Default for Destinations<K> {
    fn default() -> Self {
        Self { places: HashMap::new(), sweep_at: LEFT_ALONE }
    }
}

impl<K: Eq + Hash> Destinations<K> {
    fn get_or_make(&mut self, place: (K, Version)) -> &mut Destination {
        if self.places.len() >= self.sweep_at {
            self.places.retain(|_, destination| {
                destination.forget_closed();
                !destination.is_empty()
            });
            self.sweep_at = LEFT_ALONE.max(2 * self.places.len());
        }
        self.places.entry(place).or_default()
    }

    fn forget_empty(&mut self, place: &(K, Version)) {
        if self.places.get(place).is_some_and(Destination::is_empty) {
            self.places.remove(place);
        }
    }
}

/// What there is to one destination.
#[derive(Default)]
struct Destination {
    /// Without a request; the one used last is the last.
    spare: Vec<Spare>,
    shared: Vec<Multiplexed>,
    /// An HTTP/2 connection that is being made; it says when it stands, or why it does not.
    opening: Option<watch::Receiver<Option<Result<(), Failure>>>>,
}

impl Destination {
    fn is_empty(&self) -> bool {
        let Self { spare, shared, opening } = self;
        spare.is_empty() && shared.is_empty() && opening.is_none()
    }

    fn forget_closed(&mut self) {
        self.spare.retain(|spare| !spare.connection.is_closed());
        self.shared.retain(|there| !there.sender.is_closed());
    }
}

struct Spare {
    connection: Connection,
    usage: Arc<Usage>,
    served: u32,
}

struct Multiplexed {
    sender: hyper::client::conn::http2::SendRequest<Body>,
    usage: Arc<Usage>,
    served: u32,
}

impl<K: Eq + Hash + Clone + Send + 'static> Pool<K> {
    pub fn new(cost: Arc<Cost>, settings: Settings) -> Self {
        let shared = Shared { spare: settings.spare, freed: Notify::new(), destinations: Mutex::default() };
        Self { shared: Arc::new(shared), tasks: Charged::new(cost), settings }
    }

    /// A connection for one request, made with `connect` if there is none.
    pub async fn lease<F>(&self, key: &K, version: Version, terms: Terms, connect: impl Fn() -> F) -> Result<Lease<K>, Failure>
    where
        F: Future<Output = Result<Io, Failure>> + Send + 'static,
    {
        match version {
            Version::Http1 => match self.shared.take_spare(key, terms) {
                Some(spare) => Ok(self.leased(key, Version::Http1, spare, terms)),
                None => self.lease_http1_fresh(key, terms, connect()).await,
            },
            Version::Http2 => self.lease_http2(key, terms, connect).await,
        }
    }

    /// A connection that was not used before.
    pub async fn lease_http1_fresh(
        &self,
        key: &K,
        terms: Terms,
        connect: impl Future<Output = Result<Io, Failure>> + Send,
    ) -> Result<Lease<K>, Failure> {
        let usage = Arc::<Usage>::default();
        let io = connect.await?;
        let settings = self.settings_for(terms);
        let connection = Connection::open(io, Version::Http1, &self.tasks, &settings, &usage).await.map_err(greeting)?;
        Ok(self.leased(key, Version::Http1, Spare { connection, usage, served: 0 }, terms))
    }

    /// For how many destinations something is kept.
    #[cfg(test)]
    pub(super) fn destinations(&self) -> usize {
        self.shared.lock().places.len()
    }

    /// Completes when a connection has been given back or has gone.
    pub fn freed(&self) -> Notified<'_> {
        self.shared.freed.notified()
    }

    /// Closes connections without a request to destinations such as these.
    pub fn close_spare(&self, of: impl Fn(&K) -> bool) {
        let spare = |((key, _), destination): (&(K, Version), &mut Destination)| {
            if of(key) { std::mem::take(&mut destination.spare) } else { Vec::new() }
        };
        let closed: Vec<Vec<Spare>> = self.shared.lock().places.iter_mut().map(spare).collect();
        // Not under the lock.
        drop(closed);
    }

    async fn lease_http2<F>(&self, key: &K, terms: Terms, connect: impl Fn() -> F) -> Result<Lease<K>, Failure>
    where
        F: Future<Output = Result<Io, Failure>> + Send + 'static,
    {
        let mut made = 0;
        loop {
            let mut opening = match self.shared.share(key, self.streams(terms), terms) {
                Shareable::Connection(there) => return Ok(self.leased(key, Version::Http2, there, terms)),
                Shareable::Opening(opening) => opening,
                Shareable::None => {
                    // Those who waited for a connection too may have taken all that it has to give.
                    if made >= MOST_MADE {
                        return Err(Failure::new(Reason::ConnectFailed, "the server takes no requests on new connections"));
                    }
                    made += 1;
                    self.open_http2(key, terms, connect())
                }
            };
            match opening.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(Ok(()))) => {}
                Ok(Some(Err(failure))) => return Err(failure.clone()),
                Ok(None) | Err(_) => return Err(Failure::new(Reason::Internal, "a connection's task is gone")),
            }
        }
    }

    /// In a task of its own: the connection does not die with the request that asked for it.
    fn open_http2(
        &self,
        key: &K,
        terms: Terms,
        connect: impl Future<Output = Result<Io, Failure>> + Send + 'static,
    ) -> watch::Receiver<Option<Result<(), Failure>>> {
        let (done, opening) = watch::channel(None);
        let place = (key.clone(), Version::Http2);
        self.shared.lock().get_or_make(place.clone()).opening = Some(opening.clone());
        let (shared, settings, tasks) = (self.shared.clone(), self.settings_for(terms), self.tasks.clone());
        self.tasks.spawn(async move {
            let usage = Arc::<Usage>::default();
            let opened = async {
                let io = connect.await?;
                Connection::open(io, Version::Http2, &tasks, &settings, &usage).await.map_err(greeting)
            };
            let opened = opened.await;
            let mut destinations = shared.lock();
            let destination = destinations.get_or_make(place.clone());
            destination.opening = None;
            let result = match opened {
                Ok(Connection::Http2(sender)) => {
                    destination.shared.push(Multiplexed { sender, usage, served: 0 });
                    Ok(())
                }
                Ok(Connection::Http1(..)) => Err(Reason::Internal.into()),
                Err(failure) => Err(failure),
            };
            destinations.forget_empty(&place);
            drop(destinations);
            done.send_replace(Some(result));
        });
        opening
    }

    fn settings_for(&self, terms: Terms) -> Settings {
        let idle = terms.idle.unwrap_or(self.settings.idle);
        Settings { idle, ..self.settings.clone() }
    }

    fn streams(&self, terms: Terms) -> usize {
        let own = self.settings.http2_streams;
        terms.streams.map_or(own, |most| own.min(most as usize))
    }

    fn leased(&self, key: &K, version: Version, spare: Spare, terms: Terms) -> Lease<K> {
        let Spare { connection, usage, served } = spare;
        // A shared connection was counted when it was found.
        if version == Version::Http1 {
            usage.open.fetch_add(1, Relaxed);
        }
        let served = served + 1;
        Lease {
            home: self.shared.clone(),
            place: (key.clone(), version),
            reusable: terms.allow(&usage, served),
            reused: served > 1,
            connection: Some(connection),
            usage,
            served,
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "handed to map_err")]
fn greeting(error: hyper::Error) -> Failure {
    Failure::new(Reason::ConnectFailed, format!("the server's end of HTTP: {error}"))
}

enum Shareable {
    Connection(Spare),
    Opening(watch::Receiver<Option<Result<(), Failure>>>),
    None,
}

impl<K: Eq + Hash + Clone> Shared<K> {
    fn lock(&self) -> MutexGuard<'_, Destinations<K>> {
        self.destinations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_spare(&self, key: &K, terms: Terms) -> Option<Spare> {
        let place = (key.clone(), Version::Http1);
        let mut destinations = self.lock();
        let destination = destinations.places.get_mut(&place)?;
        let usable = |spare: &Spare| spare.connection.is_ready() && terms.allow(&spare.usage, spare.served);
        let found = std::iter::from_fn(|| destination.spare.pop()).find(usable);
        destinations.forget_empty(&place);
        found
    }

    fn share(&self, key: &K, streams: usize, terms: Terms) -> Shareable {
        let mut destinations = self.lock();
        let Some(destination) = destinations.places.get_mut(&(key.clone(), Version::Http2)) else { return Shareable::None };
        destination.shared.retain(|there| !there.sender.is_closed() && terms.allow(&there.usage, there.served));
        for there in &mut destination.shared {
            let connection = Connection::Http2(there.sender.clone());
            if there.usage.open.load(Relaxed) < there.usage.streams.load(Relaxed).clamp(1, streams.max(1)) {
                there.usage.open.fetch_add(1, Relaxed);
                there.served += 1;
                return Shareable::Connection(Spare { connection, usage: there.usage.clone(), served: there.served - 1 });
            }
        }
        destination.opening.clone().map_or(Shareable::None, Shareable::Opening)
    }

    fn give_back(&self, place: &(K, Version), spare: Spare) {
        let mut destinations = self.lock();
        let destination = destinations.get_or_make(place.clone());
        destination.forget_closed();
        if destination.spare.len() < self.spare {
            destination.spare.push(spare);
        }
    }
}

/// A connection for one request. Kept until the answer's body has ended, it goes back to its pool; dropped before, an
/// HTTP/1 connection closes.
pub struct Lease<K: Eq + Hash + Clone> {
    home: Arc<Shared<K>>,
    place: (K, Version),
    connection: Option<Connection>,
    usage: Arc<Usage>,
    served: u32,
    reusable: bool,
    reused: bool,
}

impl<K: Eq + Hash + Clone> Lease<K> {
    /// It has carried a request before: the server may have closed it meanwhile.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    pub fn version(&self) -> Version {
        self.place.1
    }

    pub async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, SendError> {
        let connection = self.connection.as_mut().expect("taken on drop only");
        connection.send(request).await
    }
}

impl<K: Eq + Hash + Clone> Drop for Lease<K> {
    fn drop(&mut self) {
        self.usage.open.fetch_sub(1, Relaxed);
        let Some(connection) = self.connection.take() else { return };
        if self.place.1 == Version::Http1 && self.reusable && connection.is_ready() {
            self.home.give_back(&self.place, Spare { connection, usage: self.usage.clone(), served: self.served });
        }
        self.home.freed.notify_waiters();
    }
}

impl<K: Eq + Hash + Clone> fmt::Debug for Lease<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("served", &self.served).finish_non_exhaustive()
    }
}
