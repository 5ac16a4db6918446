//! One tunnel, from the opening side.

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use h2::client::SendRequest;
use http::StatusCode;
use mesh_policy::model::Identity;
use rustls_pki_types::ServerName;
use tokio::{
    net::TcpStream,
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use super::{
    cork::{Cork, Plug, cork},
    error::HboneError,
    headers::ConnectRequest,
    keepalive::KeepAlive,
    queue::Queue,
    settings::{FRAME, MAX_STREAM_WINDOW, PENDING_RESETS, SEND_BUFFER, SMALL_FRAME_OVERHEAD, STREAM_WINDOW, Settings},
    stream::{self, H2Stream, Role},
    tls::{self, TlsStream},
    window::{Budget, Windows},
};
use crate::identity::{LeafFacts, TlsIdentity, VerifyError};

type Connection = h2::client::Connection<Cork<TlsStream>, Bytes>;

/// A mutual TLS connection with HTTP/2 in it, to one pod. Clones share it.
///
/// It takes no new streams once it is retired, has been idle for too long, the peer said GOAWAY or a certificate of its
/// two ends has expired; streams that are open go on, except at expiry, which closes them.
#[derive(Clone)]
pub struct Tunnel {
    shared: Arc<Shared>,
}

struct Shared {
    id: u64,
    address: SocketAddr,
    peer: LeafFacts,
    tls: Arc<TlsIdentity>,
    /// `None` once no stream may be opened any more; with the last clone gone h2 closes when the last stream ends.
    requests: Mutex<Option<SendRequest<Bytes>>>,
    /// Places taken, streams that are being opened included.
    streams: AtomicUsize,
    max_streams: usize,
    idle_since: Mutex<Instant>,
    answer_timeout: Duration,
    streaming: stream::Shared,
    kill: Notify,
    end: watch::Sender<Option<End>>,
}

/// Why a tunnel is no more.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// Nobody needs it: retired, idle, or the peer drained it.
    Finished,
    Broken(Arc<io::Error>),
    Protocol(Arc<h2::Error>),
    PeerGone,
    Expired,
    Killed,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("closed"),
            Self::Broken(error) => write!(f, "{error}"),
            Self::Protocol(error) => write!(f, "{error}"),
            Self::PeerGone => f.write_str("the peer does not answer pings"),
            Self::Expired => f.write_str("a certificate has expired"),
            Self::Killed => f.write_str("evicted"),
        }
    }
}

impl Tunnel {
    /// Makes a tunnel over `tcp`, which the caller has connected from inside the pod's namespace, and starts its
    /// connection task with `settings.spawner`. The peer must prove one of `expected`.
    pub async fn connect(
        tcp: TcpStream,
        tls: &Arc<TlsIdentity>,
        expected: &[Identity],
        settings: &Settings,
        budget: Arc<Budget>,
    ) -> Result<Self, HboneError> {
        let (tunnel, task) = Self::handshake(tcp, tls, expected, settings, budget).await?;
        settings.spawner.spawn(task);
        Ok(tunnel)
    }

    /// Like [`Tunnel::connect`], but leaves the connection task to the caller; it ends with the tunnel.
    pub(super) async fn handshake(
        tcp: TcpStream,
        tls: &Arc<TlsIdentity>,
        expected: &[Identity],
        settings: &Settings,
        budget: Arc<Budget>,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), HboneError> {
        let address = tcp
            .peer_addr()
            .map_err(|source| HboneError::Dial { address: SocketAddr::from(([0, 0, 0, 0], 0)), source: Arc::new(source) })?;
        let after = settings.handshake_timeout;
        let shaken = timeout(after, shake(tcp, address, tls, expected, settings)).await;
        let (requests, connection, plug, peer) = shaken.map_err(|_| HboneError::HandshakeTimeout { address, after })??;
        let shared = Arc::new(Shared {
            id: next_id(),
            address,
            peer,
            tls: Arc::clone(tls),
            requests: Mutex::new(Some(requests)),
            streams: AtomicUsize::new(0),
            max_streams: settings.client_streams,
            idle_since: Mutex::new(Instant::now()),
            answer_timeout: settings.answer_timeout,
            streaming: stream::Shared { windows: Windows::new(), budget, congestion: plug.congestion() },
            kill: Notify::new(),
            end: watch::Sender::new(None),
        });
        let task = run(connection, plug, Arc::clone(&shared), settings.clone());
        Ok((Self { shared }, task))
    }

