//! One tunnel, from the accepting side: TLS, HTTP/2, and a question to the [`Handler`] for each CONNECT.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use mesh_policy::model::Identity;
use rustls::ServerConfig;
use tokio::{
    net::TcpStream,
    time::{Sleep, sleep, timeout},
};

use super::{
    cork::{Cork, Plug, cork},
    headers::{Baggage, FORWARDED, Forwarded, TRACEPARENT, Target, TraceParent, text},
    keepalive::KeepAlive,
    settings::{
        FRAME, MAX_STREAM_WINDOW, PENDING_RESETS, RESET_BURST, RESETS_PER_SECOND, SEND_BUFFER, SMALL_FRAME_OVERHEAD,
        STREAM_WINDOW, Settings,
    },
    stream::{self, H2Stream, Role},
    tls::{self, TlsStream},
    window::{Budget, Windows},
};
use crate::{
    identity::{LeafFacts, VerifyError},
    reason::Reason,
};

/// What a peer asks for, with who it has proved to be. Of the rest, nothing is proved.
#[derive(Clone, Debug)]
pub struct ConnectInfo {
    pub peer: Identity,
    pub authority: Target,
    pub baggage: Baggage,
    pub forwarded: Option<Forwarded>,
    pub traceparent: Option<TraceParent>,
    /// All headers as they came, for the rare ones (`x-forwarded-network`, `x-istio-source`).
    pub headers: HeaderMap,
}

/// Why a CONNECT is not answered with 200. The body of the answer stays empty: the reason is for our log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not a target of this pod: 400.
    BadTarget,
    /// Policy does not allow it: 401, as ztunnel answers.
    Denied,
    /// The application can not be reached, or this node can not carry it now: 503.
    Unavailable,
}

impl Refusal {
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadTarget => StatusCode::BAD_REQUEST,
            Self::Denied => StatusCode::UNAUTHORIZED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Decides on streams and carries them.
pub trait Handler: Send + Sync + 'static {
    /// The connection to the application.
    type Upstream: Send;

    /// Applies policy and connects the application. The answer is sent when this returns: 200 only with the application
    /// connected. Dropped when the peer resets the stream, or after `settings.answer_timeout` (then 503).
    fn connect(&self, info: &ConnectInfo) -> impl Future<Output = Result<Self::Upstream, Refusal>> + Send;

    /// Carries the stream until it ends. The tunnel lives on while this runs.
    fn relay(&self, info: ConnectInfo, upstream: Self::Upstream, stream: H2Stream) -> impl Future<Output = ()> + Send;
}

/// Why a tunnel could not be served, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("no handshake in {after:?}")]
    HandshakeTimeout { after: Duration },
    #[error("the TLS handshake failed")]
    Tls {
        #[source]
        source: io::Error,
    },
    #[error("the peer's certificate was refused")]
    Peer {
        #[source]
        source: VerifyError,
    },
    #[error("the peer does not offer HTTP/2")]
    NoHttp2,
    #[error("HTTP/2 failed")]
    Http2 {
        #[source]
        source: h2::Error,
    },
    #[error("the transport under HTTP/2 failed")]
    Broken {
        #[source]
        source: Arc<io::Error>,
    },
    #[error("{peer} does not answer pings")]
    PeerGone { peer: Identity },
    #[error("the certificate of {peer} has expired")]
    Expired { peer: Identity },
    #[error("{peer} opens and resets streams faster than allowed")]
    ResetFlood { peer: Identity },
    #[error("streams of {peer} were still open {after:?} after the drain began")]
    DrainTimeout { peer: Identity, after: Duration },
}

impl ServeError {
    pub fn reason(&self) -> Reason {
        match self {
            Self::HandshakeTimeout { .. } | Self::Tls { .. } | Self::Peer { .. } => Reason::TlsHandshake,
            Self::NoHttp2 | Self::Http2 { .. } => Reason::H2Handshake,
            Self::Broken { .. } | Self::PeerGone { .. } | Self::Expired { .. } | Self::ResetFlood { .. } => Reason::TunnelClosed,
            Self::DrainTimeout { .. } => Reason::Draining,
        }
    }
}

