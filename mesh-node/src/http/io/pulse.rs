//! When something was carried by a connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// When something was last carried, and since when a request's head is not whole.
#[derive(Debug)]
pub struct Pulse {
    start: Instant,
    /// Milliseconds since `start`.
    last: AtomicU64,
    /// The same, of the first byte of the head that is under way, plus one; 0: none is.
    head: AtomicU64,
    /// HTTP/1 is answering a request: what comes is its body, or waits.
    answering: AtomicBool,
    /// Bytes that a server of HTTP/1 has sent since it was asked; [`ANSWERED`]: its answer has begun.
    interim: AtomicU64,
}

const ANSWERED: u64 = u64::MAX;

/// So much a server of HTTP/1 may say before its answer: interim answers, and the answer's head. Those who would say them
/// for ever are not found out otherwise, as nothing of it goes to the client, which may be gone.
const MOST_INTERIM: u64 = 1024 * 1024;

/// HTTP/1 answers a request as long as this lives.
pub(in crate::http) struct Answering(Arc<Pulse>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.store(false, Relaxed);
    }
}

impl Pulse {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
            head: AtomicU64::new(0),
            answering: AtomicBool::new(false),
            interim: AtomicU64::new(ANSWERED),
        })
    }

    pub(super) fn beat(&self) {
        self.last.store(self.now(), Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn waits_for_head(&self, waits: bool) {
        if !waits {
            self.head.store(0, Relaxed);
        } else if self.head.load(Relaxed) == 0 {
            self.head.store(self.now().saturating_add(1), Relaxed);
        }
    }

    /// A head of HTTP/1 is whole.
    pub(in crate::http) fn answering(self: &Arc<Self>) -> Answering {
        self.waits_for_head(false);
        self.answering.store(true, Relaxed);
        Answering(self.clone())
    }

    /// A server of HTTP/1 is asked; `answered` is to follow.
    pub(in crate::http) fn asked(&self) {
        self.interim.store(0, Relaxed);
    }

    /// The head of its answer has come.
    pub(in crate::http) fn answered(&self) {
        self.interim.store(ANSWERED, Relaxed);
    }

    /// So many bytes were read. False: there is no answer to be expected among so many.
    pub(super) fn may_go_on(&self, read: usize) -> bool {
        let before = self.interim.load(Relaxed);
        if before == ANSWERED {
            return true;
        }
        let now = before.saturating_add(read as u64);
        self.interim.store(now, Relaxed);
        now <= MOST_INTERIM
    }

    pub(super) fn is_answering(&self) -> bool {
        self.answering.load(Relaxed)
    }

    /// For how long a head has been coming that is not whole yet.
    pub fn head_age(&self) -> Option<Duration> {
        let begun = self.head.load(Relaxed).checked_sub(1)?;
        Some(self.start.elapsed().saturating_sub(Duration::from_millis(begun)))
    }

    /// For how long nothing has been carried, to the millisecond.
    pub fn silence(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last.load(Relaxed)))
    }
}
