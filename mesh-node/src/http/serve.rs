//! One accepted connection that speaks HTTP, served to its end: HTTP/1.0, 1.1, or HTTP/2 by its preface.

use std::{
    convert::Infallible,
    error::Error as _,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use hyper::{
    Request, Response,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::AsyncWriteExt,
    sync::watch,
    time::{Sleep, sleep, timeout},
};

use super::{
    body::Body,
    io::{Io, Pulse, Watch},
};
use crate::{
    metered::{Charged, Cost},
    reason::Reason,
};

/// What an HTTP/2 client says first (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection that was silent for too long may take to end in good order.
const GOODBYE: Duration = Duration::from_secs(2);

/// The answer to a head that does not come to its end (RFC 9110, §15.5.9).
const LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// What one connection may use. [`Limits::default`] holds what a node uses.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of an HTTP/1 head, and of what is read of a body ahead of its reader.
    pub http1_buffer: usize,
    /// Fields of an HTTP/1 head.
    pub http1_fields: usize,
    pub http2_streams: u32,
    /// Bytes of a head that HTTP/2 may decode to (name, value and 32 each).
    pub http2_header_list: u32,
    pub http2_stream_window: u32,
    pub http2_connection_window: u32,
    pub http2_send_buffer: usize,
    /// Streams that a peer has reset before we looked at them; more end the connection (CVE-2023-44487).
    pub http2_pending_resets: usize,
    /// Streams that we had to reset for the peer's errors; more end the connection (CVE-2025-8671).
    pub http2_error_resets: usize,
    /// Until the first byte has come, and without a byte in either direction.
    pub idle: Duration,
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// Between two pieces of a request's body that its server waits for; gRPC's streams may be silent for longer.
    pub body: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            http1_buffer: 64 * 1024,
            http1_fields: 100,
            http2_streams: 256,
            http2_header_list: 64 * 1024,
            http2_stream_window: 256 * 1024,
            http2_connection_window: 4 * 1024 * 1024,
            http2_send_buffer: 256 * 1024,
            http2_pending_resets: 32,
            http2_error_resets: 256,
            idle: Duration::from_hours(1),
            head: Duration::from_secs(30),
            body: Duration::from_mins(5),
        }
    }
}

/// Answers requests, several at once with HTTP/2.
pub trait Exchange: Send + Sync + 'static {
    /// Every request gets an answer: what can not be done is answered too. Dropped when the client is gone.
    fn exchange(self: Arc<Self>, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;

    /// The client has sent what is no request, or does not come to an end with one: there is no exchange of it.
    fn refused(&self, reason: Reason);
}

/// Serves `io` until it ends, in good order within the request at hand once `draining` is true.
///
/// Must run inside what charges `cost` to the pod: the streams of HTTP/2 run as tasks that do.
pub async fn serve(
    mut io: Io,
    exchange: Arc<impl Exchange>,
    limits: &Limits,
    cost: Arc<Cost>,
    mut draining: watch::Receiver<bool>,
) -> io::Result<()> {
    let first = tokio::select! {
        spoken = timeout(limits.idle, version(&mut io, limits.head)) => spoken.unwrap_or(Ok(None))?,
        // Nothing was asked yet: nothing is lost.
        () = drain(&mut draining) => None,
    };
    let Some(version) = first else { return io.shutdown().await };
    io.expects_heads((version == Version::Http2).then_some(PREFACE.len()));
    let (watch, pulse) = (io.watch(), io.pulse());
    let (answers, of) = (exchange.clone(), pulse.clone());
    let service = service_fn(move |request| {
        let exchange = answers.clone();
        // Of HTTP/2's heads its frames tell.
        let answering = (version == Version::Http1).then(|| of.answering());
        // Hyper keeps room for one exchange in every connection, for as long as it stands; boxed, that is a pointer.
        Box::pin(async move {
            let response = exchange.exchange(request).await;
            Ok::<_, Infallible>(match answering {
                Some(answering) => response.map(|body| body.holding(answering)),
                None => response,
            })
        })
    });
    let io = TokioIo::new(io);
    let ended = match version {
        Version::Http1 => {
            let mut connection = pin!(http1_builder(limits).serve_connection(io, service).with_upgrades());
            tokio::select! {
                biased;
                ended = &mut connection => ended,
                reason = stop(&watch, &pulse, limits, &mut draining) => match reason {
                    Stop::Drain => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                    Stop::Idle => {
                        connection.as_mut().graceful_shutdown();
                        return timeout(GOODBYE, connection).await.map_or(Ok(()), |ended| ended.map_err(io::Error::other));
                    }
                    Stop::Late => {
                        exchange.refused(Reason::RequestSlow);
                        watch.end_with(LATE);
                        return Ok(());
                    }
                    Stop::Broken => return Ok(()),
                },
            }
        }
        Version::Http2 => {
            // Boxed, so that HTTP/1 need not keep room for it.
            let mut connection = Box::pin(http2_builder(limits, cost).serve_connection(io, service));
            tokio::select! {
                biased;
                ended = &mut connection => ended,
                reason = stop(&watch, &pulse, limits, &mut draining) => match reason {
                    Stop::Drain => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                    Stop::Idle | Stop::Late => {
                        if matches!(reason, Stop::Late) {
                            exchange.refused(Reason::RequestSlow);
                        }
                        connection.as_mut().graceful_shutdown();
                        return timeout(GOODBYE, connection).await.map_or(Ok(()), |ended| ended.map_err(io::Error::other));
                    }
                    Stop::Broken => return Ok(()),
                },
            }
        }
    };
    if ended.as_ref().is_err_and(is_the_clients) {
        exchange.refused(Reason::BadRequest);
    }
    ended.map_err(io::Error::other)
}