type Connection = h2::server::Connection<Cork<TlsStream>, Bytes>;

/// Serves one accepted connection until it ends. Streams run as tasks of `settings.spawner`.
///
/// When `drain` completes the peer is told to open no more streams (GOAWAY); the call returns when the last has ended, at the
/// latest after `settings.drain_timeout`.
pub async fn serve<H: Handler>(
    tcp: TcpStream,
    tls: Arc<ServerConfig>,
    handler: Arc<H>,
    settings: &Settings,
    budget: Arc<Budget>,
    drain: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let after = settings.handshake_timeout;
    let shaken = timeout(after, shake(tcp, tls, settings)).await;
    let (mut connection, plug, facts) = shaken.map_err(|_| ServeError::HandshakeTimeout { after })??;
    let streams = Streams {
        handler,
        peer: facts.identity.clone(),
        running: Arc::default(),
        resets: Arc::new(Resets::new()),
        streaming: stream::Shared { windows: Windows::new(), budget, congestion: plug.congestion() },
        answer_timeout: settings.answer_timeout,
    };
    let mut watch = Watch {
        keepalive: connection.ping_pong().map(|pings| KeepAlive::new(pings, settings)),
        not_after: facts.not_after,
        expiry: Box::pin(sleep(until(facts.not_after))),
    };
    let mut drain = pin!(drain);
    let mut draining: Option<Pin<Box<Sleep>>> = None;
    loop {
        let event = poll_fn(|cx| {
            if let Poll::Ready(event) = poll_connection(cx, &mut connection, &plug, &streams.streaming.windows) {
                return Poll::Ready(event);
            }
            if let Poll::Ready(event) = watch.poll(cx, &streams) {
                return Poll::Ready(event);
            }
            match &mut draining {
                None => drain.as_mut().poll(cx).map(|()| Event::Drain),
                Some(deadline) => deadline.as_mut().poll(cx).map(|()| Event::DrainOver),
            }
        })
        .await;
        let peer = || streams.peer.clone();
        match event {
            Event::Request(request, respond) => streams.start(*request, respond, settings),
            Event::Ended => return Ok(()),
            Event::Broken(source) => return Err(ServeError::Broken { source }),
            Event::Failed(source) => return Err(ServeError::Http2 { source }),
            Event::PeerGone => return Err(ServeError::PeerGone { peer: peer() }),
            Event::Expired => return Err(ServeError::Expired { peer: peer() }),
            Event::Flood => {
                connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                let last = poll_fn(|cx| poll_connection(cx, &mut connection, &plug, &streams.streaming.windows));
                // The GOAWAY is a courtesy; a peer that does not take it is cut off all the same.
                let _ = timeout(Duration::from_secs(1), last).await;
                return Err(ServeError::ResetFlood { peer: peer() });
            }
            Event::Drain => {
                connection.graceful_shutdown();
                draining = Some(Box::pin(sleep(settings.drain_timeout)));
            }
            Event::DrainOver => return Err(ServeError::DrainTimeout { peer: peer(), after: settings.drain_timeout }),
        }
    }
}

enum Event {
    Request(Box<Request<RecvStream>>, SendResponse<Bytes>),
    Ended,
    Broken(Arc<io::Error>),
    Failed(h2::Error),
    PeerGone,
    Expired,
    Flood,
    Drain,
    DrainOver,
}

type Shaken = (Connection, Plug<TlsStream>, LeafFacts);

