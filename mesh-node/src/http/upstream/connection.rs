//! One connection to a server of HTTP.

use std::{
    error::Error as _,
    fmt,
    future::poll_fn,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::sleep;

use super::Settings;
use crate::{
    http::{
        body::Body,
        io::{Io, Pulse},
    },
    metered::Charged,
};

/// What is spoken to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    Http1,
    Http2,
}

/// A connection that stands. Its task ends it when this is dropped and no request is open.
pub(super) enum Connection {
    Http1(http1::SendRequest<Body>, Arc<Pulse>),
    Http2(http2::SendRequest<Body>),
}

/// What a connection and its users know of each other.
#[derive(Debug)]
pub(super) struct Usage {
    pub(super) begun: Instant,
    /// Requests that are open on it.
    pub(super) open: AtomicUsize,
    /// Requests that the server lets be open at once, as far as it has said.
    pub(super) streams: AtomicUsize,
}

impl Default for Usage {
    fn default() -> Self {
        Self { begun: Instant::now(), open: AtomicUsize::new(0), streams: AtomicUsize::new(usize::MAX) }
    }
}

/// Why a request got no answer.
#[derive(thiserror::Error)]
#[error("{kind}")]
pub struct SendError {
    pub kind: SendErrorKind,
    /// The request, if not a byte of it went out.
    pub unsent: Option<Box<Request<Body>>>,
    #[source]
    pub source: hyper::Error,
}

impl fmt::Debug for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError").field("kind", &self.kind).field("source", &self.source).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendErrorKind {
    #[error("the server closed the connection before it answered")]
    Closed,
    #[error("the server reset the stream")]
    Reset,
    /// HTTP/2 REFUSED_STREAM: the server says that it has not looked at it.
    #[error("the server refused the stream")]
    Refused,
    #[error("the server answered with what is no HTTP")]
    Protocol,
    #[error("the request's body broke off")]
    RequestBody,
}

impl Connection {
    /// Greets the server and starts the connection's task.
    pub(super) async fn open(
        mut io: Io,
        version: Version,
        tasks: &Charged,
        settings: &Settings,
        usage: &Arc<Usage>,
    ) -> Result<Self, hyper::Error> {
        let pulse = io.pulse();
        let idle = idle(usage.clone(), pulse.clone(), settings.idle);
        match version {
            Version::Http1 => {
                let mut builder = http1::Builder::new();
                builder
                    .max_buf_size(settings.http1_buffer)
                    .max_headers(settings.http1_fields)
                    // Old servers fold lines; they are unfolded for the client (RFC 9112 §5.2).
                    .allow_obsolete_multiline_headers_in_responses(true);
                let (sender, connection) = builder.handshake(TokioIo::new(io)).await?;
                tasks.spawn(async move {
                    tokio::select! {
                        // Whoever waits for an answer is told.
                        _ = connection.with_upgrades() => {}
                        () = idle => {}
                    }
                });
                Ok(Self::Http1(sender, pulse))
            }
            Version::Http2 => {
                io.expects_frames();
                let mut builder = http2::Builder::new(tasks.clone());
                builder
                    .timer(TokioTimer::new())
                    .adaptive_window(false)
                    .initial_stream_window_size(settings.http2_stream_window)
                    .initial_connection_window_size(settings.http2_connection_window)
                    .max_header_list_size(settings.http2_header_list)
                    .max_send_buf_size(settings.http2_send_buffer)
                    // What a server does wrong costs it that answer; h2 would count over the connection's life and end all
                    // of its streams at once. One such answer a request is all that it can do.
                    .max_local_error_reset_streams(None);
                let (sender, connection) = builder.handshake(TokioIo::new(io)).await?;
                let usage = usage.clone();
                tasks.spawn(async move {
                    let mut connection = pin!(connection);
                    let told = poll_fn(|cx| {
                        let polled = connection.as_mut().poll(cx);
                        usage.streams.store(connection.current_max_send_streams(), Relaxed);
                        polled
                    });
                    tokio::select! {
                        _ = told => {}
                        () = idle => {}
                    }
                });
                Ok(Self::Http2(sender))
            }
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender, _) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    /// Takes a request now.
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender, _) => sender.is_ready(),
            Self::Http2(sender) => sender.is_ready(),
        }
    }

    pub(super) async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, SendError> {
        let sent = match self {
            Self::Http1(sender, pulse) => {
                pulse.asked();
                let sent = sender.try_send_request(request).await;
                pulse.answered();
                sent
            }
            Self::Http2(sender) => sender.try_send_request(request).await,
        };
        sent.map_err(SendError::from)
    }
}

/// Completes when nothing was carried for `after` and nobody waits.
async fn idle(usage: Arc<Usage>, pulse: Arc<Pulse>, after: Duration) {
    loop {
        let left = after.saturating_sub(pulse.silence());
        if !left.is_zero() {
            sleep(left).await;
        } else if usage.open.load(Relaxed) == 0 {
            return;
        } else {
            sleep(after).await;
        }
    }
}

impl From<TrySendError<Request<Body>>> for SendError {
    fn from(mut error: TrySendError<Request<Body>>) -> Self {
        let unsent = error.take_message().map(Box::new);
        let source = error.into_error();
        Self { kind: SendErrorKind::of(&source), unsent, source }
    }
}

impl SendErrorKind {
    fn of(error: &hyper::Error) -> Self {
        let in_http2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
        if in_http2.and_then(h2::Error::reason) == Some(h2::Reason::REFUSED_STREAM) {
            return Self::Refused;
        }
        if in_http2.is_some_and(h2::Error::is_reset) {
            return Self::Reset;
        }
        if error.is_parse() {
            return Self::Protocol;
        }
        if error.is_user() {
            return Self::RequestBody;
        }
        let broken = error.source().is_some_and(<dyn std::error::Error + 'static>::is::<io::Error>);
        if in_http2.is_some_and(|error| !error.is_io() && !error.is_go_away()) && !broken {
            return Self::Protocol;
        }
        Self::Closed
    }
}
