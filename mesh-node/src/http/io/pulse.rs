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
}

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