async fn shake(tcp: TcpStream, config: Arc<ServerConfig>, settings: &Settings) -> Result<Shaken, ServeError> {
    // Only a speed-up: without it the tunnel works.
    let _ = tcp.set_nodelay(true);
    let (stream, peer) = tls::accept(tcp, config).await.map_err(tls_failure)?;
    if !peer.speaks_http2 {
        return Err(ServeError::NoHttp2);
    }
    let facts = peer.facts.ok_or(ServeError::Peer { source: VerifyError::Encoding })?;
    let (corked, plug) = cork(stream);
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(MAX_STREAM_WINDOW * settings.server_streams.clamp(1, 1024))
        .max_frame_size(FRAME)
        .max_header_list_size(settings.server_header_list)
        .max_concurrent_streams(settings.server_streams)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SMALL_FRAME_OVERHEAD)
        .max_pending_accept_reset_streams(PENDING_RESETS);
    let mut handshake = pin!(builder.handshake(corked));
    // Our SETTINGS lie under the cork while h2 waits for the client's preface, and some clients wait for them.
    let connection = poll_fn(|cx| {
        let polled = handshake.as_mut().poll(cx);
        let _ = plug.poll_flush(cx);
        match plug.failure() {
            Some(source) => Poll::Ready(Err(ServeError::Broken { source })),
            None => polled.map_err(|source| ServeError::Http2 { source }),
        }
    });
    Ok((connection.await?, plug, facts))
}

/// Frames in and out, once; what was collected goes out before the task sleeps.
fn poll_connection(cx: &mut Context<'_>, connection: &mut Connection, plug: &Plug<TlsStream>, windows: &Windows) -> Poll<Event> {
    if let Some(size) = windows.next()
        && connection.set_initial_window_size(size).is_ok()
    {
        windows.announced(size);
    }
    let polled = connection.poll_accept(cx);
    let flushed = plug.poll_flush(cx);
    match polled {
        Poll::Ready(Some(Ok((request, respond)))) => return Poll::Ready(Event::Request(Box::new(request), respond)),
        Poll::Ready(None) => return Poll::Ready(Event::Ended),
        Poll::Ready(Some(Err(error))) => return Poll::Ready(plug.failure().map_or(Event::Failed(error), Event::Broken)),
        Poll::Pending => {}
    }
    match flushed {
        Poll::Ready(Err(error)) => Poll::Ready(Event::Broken(Arc::new(error))),
        Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
    }
}

/// What ends a tunnel beside its own frames.
struct Watch {
    keepalive: Option<KeepAlive>,
    not_after: SystemTime,
    expiry: Pin<Box<Sleep>>,
}

impl Watch {
    fn poll<H>(&mut self, cx: &mut Context<'_>, streams: &Streams<H>) -> Poll<Event> {
        if self.keepalive.as_mut().is_some_and(|keepalive| keepalive.poll(cx, &streams.streaming.windows).is_ready()) {
            return Poll::Ready(Event::PeerGone);
        }
        while self.expiry.as_mut().poll(cx).is_ready() {
            if SystemTime::now() > self.not_after {
                return Poll::Ready(Event::Expired);
            }
            self.expiry.as_mut().reset(tokio::time::Instant::now() + until(self.not_after));
        }
        streams.resets.poll_flood(cx).map(|()| Event::Flood)
    }
}

/// Until a moment of the wall clock, but not longer than a look at a clock that may have been set: 10 s.
fn until(moment: SystemTime) -> Duration {
    let left = moment.duration_since(SystemTime::now()).unwrap_or_default();
    (left + Duration::from_millis(100)).min(Duration::from_secs(10))
}

/// What all streams of a tunnel have in common.
struct Streams<H> {
    handler: Arc<H>,
    peer: Identity,
    running: Arc<AtomicUsize>,
    resets: Arc<Resets>,
    streaming: stream::Shared,
    answer_timeout: Duration,
}