    /// Opens a stream, when there is a place for it.
    pub async fn open(&self, request: &ConnectRequest) -> Result<H2Stream, HboneError> {
        let full = || HboneError::Closed { address: self.shared.address, cause: "it takes no more streams".into() };
        self.reserve().ok_or_else(full)?.open(request).await
    }

    /// Whether it would take one stream more.
    pub(super) fn has_place(&self) -> bool {
        let open = self.shared.streams.load(Relaxed);
        if open >= self.shared.max_streams {
            return false;
        }
        let Some(requests) = self.shared.requests().as_ref().map(SendRequest::current_max_send_streams) else {
            return false;
        };
        // A peer that allows none at all is waited for, not dialled again and again.
        open < self.shared.max_streams.min(requests).max(1)
    }

    /// Takes a place for one stream; `None` when all are taken or the tunnel takes no new ones.
    pub(super) fn reserve(&self) -> Option<Place> {
        if !self.has_place() {
            return None;
        }
        self.shared.streams.fetch_add(1, Relaxed);
        Some(Place { shared: Arc::clone(&self.shared), queue: None })
    }

    /// Takes no new streams from now on; closes when the last one has ended.
    pub fn retire(&self) {
        self.shared.retire();
    }

    /// As [`Tunnel::retire`], if it has had no stream for this long.
    pub(super) fn retire_if_idle(&self, idle: Duration) {
        self.shared.retire_if_idle(idle);
    }

    /// Closes at once, with all its streams.
    pub fn kill(&self) {
        self.retire();
        self.shared.kill.notify_one();
    }

    pub fn is_open(&self) -> bool {
        self.shared.requests().is_some() && self.shared.end.borrow().is_none()
    }

    /// Completes when the connection is over.
    pub async fn ended(&self) {
        // The sender is in `shared`, so it can not go away meanwhile.
        let _ = self.shared.end.subscribe().wait_for(Option::is_some).await;
    }

    pub fn id(&self) -> u64 {
        self.shared.id
    }

    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Who the peer proved to be.
    pub fn peer(&self) -> &Identity {
        &self.shared.peer.identity
    }

