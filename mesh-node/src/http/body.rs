//! The one type of body on the way through: counted, bounded in time, and with somebody to tell when it ends.
//!
//! A body from a peer is passed on frame by frame without a copy; frames without anything in them are not (a peer with h2 may
//! take them for a flood), and an end that its sender did not mean is told as a failure. [`Body::counted`] adds its bytes
//! and gRPC messages to a half's tallies, [`Body::on_end`] tells its end exactly once, whether it was complete, failed, or was
//! given up, and [`Body::within`] breaks it off when it takes too long.

mod error;

use std::{
    fmt, mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Version, header::CONTENT_TYPE};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

pub use self::error::{BodyError, SenderError};
use super::replay::Attempt;
pub use crate::telemetry::{Ending, is_grpc};
use crate::telemetry::{Side, Tallies};

/// What the hook of a body is told.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    pub how: Ending,
    pub trailers: Option<&'a HeaderMap>,
}

type Hook = Box<dyn FnOnce(Ended<'_>) + Send>;

/// A body of either direction.
pub struct Body {
    source: Source,
    meter: Option<Box<Meter>>,
    limits: Option<Pin<Box<Limits>>>,
    hook: Option<Hook>,
    /// A frame is the last one, or an error has been told.
    ended: bool,
    /// Something was asked for before: what goes ahead of the body, its head, has been written.
    asked: bool,
    /// Found at the first look, and told at the next.
    failed: Option<Box<BodyError>>,
}

enum Source {
    Bytes(Bytes),
    Incoming { body: Incoming, http2: bool },
    Attempt(Attempt),
}

impl Body {
    /// Of a message that came in `version`.
    pub fn received(body: Incoming, version: Version) -> Self {
        Self::of(Source::Incoming { body, http2: version == Version::HTTP_2 })
    }

    pub fn empty() -> Self {
        Self::full(Bytes::new())
    }

    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::of(Source::Bytes(bytes.into()))
    }

    pub(super) fn attempt(attempt: Attempt) -> Self {
        Self::of(Source::Attempt(attempt))
    }

    fn of(source: Source) -> Self {
        Self { source, meter: None, limits: None, hook: None, ended: false, asked: false, failed: None }
    }

    /// Adds what passes to `tallies`; may be called for each half. `content_type` is that of the body's own message: messages
    /// are counted where it is gRPC's.
    #[must_use]
    pub fn counted(mut self, tallies: Arc<Tallies>, side: Side, content_type: Option<&HeaderValue>) -> Self {
        if let Some(meter) = &mut self.meter {
            meter.also.push((tallies, side));
        } else {
            let framing = is_grpc(content_type).then(Framing::default);
            self.meter = Some(Box::new(Meter { framing, tallies, side, also: Vec::new() }));
        }
        self
    }

    /// Calls `hook` once: when the last frame has been passed on, when the body fails, or when it is dropped before. A body
    /// that already has a hook calls the earlier one first.
    #[must_use]
    pub fn on_end(mut self, hook: impl FnOnce(Ended<'_>) + Send + 'static) -> Self {
        self.hook = Some(match self.hook.take() {
            None => Box::new(hook),
            Some(first) => Box::new(move |ended| {
                first(ended);
                hook(ended);
            }),
        });
        self
    }

    /// Holds `guard` until the body ends.
    #[must_use]
    pub fn holding<T: Send + 'static>(self, guard: T) -> Self {
        self.on_end(move |_| drop(guard))
    }

    /// Breaks the body off when no frame has come for `idle`, or when it has not ended by `deadline`. Time that the receiver
    /// takes counts as well: a reader that stalls holds the connection as much as a writer does.
    #[must_use]
    pub fn within(mut self, idle: Option<Duration>, deadline: Option<Instant>) -> Self {
        if idle.is_some() || deadline.is_some() {
            self.limits = Some(Box::pin(Limits::new(idle, deadline)));
        }
        self
    }

    /// A request's body, which breaks off when its client sends nothing for `idle`, with a look at whether it has. gRPC's may be
    /// silent: its streams wait for what happens.
    #[must_use]
    pub(super) fn of_request(self, headers: &HeaderMap, idle: Duration) -> (Self, Stall) {
        if self.is_done() || speaks_grpc(headers) {
            return (self, Stall(None));
        }
        let stalled = Arc::new(AtomicBool::new(false));
        let tell = stalled.clone();
        let body = self.within(Some(idle), None).on_end(move |ended| tell.store(ended.how == Ending::Idle, Relaxed));
        (body, Stall(Some((stalled, idle))))
    }

    /// Whether there is nothing (more) to come. False for a body whose end is not known yet.
    pub fn is_done(&self) -> bool {
        self.ended || self.source.is_end_stream()
    }

    fn end(&mut self, how: Ending, trailers: Option<&HeaderMap>) {
        self.ended = true;
        self.limits = None;
        if let Some(hook) = self.hook.take() {
            hook(Ended { how, trailers });
        }
    }

    fn poll_in_time(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.source.poll_frame(cx);
        match (&polled, &mut self.limits) {
            (Poll::Pending, Some(limits)) => limits.as_mut().poll_over(cx).map(|over| Some(Err(over))),
            (Poll::Ready(_), Some(limits)) => {
                limits.as_mut().frame();
                polled
            }
            (_, None) => polled,
        }
    }
}

/// Whether the client has left its request's body unfinished for too long.
pub(super) struct Stall(Option<(Arc<AtomicBool>, Duration)>);