impl<H: Handler> Streams<H> {
    fn start(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, settings: &Settings) {
        // h2 counts the streams that are open; streams that were reset and whose handlers still run are counted here.
        if self.running.load(Relaxed) >= settings.server_streams as usize * 2 {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            return;
        }
        let running = Running::new(&self.running);
        let stream = Stream {
            handler: Arc::clone(&self.handler),
            resets: Arc::clone(&self.resets),
            streaming: self.streaming.clone(),
            answer_timeout: self.answer_timeout,
        };
        let peer = self.peer.clone();
        settings.spawner.spawn(async move {
            let _running = running;
            stream.run(peer, request, respond).await;
        });
    }
}

/// One handler that runs.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// One CONNECT.
struct Stream<H> {
    handler: Arc<H>,
    resets: Arc<Resets>,
    streaming: stream::Shared,
    answer_timeout: Duration,
}

impl<H: Handler> Stream<H> {
    async fn run(self, peer: Identity, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let (info, body) = match read(peer, request) {
            Ok(read) => read,
            Err(status) => return answer_empty(&mut respond, status),
        };
        // In a box: what connecting needs is gone while the stream is carried.
        let connecting = Box::pin(self.handler.connect(&info));
        let decided = tokio::select! {
            biased;
            decided = timeout(self.answer_timeout, connecting) => decided.unwrap_or(Err(Refusal::Unavailable)),
            _ = poll_fn(|cx| respond.poll_reset(cx)) => return self.resets.note(),
        };
        let upstream = match decided {
            Ok(upstream) => upstream,
            Err(refusal) => return answer_empty(&mut respond, refusal.status()),
        };
        // It fails when the stream was reset meanwhile; dropping the upstream tells the application.
        if let Ok(send) = respond.send_response(Response::new(()), false) {
            let stream = H2Stream::new(Role::Server, send, body, &self.streaming, None);
            self.handler.relay(info, upstream, stream).await;
        }
    }
}

fn answer_empty(respond: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    // It fails when the stream was reset meanwhile, and then nobody waits for it.
    let _ = respond.send_response(response, true);
}

fn read(peer: Identity, request: Request<RecvStream>) -> Result<(ConnectInfo, RecvStream), StatusCode> {
    let (head, body) = request.into_parts();
    if head.method != Method::CONNECT {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let authority = head.uri.authority().and_then(|authority| authority.as_str().parse().ok()).ok_or(StatusCode::BAD_REQUEST)?;
    let headers = head.headers;
    let info = ConnectInfo {
        peer,
        authority,
        baggage: Baggage::read(&headers),
        forwarded: text(headers.get(FORWARDED)).and_then(Forwarded::parse),
        traceparent: text(headers.get(TRACEPARENT)).and_then(|text| text.parse().ok()),
        headers,
    };
    Ok((info, body))
}

/// Resets before an answer ("rapid reset", CVE-2023-44487): a bucket that fills with [`RESETS_PER_SECOND`].
struct Resets {
    /// What is left, and when that was.
    bucket: Mutex<(f64, Instant)>,
    flooded: AtomicBool,
    /// The connection task.
    task: AtomicWaker,
}

impl Resets {
    fn new() -> Self {
        Self { bucket: Mutex::new((f64::from(RESET_BURST), Instant::now())), flooded: false.into(), task: AtomicWaker::new() }
    }

    fn note(&self) {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let filled = bucket.0 + (now - bucket.1).as_secs_f64() * f64::from(RESETS_PER_SECOND);
        *bucket = (filled.min(f64::from(RESET_BURST)) - 1.0, now);
        if bucket.0 < 0.0 {
            self.flooded.store(true, Relaxed);
            self.task.wake();
        }
    }

    fn poll_flood(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.task.register(cx.waker());
        if self.flooded.load(Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    }
}

fn tls_failure(error: io::Error) -> ServeError {
    let refusal = error.get_ref().and_then(|inner| inner.downcast_ref()).and_then(VerifyError::in_tls).cloned();
    match refusal {
        Some(source) => ServeError::Peer { source },
        None => ServeError::Tls { source: error },
    }
}