    /// Streams that are open or being opened.
    pub fn streams(&self) -> usize {
        self.shared.streams.load(Relaxed)
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("address", &self.shared.address).field("streams", &self.streams()).finish_non_exhaustive()
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

type Shaken = (SendRequest<Bytes>, Connection, Plug<TlsStream>, LeafFacts);

async fn shake(
    tcp: TcpStream,
    address: SocketAddr,
    identity: &TlsIdentity,
    expected: &[Identity],
    settings: &Settings,
) -> Result<Shaken, HboneError> {
    // Only a speed-up: without it the tunnel works.
    let _ = tcp.set_nodelay(true);
    let config = identity.client_config(expected).map_err(|source| HboneError::Config { source })?;
    let name = ServerName::IpAddress(address.ip().into());
    let (stream, peer) = tls::connect(tcp, config, name).await.map_err(|error| tls_failure(address, error))?;
    if !peer.speaks_http2 {
        return Err(HboneError::NoHttp2 { address });
    }
    let peer = peer.facts.ok_or(HboneError::Peer { address, source: VerifyError::Encoding })?;
    let (corked, plug) = cork(stream);
    let (requests, connection) = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(MAX_STREAM_WINDOW * u32::try_from(settings.client_streams.clamp(1, 1024)).unwrap_or(1))
        .max_frame_size(FRAME)
        .max_header_list_size(settings.client_header_list)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SMALL_FRAME_OVERHEAD)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .handshake(corked)
        .await
        .map_err(|source| HboneError::Http2 { address, source: Arc::new(source) })?;
    Ok((requests, connection, plug, peer))
}

/// The connection task: frames in and out, pings, idleness, expiry.
async fn run(mut connection: Connection, plug: Plug<TlsStream>, shared: Arc<Shared>, settings: Settings) {
    let end = {
        let mut keepalive = connection.ping_pong().map(|pings| KeepAlive::new(pings, &settings));
        let mut killed = pin!(shared.kill.notified());
        let mut tick = pin!(sleep(shared.next_look(&settings)));
        poll_fn(|cx| {
            if let Some(size) = shared.streaming.windows.next()
                && connection.set_initial_window_size(size).is_ok()
            {
                shared.streaming.windows.announced(size);
            }
            if keepalive.as_mut().is_some_and(|keepalive| keepalive.poll(cx, &shared.streaming.windows).is_ready()) {
                return Poll::Ready(End::PeerGone);
            }
            let polled = Pin::new(&mut connection).poll(cx);
            let flushed = plug.poll_flush(cx);
            if let Some(failure) = plug.failure() {
                return Poll::Ready(End::Broken(failure));
            }
            match (polled, flushed) {
                (Poll::Ready(Ok(())), _) => return Poll::Ready(End::Finished),
                (Poll::Ready(Err(error)), _) => return Poll::Ready(End::Protocol(Arc::new(error))),
                (Poll::Pending, Poll::Ready(Err(error))) => return Poll::Ready(End::Broken(Arc::new(error))),
                (Poll::Pending, Poll::Ready(Ok(())) | Poll::Pending) => {}
            }
            if killed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Killed);
            }
            while tick.as_mut().poll(cx).is_ready() {
                if shared.is_expired(SystemTime::now()) {
                    return Poll::Ready(End::Expired);
                }
                shared.retire_if_idle(settings.idle_timeout);
                tick.as_mut().reset(tokio::time::Instant::now() + shared.next_look(&settings));
            }
            Poll::Pending
        })
        .await
    };
    shared.retire();
    shared.end.send_replace(Some(end));
}

impl Shared {
    fn requests(&self) -> MutexGuard<'_, Option<SendRequest<Bytes>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retire(&self) {
        let requests = self.requests().take();
        // Dropped outside the lock: the last one wakes the connection task.
        drop(requests);
    }

    fn retire_if_idle(&self, idle_timeout: Duration) {
        let mut requests = self.requests();
        let idle_since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        if self.streams.load(Relaxed) == 0 && idle_since.elapsed() >= idle_timeout {
            drop(requests.take());
        }
    }

    fn is_expired(&self, now: SystemTime) -> bool {
        now > self.peer.not_after || self.tls.is_expired(now)
    }

    /// Until something may be due: idleness, or the end of a certificate, by the wall clock as it stands now.
    fn next_look(&self, settings: &Settings) -> Duration {
        let ends = self.peer.not_after.min(self.tls.facts().not_after);
        let expires = ends.duration_since(SystemTime::now()).unwrap_or_default();
        let look = settings.ping_interval.min(settings.idle_timeout / 2).min(expires + Duration::from_millis(100));
        look.max(Duration::from_millis(10))
    }
}

/// A place for one stream in a tunnel. Given back on drop, to whoever waits for one.
pub(super) struct Place {
    shared: Arc<Shared>,
    queue: Option<Arc<Queue>>,
}

impl Place {
    pub(super) fn returning_to(mut self, queue: &Arc<Queue>) -> Self {
        self.queue = Some(Arc::clone(queue));
        self
    }