/// Whether a connection ended because of what the client sent, and not because it went away.
fn is_the_clients(error: &hyper::Error) -> bool {
    let in_http2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    error.is_parse() || in_http2.is_some_and(|error| !error.is_io() && !error.is_remote())
}

enum Stop {
    Drain,
    Broken,
    Idle,
    /// A head is not whole in time.
    Late,
}

/// Why a connection ends that would go on by itself.
async fn stop(watch: &Watch, pulse: &Pulse, limits: &Limits, draining: &mut watch::Receiver<bool>) -> Stop {
    let silent = async {
        while let Some(left) = limits.idle.checked_sub(pulse.silence()).filter(|left| !left.is_zero()) {
            sleep(left).await;
        }
    };
    tokio::select! {
        () = drain(draining) => Stop::Drain,
        () = watch.broken() => Stop::Broken,
        () = silent => Stop::Idle,
        () = late(pulse, limits.head) => Stop::Late,
    }
}

/// Completes when a head has been coming for longer than `patience`. Nothing wakes it when one begins: it is polled with the
/// connection, whose reading wakes both. A head that comes whole at once costs no timer.
async fn late(pulse: &Pulse, patience: Duration) {
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        loop {
            let Some(age) = pulse.head_age() else { return Poll::Pending };
            let Some(left) = patience.checked_sub(age).filter(|left| !left.is_zero()) else { return Poll::Ready(()) };
            let running = timer.get_or_insert_with(|| Box::pin(sleep(left)));
            ready!(running.as_mut().poll(cx));
            timer = None;
        }
    })
    .await;
}

async fn drain(draining: &mut watch::Receiver<bool>) {
    if draining.wait_for(|draining| *draining).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// What the client speaks; None: it ended without a word, or did not come to an end of its first one.
async fn version(io: &mut Io, patience: Duration) -> io::Result<Option<Version>> {
    if io.seen().is_empty() && !io.look().await? {
        return Ok(None);
    }
    timeout(patience, told(io)).await.unwrap_or(Ok(None))
}

async fn told(io: &mut Io) -> io::Result<Option<Version>> {
    loop {
        let seen = io.seen();
        let compared = seen.len().min(PREFACE.len());
        if seen[..compared] != PREFACE[..compared] {
            return Ok(Some(Version::Http1));
        }
        if compared == PREFACE.len() {
            return Ok(Some(Version::Http2));
        }
        if !io.look().await? {
            return Ok(Some(Version::Http1));
        }
    }
}

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .half_close(true)
        .auto_date_header(false)
        .max_buf_size(limits.http1_buffer)
        .max_headers(limits.http1_fields);
    builder
}

fn http2_builder(limits: &Limits, cost: Arc<Cost>) -> http2::Builder<Charged> {
    let mut builder = http2::Builder::new(Charged::new(cost));
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .adaptive_window(false)
        .initial_stream_window_size(limits.http2_stream_window)
        .initial_connection_window_size(limits.http2_connection_window)
        .max_concurrent_streams(limits.http2_streams)
        .max_header_list_size(limits.http2_header_list)
        .max_send_buf_size(limits.http2_send_buffer)
        .max_pending_accept_reset_streams(limits.http2_pending_resets)
        .max_local_error_reset_streams(limits.http2_error_resets);
    builder
}

#[cfg(test)]
mod tests;
