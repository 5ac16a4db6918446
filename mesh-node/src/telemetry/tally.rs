//! What one request and its answer carried, counted while it is carried.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::path::Path;

/// A stream's messages are told at least so often while it is open (Istio's `tcp_reporting_duration`).
const REPORT: Duration = Duration::from_secs(5);

/// Which of the two bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}

/// Both bodies of one exchange, as one half sees them.
#[derive(Debug)]
pub struct Tallies {
    request: Tally,
    response: Tally,
    streamed: Mutex<Streamed>,
}

#[derive(Debug, Default)]
struct Tally {
    /// Bytes of the body, without framing.
    bytes: AtomicU64,
    /// Messages of gRPC.
    messages: AtomicU64,
}

/// What has been told of an open stream's messages.
#[derive(Debug)]
struct Streamed {
    path: Option<Arc<Path>>,
    told: (u64, u64),
    last: Instant,
}

impl Tallies {
    pub(super) fn new() -> Arc<Self> {
        let streamed = Streamed { path: None, told: (0, 0), last: Instant::now() };
        Arc::new(Self { request: Tally::default(), response: Tally::default(), streamed: Mutex::new(streamed) })
    }

    pub fn bytes(&self, side: Side) -> u64 {
        self.side(side).bytes.load(Relaxed)
    }

    pub fn messages(&self, side: Side) -> u64 {
        self.side(side).messages.load(Relaxed)
    }

    pub fn add(&self, side: Side, bytes: u64, messages: u64) {
        let tally = self.side(side);
        tally.bytes.fetch_add(bytes, Relaxed);
        if messages > 0 {
            tally.messages.fetch_add(messages, Relaxed);
            self.tell(false);
        }
    }

    /// From now on messages are counted for this path.
    pub(super) fn follow(&self, path: &Arc<Path>) {
        self.streamed.lock().unwrap_or_else(PoisonError::into_inner).path = Some(path.clone());
    }

    /// Adds to the metrics what they have not been told of; `now`, or only when it is time.
    pub(super) fn tell(&self, now: bool) {
        let found = (self.messages(Side::Request), self.messages(Side::Response));
        if found == (0, 0) {
            return;
        }
        let mut streamed = self.streamed.lock().unwrap_or_else(PoisonError::into_inner);
        if !now && streamed.last.elapsed() < REPORT {
            return;
        }
        streamed.last = Instant::now();
        if let Some(path) = &streamed.path {
            path.messages(found.0.saturating_sub(streamed.told.0), found.1.saturating_sub(streamed.told.1));
            streamed.told = found;
        }
    }

    fn side(&self, side: Side) -> &Tally {
        match side {
            Side::Request => &self.request,
            Side::Response => &self.response,
        }
    }
}
