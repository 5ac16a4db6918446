//! One CONNECT stream as two halves that carry bytes with back pressure.

use std::{
    future::poll_fn,
    io,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream};

use super::{
    cork::{Clearance, Congestion},
    window::{Budget, Charge, FLOOR, Pace, Windows},
};

/// Which end of the tunnel this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We opened the stream: an application here dialled.
    Client,
    /// We accepted it: an application here was dialled.
    Server,
}

impl Role {
    /// The code that says "my application's connection broke". RFC 9113 §8.5 has CONNECT_ERROR for the side that made the
    /// TCP connection; the opener cancels.
    pub fn broken(self) -> h2::Reason {
        match self {
            Self::Client => h2::Reason::CANCEL,
            Self::Server => h2::Reason::CONNECT_ERROR,
        }
    }
}

/// Why a stream ended otherwise than by its two ends.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the other end of the stream reset it: {code}")]
    Reset { code: h2::Reason },
    #[error("the tunnel under the stream broke")]
    Tunnel {
        #[source]
        source: Arc<h2::Error>,
    },
    #[error("the stream is closed")]
    Closed,
}

impl From<h2::Error> for StreamError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(code) if error.is_reset() => Self::Reset { code },
            _ => Self::Tunnel { source: Arc::new(error) },
        }
    }
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        let kind = match error {
            StreamError::Reset { .. } | StreamError::Tunnel { .. } => io::ErrorKind::ConnectionReset,
            StreamError::Closed => io::ErrorKind::BrokenPipe,
        };
        io::Error::new(kind, error)
    }
}

/// A stream whose CONNECT was answered with 200.
///
/// Dropped before both directions have ended, it is reset. It counts against its tunnel's streams until it is dropped.
#[derive(Debug)]
pub struct H2Stream {
    role: Role,
    send: SendHalf,
    recv: RecvHalf,
}

/// What keeps a stream's place in its tunnel; released on drop.
pub(super) type Place = Option<Arc<dyn std::any::Any + Send + Sync>>;

/// What all streams of a tunnel share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) windows: Arc<Windows>,
    pub(super) budget: Arc<Budget>,
    pub(super) congestion: Arc<Congestion>,
}

impl H2Stream {
    pub(super) fn new(role: Role, send: SendStream<Bytes>, recv: RecvStream, shared: &Shared, place: Place) -> Self {
        let charge = || Charge::new(Arc::clone(&shared.budget));
        let recv = RecvHalf {
            inner: recv,
            windows: Arc::clone(&shared.windows),
            pace: Pace::new(),
            charge: charge(),
            taken: 0,
            _place: place.clone(),
        };
        let clearance = Clearance::new(Arc::clone(&shared.congestion));
        let send = SendHalf { inner: send, role, ended: false, clearance, charge: charge(), _place: place };
        Self { role, send, recv }
    }

    pub fn role(&self) -> Role {
        self.role
    }

    pub fn split(self) -> (SendHalf, RecvHalf) {
        (self.send, self.recv)
    }

    pub fn halves(&mut self) -> (&mut SendHalf, &mut RecvHalf) {
        (&mut self.send, &mut self.recv)
    }
}

/// The direction to the other node.
pub struct SendHalf {
    inner: SendStream<Bytes>,
    role: Role,
    ended: bool,
    clearance: Clearance,
    charge: Charge,
    _place: Place,
}

impl SendHalf {
    /// Ready while the tunnel takes what is sent; until then nothing should be read that would be sent.
    pub fn poll_clear(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.clearance.poll(cx)
    }

    /// `bytes` wait in the caller's hands for room in the tunnel: they count against the pod's budget.
    pub fn note_waiting(&mut self, bytes: usize) {
        self.charge.set(bytes);
    }

    /// The pod has more waiting than it should.
    pub fn is_over_budget(&self) -> bool {
        self.charge.is_over()
    }

    /// Hands `data` to the tunnel as its windows allow; ready when all of it went. What went is cut from `data`, so the call
    /// may be given up and made again.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), StreamError>> {
        while !data.is_empty() {
            let mut room = self.inner.capacity();
            if room == 0 {
                // Only with the data in hand: capacity that waits unused is lost to the tunnel's other streams.
                self.inner.reserve_capacity(data.len());
                room = match ready!(self.inner.poll_capacity(cx)) {
                    Some(Ok(room)) => room,
                    Some(Err(error)) => return Poll::Ready(Err(error.into())),
                    None => return Poll::Ready(Err(self.why_closed(cx))),
                };
            }
            let part = data.split_to(room.min(data.len()));
            if !part.is_empty() {
                self.inner.send_data(part, false)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    pub async fn send(&mut self, mut data: Bytes) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_send(cx, &mut data)).await
    }

    /// Ends this direction; the other goes on.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.ended = true;
        Ok(self.inner.send_data(Bytes::new(), true)?)
    }

    /// Breaks both directions: the other node resets its application's connection.
    pub fn reset(&mut self) {
        self.ended = true;
        self.inner.send_reset(self.role.broken());
    }

    /// Ready when the other end has reset the stream or the tunnel broke. Not after [`SendHalf::finish`].
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match ready!(self.inner.poll_reset(cx)) {
            Ok(code) => Poll::Ready(StreamError::Reset { code }),
            Err(error) => Poll::Ready(error.into()),
        }
    }

    pub fn is_finished(&self) -> bool {
        self.ended
    }

    fn why_closed(&mut self, cx: &mut Context<'_>) -> StreamError {
        match self.poll_reset(cx) {
            Poll::Ready(error) => error,
            Poll::Pending => StreamError::Closed,
        }
    }
}

impl std::fmt::Debug for SendHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendHalf").field("role", &self.role).field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// The direction from the other node.
pub struct RecvHalf {
    inner: RecvStream,
    windows: Arc<Windows>,
    pace: Pace,
    charge: Charge,
    /// Delivered and not given back to the sender.
    taken: usize,
    _place: Place,
}

impl RecvHalf {
    /// The next bytes; `None` at the end. Their window is the sender's again only after [`RecvHalf::release`].
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        let data = match ready!(self.inner.poll_data(cx)) {
            None => None,
            Some(Err(error)) => Some(Err(error.into())),
            Some(Ok(data)) => {
                self.note_held();
                Some(Ok(data))
            }
        };
        Poll::Ready(data)
    }

    pub async fn recv(&mut self) -> Option<Result<Bytes, StreamError>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// `bytes` of what was received have been delivered: the sender may send as many again, unless the pod is over its
    /// budget, when the stream's window shrinks towards [`FLOOR`].
    pub fn release(&mut self, bytes: usize) {
        self.taken += bytes;
        self.pace.took(bytes, &self.windows);
        let kept = if self.charge.is_over() { self.windows.current().saturating_sub(FLOOR) } else { 0 };
        let given = self.taken.saturating_sub(kept);
        // A stream that has ended has no window any more, and needs none.
        if given > 0 && self.inner.flow_control().release_capacity(given).is_ok() {
            self.taken -= given;
        }
        self.note_held();
    }

    /// All that came and was not delivered, in h2's queue or in the caller's hands.
    fn note_held(&mut self) {
        let held = self.inner.flow_control().used_capacity().saturating_sub(self.taken);
        self.charge.set(held);
    }
}

impl std::fmt::Debug for RecvHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecvHalf").field("taken", &self.taken).finish_non_exhaustive()
    }
}
