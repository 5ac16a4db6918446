//! A request's body that can be sent again: what has been passed on is remembered, up to a limit.
//!
//! Attempts read one after the other from the same sender; a later one begins with what was remembered. Memory for one
//! request is the limit, never more; past it the record is thrown away and the attempt under way is the last.

use std::{
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::sync::oneshot;

use super::body::{Body, BodyError};

/// Bytes of a request's body that are remembered (Envoy's `per_request_buffer_limit_bytes` in Istio).
pub const REPLAY_LIMIT: usize = 64 * 1024;

/// The body of one request, for as many attempts as there are.
#[derive(Clone)]
pub struct Replay(Inner);

#[derive(Clone)]
enum Inner {
    /// No body: nothing to remember.
    Empty,
    Shared(Arc<Mutex<Record>>),
}

/// A whole request body.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    pub data: Bytes,
    pub trailers: Option<HeaderMap>,
}

struct Record {
    sender: Body,
    limit: usize,
    data: BytesMut,
    trailers: Option<HeaderMap>,
    state: State,
    outgrown: bool,
    /// Something has been read from the sender.
    begun: bool,
    /// Which attempt may read; earlier ones are superseded.
    current: u32,
    /// Told the whole body, or dropped when it can not be had.
    waiting: Vec<oneshot::Sender<Recorded>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Complete,
    Failed,
}

impl Replay {
    pub fn new(body: Body) -> Self {
        Self::with_limit(body, REPLAY_LIMIT)
    }

    /// Remembers up to `limit` bytes.
    pub fn with_limit(sender: Body, limit: usize) -> Self {
        if sender.is_done() {
            return Self(Inner::Empty);
        }
        Self(Inner::Shared(Arc::new(Mutex::new(Record {
            sender,
            limit,
            data: BytesMut::new(),
            trailers: None,
            state: State::Open,
            outgrown: false,
            begun: false,
            current: 0,
            waiting: Vec::new(),
        }))))
    }

    /// The body for another attempt; None where it can not be sent again. Attempts before it read no further.
    pub fn attempt(&self) -> Option<Body> {
        let Inner::Shared(shared) = &self.0 else { return Some(Body::empty()) };
        let mut record = lock(shared);
        if !record.can_begin() {
            return None;
        }
        record.current += 1;
        let attempt = Attempt { record: shared.clone(), number: record.current, sent: 0, trailers_sent: false };
        drop(record);
        Some(Body::attempt(attempt))
    }

    /// Whether another attempt can be made.
    pub fn can_repeat(&self) -> bool {
        match &self.0 {
            Inner::Empty => true,
            Inner::Shared(shared) => lock(shared).can_begin(),
        }
    }

    /// The body was longer than what is remembered.
    pub fn outgrown(&self) -> bool {
        match &self.0 {
            Inner::Empty => false,
            Inner::Shared(shared) => lock(shared).outgrown,
        }
    }

    /// The sender has sent everything.
    pub fn is_complete(&self) -> bool {
        match &self.0 {
            Inner::Empty => true,
            Inner::Shared(shared) => lock(shared).state == State::Complete,
        }
    }

    /// The sender broke off: no attempt can end well.
    pub fn sender_failed(&self) -> bool {
        match &self.0 {
            Inner::Empty => false,
            Inner::Shared(shared) => lock(shared).state == State::Failed,
        }
    }

    /// Completes with the whole body once it has been read; with None when it is longer than what is remembered, when the
    /// sender breaks off, or when nobody reads it any more.
    pub fn recorded(&self) -> impl Future<Output = Option<Recorded>> + Send + use<> {
        let (tell, told) = oneshot::channel();
        match &self.0 {
            Inner::Empty => {
                let _ = tell.send(Recorded::default());
            }
            Inner::Shared(shared) => lock(shared).wait(tell),
        }
        async { told.await.ok() }
    }
}

fn lock(shared: &Mutex<Record>) -> MutexGuard<'_, Record> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Record {
    fn can_begin(&self) -> bool {
        self.state != State::Failed && !(self.outgrown && self.begun)
    }

    fn wait(&mut self, tell: oneshot::Sender<Recorded>) {
        match self.state {
            State::Complete if !self.outgrown => {
                let _ = tell.send(self.whole());
            }
            State::Open if !self.outgrown => self.waiting.push(tell),
            State::Open | State::Complete | State::Failed => {}
        }
    }

    fn whole(&self) -> Recorded {
        Recorded { data: Bytes::copy_from_slice(&self.data), trailers: self.trailers.clone() }
    }

    fn poll_sender(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(polled) = Pin::new(&mut self.sender).poll_frame(cx) else { return Poll::Pending };
        self.begun = true;
        match &polled {
            None => self.complete(),
            Some(Err(_)) => {
                self.state = State::Failed;
                self.waiting.clear();
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.remember(data);
                }
                if let Some(trailers) = frame.trailers_ref() {
                    self.trailers = Some(trailers.clone());
                }
                if self.sender.is_done() {
                    self.complete();
                }
            }
        }
        Poll::Ready(polled)
    }

    fn remember(&mut self, data: &Bytes) {
        if self.outgrown {
        } else if self.data.len() + data.len() > self.limit {
            self.outgrown = true;
            self.data = BytesMut::new();
            self.waiting.clear();
        } else {
            self.data.extend_from_slice(data);
        }
    }

    fn complete(&mut self) {
        self.state = State::Complete;
        if !self.waiting.is_empty() {
            let whole = self.whole();
            for tell in mem::take(&mut self.waiting) {
                let _ = tell.send(whole.clone());
            }
        }
    }
}

/// The body of one attempt.
pub(super) struct Attempt {
    record: Arc<Mutex<Record>>,
    number: u32,
    /// Bytes of the record that this attempt has sent.
    sent: usize,
    trailers_sent: bool,
}

impl Attempt {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut record = lock(&self.record);
        if record.current != self.number {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if self.sent < record.data.len() {
            let again = Bytes::copy_from_slice(&record.data[self.sent..]);
            self.sent = record.data.len();
            return Poll::Ready(Some(Ok(Frame::data(again))));
        }
        match record.state {
            State::Failed => Poll::Ready(Some(Err(BodyError::SenderGone))),
            State::Complete => {
                let trailers = record.trailers.clone().filter(|_| !mem::replace(&mut self.trailers_sent, true));
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            State::Open => {
                let polled = record.poll_sender(cx);
                self.sent = record.data.len();
                if let Poll::Ready(Some(Ok(frame))) = &polled {
                    self.trailers_sent |= frame.is_trailers();
                }
                polled
            }
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let record = lock(&self.record);
        record.current == self.number
            && record.state == State::Complete
            && self.sent >= record.data.len()
            && (self.trailers_sent || record.trailers.is_none())
    }

    /// What is left of the record and of the sender; exact where the sender's is.
    pub(super) fn size_hint(&self) -> SizeHint {
        let record = lock(&self.record);
        let again = record.data.len().saturating_sub(self.sent) as u64;
        let open = record.sender.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = open.upper() {
            hint.set_upper(upper + again);
        }
        hint.set_lower(open.lower() + again);
        hint
    }
}

#[cfg(test)]
mod tests;