    /// Sends the CONNECT and waits for the answer.
    pub(super) async fn open(self, request: &ConnectRequest) -> Result<H2Stream, HboneError> {
        let authority = || request.authority.to_string();
        let http = request.to_http().ok_or_else(|| HboneError::Request { authority: authority() })?;
        let after = self.shared.answer_timeout;
        let asked = timeout(after, self.ask(http, &request.authority)).await;
        let (status, send, recv) = asked.map_err(|_| HboneError::NoAnswer { authority: authority(), after })??;
        match status {
            status if status.is_success() => {
                let streaming = self.shared.streaming.clone();
                Ok(H2Stream::new(Role::Client, send, recv, &streaming, Some(Arc::new(self))))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(HboneError::Denied { authority: authority() }),
            StatusCode::SERVICE_UNAVAILABLE => Err(HboneError::Unreachable { authority: authority() }),
            StatusCode::BAD_REQUEST => Err(HboneError::BadTarget { authority: authority() }),
            other => Err(HboneError::Status { authority: authority(), status: other.as_u16() }),
        }
    }

    async fn ask(
        &self,
        http: http::Request<()>,
        authority: &super::headers::Target,
    ) -> Result<(StatusCode, h2::SendStream<Bytes>, h2::RecvStream), HboneError> {
        let requests = self.shared.requests().clone();
        let Some(requests) = requests else { return Err(self.closed()) };
        let mut ready = match requests.ready().await {
            Ok(ready) => ready,
            Err(error) => return Err(self.failure(error, authority).await),
        };
        let (answer, send) = match ready.send_request(http, false) {
            Ok(sent) => sent,
            Err(error) => return Err(self.failure(error, authority).await),
        };
        // A clone that is kept would keep a retired tunnel open.
        drop(ready);
        match answer.await {
            Ok(answer) => Ok((answer.status(), send, answer.into_body())),
            Err(error) => Err(self.failure(error, authority).await),
        }
    }

    /// What an h2 error before the answer means. A stream that the peer did not look at may go into another tunnel.
    async fn failure(&self, error: h2::Error, authority: &super::headers::Target) -> HboneError {
        match error.reason() {
            Some(code) if error.is_reset() && code != h2::Reason::REFUSED_STREAM => {
                HboneError::Reset { authority: authority.to_string(), code }
            }
            Some(_) => {
                // GOAWAY or REFUSED_STREAM: the tunnel has had its day.
                self.shared.retire();
                HboneError::Closed { address: self.shared.address, cause: error.to_string() }
            }
            None => {
                // The connection task is about to say what the transport failed with.
                let _ = self.shared.end.subscribe().wait_for(Option::is_some).await;
                self.closed()
            }
        }
    }

    fn closed(&self) -> HboneError {
        let address = self.shared.address;
        match &*self.shared.end.borrow() {
            Some(End::Broken(source)) if is_alert(source) => HboneError::RefusedByPeer { address, source: Arc::clone(source) },
            Some(end) => HboneError::Closed { address, cause: end.to_string() },
            None => HboneError::Closed { address, cause: "it takes no more streams".into() },
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.shared.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.shared.streams.fetch_sub(1, Relaxed);
        if let Some(queue) = &self.queue {
            queue.serve();
        }
    }
}

fn tls_failure(address: SocketAddr, error: io::Error) -> HboneError {
    let rustls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match rustls {
        Some(rustls) => match VerifyError::in_tls(rustls) {
            Some(refusal) => HboneError::Peer { address, source: refusal.clone() },
            None if matches!(rustls, rustls::Error::AlertReceived(_)) => {
                HboneError::RefusedByPeer { address, source: Arc::new(error) }
            }
            None => HboneError::Tls { address, source: Arc::new(error) },
        },
        None => HboneError::Tls { address, source: Arc::new(error) },
    }
}

/// In TLS 1.3 a refused client learns of it only after its own handshake, as an alert on its first read.
fn is_alert(error: &io::Error) -> bool {
    let rustls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(rustls, Some(rustls::Error::AlertReceived(_)))
}
