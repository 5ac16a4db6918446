//! Copying between two TCP connections: byte for byte, half-close for half-close, reset for reset.
//!
//! An idle connection holds no buffer: bytes are read into a scratch buffer of the worker's thread and written on at
//! once; only what the far side does not take at that moment is kept, and then nothing more is read (back pressure).

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, tcp::ReadHalf, tcp::WriteHalf},
};

/// First size of a read; doubled while reads fill, up to [`MAX_READ`]. Bounds what a stalled direction keeps.
const MIN_READ: usize = 16 * 1024;
const MAX_READ: usize = 128 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_READ].into_boxed_slice());
}

/// Told of every byte that went on to the other side.
pub trait Meter {
    /// From the downstream (the opener of the connection) to the upstream.
    fn sent(&self, bytes: u64);
    /// From the upstream to the downstream.
    fn received(&self, bytes: u64);
}

/// Which end broke a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Downstream,
    Upstream,
}

#[derive(Debug, thiserror::Error)]
#[error("{end:?} broke the connection")]
pub struct CopyError {
    pub end: End,
    #[source]
    pub source: io::Error,
}

/// Copies until both directions have ended. Whatever ends it otherwise, both sockets are reset when they are dropped,
/// if [`break_on_close`] has been called on them: an application never sees a clean end that the other side did not send.
pub async fn bidirectional(downstream: &mut TcpStream, upstream: &mut TcpStream, meter: &impl Meter) -> Result<(), CopyError> {
    let result = {
        let (mut down_read, mut down_write) = downstream.split();
        let (mut up_read, mut up_write) = upstream.split();
        let mut request = Pump::new(End::Downstream);
        let mut response = Pump::new(End::Upstream);
        poll_fn(|cx| {
            let sent = request.poll(cx, &mut down_read, &mut up_write, |n| meter.sent(n))?;
            let received = response.poll(cx, &mut up_read, &mut down_write, |n| meter.received(n))?;
            if sent.is_ready() && received.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    };
    if result.is_ok() {
        end_on_close(downstream);
        end_on_close(upstream);
    }
    result
}

/// Makes the close of a socket a reset (linger 0): called on every application's connection as soon as it stands, or on
/// the listener that it comes from, so that its peer sees an error and not an empty answer, even when this process is killed.
pub fn break_on_close(socket: &impl AsFd) {
    // It can only fail on a socket that is no longer connected, which needs no reset.
    let _ = SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO));
}

/// Makes the close of a socket a clean end again: called when both directions have ended.
pub fn end_on_close(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_linger(None);
}

/// One direction.
struct Pump {
    /// The end that this direction reads from.
    from: End,
    /// What was read and not taken yet.
    kept: Vec<u8>,
    written: usize,
    read_size: usize,
    state: PumpState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PumpState {
    Copying,
    /// The reader ended; what is kept is written, then the writer is shut down.
    Ending,
    Done,
}

impl Pump {
    fn new(from: End) -> Self {
        Self { from, kept: Vec::new(), written: 0, read_size: MIN_READ, state: PumpState::Copying }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut ReadHalf<'_>,
        writer: &mut WriteHalf<'_>,
        mut count: impl FnMut(u64),
    ) -> Poll<Result<(), CopyError>> {
        let to = self.from.other();
        loop {
            while self.written < self.kept.len() {
                let written = ready!(Pin::new(&mut *writer).poll_write(cx, &self.kept[self.written..]));
                self.written += written.map_err(|source| CopyError { end: to, source })?;
            }
            if !self.kept.is_empty() {
                // Freed at once: a connection that stalled once must not hold 128 KiB for its life.
                self.kept = Vec::new();
                self.written = 0;
            }
            match self.state {
                PumpState::Done => return Poll::Ready(Ok(())),
                PumpState::Ending => {
                    // Not connected any more: the other direction reports it.
                    let _ = ready!(Pin::new(&mut *writer).poll_shutdown(cx));
                    self.state = PumpState::Done;
                }
                PumpState::Copying => {
                    let outcome = SCRATCH.with_borrow_mut(|scratch| self.forward(cx, reader, writer, scratch));
                    match ready!(outcome)? {
                        0 => self.state = PumpState::Ending,
                        n => count(n as u64),
                    }
                }
            }
        }
    }

    /// One read into `scratch`, written on as far as the writer takes it; the rest is kept.
    fn forward(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut ReadHalf<'_>,
        writer: &mut WriteHalf<'_>,
        scratch: &mut [u8],
    ) -> Poll<Result<usize, CopyError>> {
        let mut buffer = ReadBuf::new(&mut scratch[..self.read_size]);
        ready!(Pin::new(reader).poll_read(cx, &mut buffer)).map_err(|source| CopyError { end: self.from, source })?;
        let bytes = buffer.filled();
        self.read_size = match bytes.len() {
            n if n == self.read_size => (n * 2).min(MAX_READ),
            n if n < self.read_size / 4 => (self.read_size / 2).max(MIN_READ),
            _ => self.read_size,
        };
        let mut written = 0;
        while written < bytes.len() {
            match Pin::new(&mut *writer).poll_write(cx, &bytes[written..]) {
                Poll::Ready(Ok(n)) => written += n,
                Poll::Ready(Err(source)) => return Poll::Ready(Err(CopyError { end: self.from.other(), source })),
                Poll::Pending => {
                    self.kept = bytes[written..].to_vec();
                    break;
                }
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }
}

impl End {
    fn other(self) -> Self {
        match self {
            Self::Downstream => Self::Upstream,
            Self::Upstream => Self::Downstream,
        }
    }
}

#[cfg(test)]
mod tests;
