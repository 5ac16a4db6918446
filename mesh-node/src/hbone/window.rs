//! How much may be on its way to us: a stream's window, its growth, and the sum of a pod.
//!
//! HTTP/2 gives every stream a window; what a reader has not taken yet is memory of this node. Three rules bound it:
//! a stream begins with [`STREAM_WINDOW`]; it grows to [`MAX_STREAM_WINDOW`] when a reader takes a whole window within
//! two round trips; and while the pod holds more than its [`Budget`], what streams have taken is not given back beyond
//! [`FLOOR`], so that nobody starves and nobody grows.
//!
//! h2 (0.4.20) can not widen one stream: SETTINGS_INITIAL_WINDOW_SIZE moves all streams of a connection together. A
//! connection belongs to one pair of pods, and the budget bounds the pod, so that is accepted here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::settings::{MAX_STREAM_WINDOW, STREAM_WINDOW};

/// The window that a stream keeps however full the pod's budget is.
pub const FLOOR: usize = 32 * 1024;

/// Bytes that one pod may have waiting in all its streams together. A soft bound: see the module.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// What a pod gets when nothing else is set: 64 MiB.
    pub const DEFAULT: usize = 64 * 1024 * 1024;

    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    /// Bytes that wait: received and not delivered, or read from an application and not taken by the tunnel.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    pub fn is_over(&self) -> bool {
        self.used() > self.limit
    }
}

/// What one stream has of a budget. Given back on drop.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Arc<Budget>,
    held: usize,
}

impl Charge {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, held: 0 }
    }

    pub(super) fn set(&mut self, held: usize) {
        if held == self.held {
            return;
        }
        if held > self.held {
            self.budget.used.fetch_add(held - self.held, Relaxed);
        } else {
            self.budget.used.fetch_sub(self.held - held, Relaxed);
        }
        self.held = held;
    }

    pub(super) fn is_over(&self) -> bool {
        self.budget.is_over()
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The windows of one connection's streams, shared by the streams and the connection task.
#[derive(Debug)]
pub(super) struct Windows {
    current: AtomicU32,
    wanted: AtomicBool,
    /// The shortest round trip seen, in microseconds; `u64::MAX` until the first ping came back.
    round_trip: AtomicU64,
}

impl Windows {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            current: AtomicU32::new(STREAM_WINDOW),
            wanted: AtomicBool::new(false),
            round_trip: AtomicU64::new(u64::MAX),
        })
    }

    pub(super) fn current(&self) -> usize {
        self.current.load(Relaxed) as usize
    }

    pub(super) fn note_round_trip(&self, measured: Duration) {
        self.round_trip.fetch_min(u64::try_from(measured.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// A reader took a whole window in `took`: when that is two round trips or less, the window is what limits it.
    fn note_window_taken(&self, took: Duration) {
        let round_trip = self.round_trip.load(Relaxed);
        let limited = round_trip != u64::MAX && took.as_micros() <= u128::from(round_trip) * 2;
        if limited && self.current.load(Relaxed) < MAX_STREAM_WINDOW {
            self.wanted.store(true, Relaxed);
        }
    }

    /// The next size to announce, if a reader asked for more since the last call.
    pub(super) fn next(&self) -> Option<u32> {
        if !self.wanted.load(Relaxed) || !self.wanted.swap(false, Relaxed) {
            return None;
        }
        let current = self.current.load(Relaxed);
        (current < MAX_STREAM_WINDOW).then(|| (current * 2).min(MAX_STREAM_WINDOW))
    }

    pub(super) fn announced(&self, size: u32) {
        self.current.store(size, Relaxed);
    }
}

/// How fast one stream's reader takes its windows.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    taken: usize,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), taken: 0 }
    }

    /// One look at the clock a window, not a read.
    pub(super) fn took(&mut self, bytes: usize, windows: &Windows) {
        self.taken += bytes;
        if self.taken >= windows.current() {
            let now = Instant::now();
            windows.note_window_taken(now - self.since);
            *self = Self { since: now, taken: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_are_given_back() {
        let budget = Budget::new(100);
        let (mut a, mut b) = (Charge::new(Arc::clone(&budget)), Charge::new(Arc::clone(&budget)));
        a.set(80);
        b.set(40);
        assert!(budget.is_over());
        a.set(10);
        assert_eq!(budget.used(), 50);
        drop(b);
        drop(a);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_window_grows_only_for_a_reader_that_it_limits() {
        let windows = Windows::new();
        windows.note_window_taken(Duration::ZERO);
        assert_eq!(windows.next(), None, "no round trip is known yet");
        windows.note_round_trip(Duration::from_millis(10));
        windows.note_window_taken(Duration::from_millis(21));
        assert_eq!(windows.next(), None, "the reader is slower than the window allows");
        for expected in [512 * 1024, 1024 * 1024] {
            windows.note_window_taken(Duration::from_millis(20));
            assert_eq!(windows.next(), Some(expected));
            windows.announced(expected);
            assert_eq!(windows.next(), None);
        }
        windows.note_window_taken(Duration::ZERO);
        assert_eq!(windows.next(), None, "1 MiB is the most");
    }
}