impl Stall {
    /// How long was waited.
    pub(super) fn after(&self) -> Option<Duration> {
        self.0.as_ref().filter(|(stalled, _)| stalled.load(Relaxed)).map(|(_, idle)| *idle)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        // Told at once, a failure overtakes the head, which hyper has written and not sent yet: the receiver would not learn
        // that there was an answer.
        let first = !mem::replace(&mut this.asked, true);
        let polled = loop {
            let polled = match this.failed.take() {
                Some(failed) => Poll::Ready(Some(Err(*failed))),
                None => this.poll_in_time(cx),
            };
            let polled = ready!(polled);
            if first && let Some(Err(error)) = polled {
                this.failed = Some(Box::new(error));
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let is_empty = |frame: &Frame<Bytes>| frame.data_ref().is_some_and(Bytes::is_empty);
            if !matches!(&polled, Some(Ok(frame)) if is_empty(frame) && !this.source.is_end_stream()) {
                break polled;
            }
        };
        match &polled {
            None => this.end(Ending::Complete, None),
            Some(Err(error)) => this.end(error.ending(), None),
            Some(Ok(frame)) => {
                if let (Some(data), Some(meter)) = (frame.data_ref(), &mut this.meter) {
                    meter.count(data);
                }
                if let Some(trailers) = frame.trailers_ref() {
                    this.end(Ending::Complete, Some(trailers));
                } else if this.source.is_end_stream() {
                    this.end(Ending::Complete, None);
                }
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        if self.ended { SizeHint::with_exact(0) } else { self.source.size_hint() }
    }
}

/// A body that has nothing to say (of HEAD, 204 or 304) is never asked for a frame: it was complete from the start.
impl Drop for Body {
    fn drop(&mut self) {
        if !self.ended {
            let how = if self.source.is_end_stream() { Ending::Complete } else { Ending::Aborted };
            self.end(how, None);
        }
    }
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Bytes(bytes) => Poll::Ready(Some(Ok(Frame::data(mem::take(bytes))))),
            Self::Incoming { body, http2 } => Poll::Ready(match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                None if *http2 && !body.is_end_stream() => Some(Err(BodyError::Cut)),
                polled => polled.map(|frame| frame.map_err(BodyError::of_sender)),
            }),
            Self::Attempt(attempt) => attempt.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::Incoming { body, .. } => body.is_end_stream(),
            Self::Attempt(attempt) => attempt.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Incoming { body, .. } => body.size_hint(),
            Self::Attempt(attempt) => attempt.size_hint(),
        }
    }
}

/// [`is_grpc`] of a message's headers.
pub fn speaks_grpc(headers: &HeaderMap) -> bool {
    is_grpc(headers.get(CONTENT_TYPE))
}

struct Meter {
    framing: Option<Framing>,
    tallies: Arc<Tallies>,
    side: Side,
    /// Of the other half, where both are on this node.
    also: Vec<(Arc<Tallies>, Side)>,
}

impl Meter {
    fn count(&mut self, data: &Bytes) {
        let bytes = data.len() as u64;
        let messages = self.framing.as_mut().map_or(0, |framing| framing.count(data));
        self.tallies.add(self.side, bytes, messages);
        for (tallies, side) in &self.also {
            tallies.add(*side, bytes, messages);
        }
    }
}

/// Where a stream of length-prefixed messages stands: a flag, four bytes of length, the message (gRPC over HTTP/2,
/// `Length-Prefixed-Message`).
#[derive(Debug, Default)]
struct Framing {
    /// Bytes of the prefix that have been read.
    prefix: u8,
    /// Read so far of the length; then what is left of the message.
    left: u32,
}

impl Framing {
    const PREFIX: u8 = 5;

    /// How many messages begin in `data`.
    fn count(&mut self, mut data: &[u8]) -> u64 {
        let mut begun = 0;
        while let Some((first, rest)) = data.split_first() {
            match self.prefix {
                0 => {
                    begun += 1;
                    (self.prefix, self.left, data) = (1, 0, rest);
                }
                Self::PREFIX => {
                    let skipped = data.len().min(self.left as usize);
                    self.left -= skipped as u32;
                    data = &data[skipped..];
                }
                _ => {
                    self.left = (self.left << 8) | u32::from(*first);
                    self.prefix += 1;
                    data = rest;
                }
            }
            if self.prefix == Self::PREFIX && self.left == 0 {
                self.prefix = 0;
            }
        }
        begun
    }
}

pin_project_lite::pin_project! {
    /// One timer for both limits: moved only when it fires.
    struct Limits {
        idle: Option<Duration>,
        deadline: Option<Instant>,
        last: Instant,
        #[pin]
        sleep: Sleep,
    }
}

impl Limits {
    fn new(idle: Option<Duration>, deadline: Option<Instant>) -> Self {
        let last = Instant::now();
        let first = Self::next(idle, deadline, last).unwrap_or(last);
        Self { idle, deadline, last, sleep: sleep_until(first) }
    }

    fn next(idle: Option<Duration>, deadline: Option<Instant>, last: Instant) -> Option<Instant> {
        let idle = idle.map(|idle| last + idle);
        idle.into_iter().chain(deadline).min()
    }

    fn frame(self: Pin<&mut Self>) {
        *self.project().last = Instant::now();
    }

    fn poll_over(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<BodyError> {
        let mut this = self.project();
        loop {
            if this.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if this.deadline.is_some_and(|deadline| deadline <= now) {
                return Poll::Ready(BodyError::Deadline);
            }
            if let Some(idle) = this.idle.filter(|idle| *this.last + *idle <= now) {
                return Poll::Ready(BodyError::Idle(idle));
            }
            let Some(next) = Self::next(*this.idle, *this.deadline, *this.last) else { return Poll::Pending };
            this.sleep.as_mut().reset(next);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
