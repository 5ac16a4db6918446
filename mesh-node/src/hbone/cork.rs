//! Collects what h2 writes, so that one TLS record and one system call carry the frames of many streams.
//!
//! h2 flushes after every DATA frame of 256 bytes or more. A [`Cork`] takes small writes into a buffer and calls a
//! flush done; the connection task sends the buffer through its [`Plug`] once it has been polled, when h2 has nothing more
//! to say for now. Writes of [`LARGE`] and more gain nothing from collecting and pass straight through. Measured on 64
//! connections: 0.7 of the CPU of the same tunnel without it.
//!
//! The buffer is given back whenever it is empty: an idle tunnel holds none.
//!
//! While the socket takes nothing, [`Congestion`] tells the streams to read no more from their applications: HTTP/2's
//! windows bound only what the far side may receive, and a pod that stops its own tunnels could fill this node with frames.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, futures::OwnedNotified},
};

/// Bytes collected at most before the socket must take them.
pub const CAPACITY: usize = 64 * 1024;

/// Writes from this size on are not collected: one TLS record's worth.
pub const LARGE: usize = 16 * 1024;

/// The side that h2 holds.
pub struct Cork<T>(Arc<Mutex<Inner<T>>>);

/// The side that the connection task holds, to let the bytes out.
pub struct Plug<T>(Arc<Mutex<Inner<T>>>);

struct Inner<T> {
    io: T,
    held: Vec<u8>,
    /// Of `held`, how much the socket has taken.
    sent: usize,
    /// The first error of the transport below: h2 keeps only its text.
    failure: Option<Arc<io::Error>>,
    congestion: Arc<Congestion>,
}

/// Puts a cork on `io`.
pub fn cork<T>(io: T) -> (Cork<T>, Plug<T>) {
    let inner = Inner { io, held: Vec::new(), sent: 0, failure: None, congestion: Arc::default() };
    let inner = Arc::new(Mutex::new(inner));
    (Cork(Arc::clone(&inner)), Plug(inner))
}

/// Whether the socket of a tunnel takes what is written.
#[derive(Debug, Default)]
pub struct Congestion {
    blocked: AtomicBool,
    cleared: Arc<Notify>,
}

impl Congestion {
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(SeqCst)
    }

    fn set(&self, blocked: bool) {
        if self.blocked.swap(blocked, SeqCst) && !blocked {
            self.cleared.notify_waiters();
        }
    }
}

/// One stream's view of a [`Congestion`].
#[derive(Debug)]
pub struct Clearance {
    congestion: Arc<Congestion>,
    waiting: Option<Pin<Box<OwnedNotified>>>,
}

impl Clearance {
    pub fn new(congestion: Arc<Congestion>) -> Self {
        Self { congestion, waiting: None }
    }

    /// Ready while the tunnel is not congested.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.congestion.is_blocked() {
            let congestion = &self.congestion;
            let waiting = self.waiting.get_or_insert_with(|| Box::pin(Arc::clone(&congestion.cleared).notified_owned()));
            // Cleared before the waiter was made: it would not be told.
            if !congestion.is_blocked() {
                break;
            }
            ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
        }
        self.waiting = None;
        Poll::Ready(())
    }
}

fn lock<T>(inner: &Mutex<Inner<T>>) -> MutexGuard<'_, Inner<T>> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: AsyncWrite + Unpin> Plug<T> {
    /// Sends what was collected. Pending registers the task for the socket's next room.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).drain(cx)
    }

    /// What the transport failed with, if it did.
    pub fn failure(&self) -> Option<Arc<io::Error>> {
        lock(&self.0).failure.clone()
    }

    pub fn congestion(&self) -> Arc<Congestion> {
        Arc::clone(&lock(&self.0).congestion)
    }
}

impl<T: AsyncWrite + Unpin> Inner<T> {
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let drained = self.poll_drain(cx);
        self.congestion.set(drained.is_pending());
        drained
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.held.len() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.held[self.sent..]));
            self.sent += match self.note(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => n,
            };
        }
        self.held = Vec::new();
        self.sent = 0;
        let flushed = ready!(Pin::new(&mut self.io).poll_flush(cx));
        Poll::Ready(self.note(flushed))
    }

    fn note<R>(&mut self, result: io::Result<R>) -> io::Result<R> {
        result.map_err(|error| {
            let error = Arc::clone(self.failure.get_or_insert(Arc::new(error)));
            io::Error::new(error.kind(), error)
        })
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Cork<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = lock(&self.0);
        let read = ready!(Pin::new(&mut inner.io).poll_read(cx, buf));
        Poll::Ready(inner.note(read))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Cork<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut inner = lock(&self.0);
        let total = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        let large = total >= LARGE;
        if large || inner.held.len() - inner.sent + total > CAPACITY {
            ready!(inner.drain(cx))?;
        }
        if large {
            let written = Pin::new(&mut inner.io).poll_write_vectored(cx, bufs);
            inner.congestion.set(written.is_pending());
            return written.map(|written| inner.note(written));
        }
        for buf in bufs {
            inner.held.extend_from_slice(buf);
        }
        Poll::Ready(Ok(total))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = lock(&self.0);
        ready!(inner.drain(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}
