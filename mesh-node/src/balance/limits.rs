//! How much of each kind a pod has open to a backend, and how much it may (Envoy's circuit breakers).

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use mesh_policy::model::RetryBudget;

use super::Backend;

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limited {
    /// `tcp.maxConnections`
    Connection,
    /// `http.http1MaxPendingRequests`: waiting for a connection.
    PendingRequest,
    /// `http.http2MaxRequests`
    Request,
    /// `http.maxRetries`, or `retryBudget` in its place.
    Retry,
}

impl Limited {
    pub const ALL: [Self; 4] = [Self::Connection, Self::PendingRequest, Self::Request, Self::Retry];

    /// As in Envoy's statistics: `upstream_cx_overflow` and so on.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "cx",
            Self::PendingRequest => "rq_pending",
            Self::Request => "rq",
            Self::Retry => "rq_retry",
        }
    }
}

/// As much is open as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{limit} open already, as many as the DestinationRule allows ({})", limited.as_str())]
pub struct Overflow {
    pub limited: Limited,
    pub limit: u32,
}

/// One that is open, until it is dropped.
#[must_use = "dropped, it is not counted any more"]
pub struct Permit {
    backend: Arc<Backend>,
    limited: Limited,
}

impl Permit {
    /// Counts one more, unless there are `most`.
    pub(super) fn take(backend: &Arc<Backend>, limited: Limited, most: u32) -> Result<Self, Overflow> {
        let more = |open: u32| (open < most).then(|| open + 1);
        match backend.gauges.of(limited).fetch_update(Relaxed, Relaxed, more) {
            Ok(_) => Ok(Self { backend: backend.clone(), limited }),
            Err(_) => Err(Overflow { limited, limit: most }),
        }
    }

    pub fn limited(&self) -> Limited {
        self.limited
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.backend.gauges.of(self.limited).fetch_sub(1, Relaxed);
    }
}

#[derive(Debug, Default)]
pub(super) struct Gauges {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
}

impl Gauges {
    fn of(&self, limited: Limited) -> &AtomicU32 {
        match limited {
            Limited::Connection => &self.connections,
            Limited::PendingRequest => &self.pending,
            Limited::Request => &self.requests,
            Limited::Retry => &self.retries,
        }
    }

    pub(super) fn read(&self, limited: Limited) -> u32 {
        self.of(limited).load(Relaxed)
    }
}

/// How many requests began of late: in the running stretch of `interval`, and in the one before as far as it is still
/// within an interval of now, taken as even.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Stretches>);

#[derive(Debug, Default)]
struct Stretches {
    began: Duration,
    current: u64,
    previous: u64,
}

impl Recent {
    pub(super) fn count_one(&self, interval: Duration, now: Duration) {
        let mut stretches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stretches.roll(interval, now);
        stretches.current += 1;
    }

    fn read(&self, interval: Duration, now: Duration) -> u64 {
        let mut stretches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stretches.roll(interval, now);
        let left = interval.saturating_sub(now.saturating_sub(stretches.began)).as_nanos();
        let still = u128::from(stretches.previous) * left / interval.as_nanos().max(1);
        stretches.current + u64::try_from(still).unwrap_or(u64::MAX)
    }
}

impl Stretches {
    fn roll(&mut self, interval: Duration, now: Duration) {
        let passed = now.saturating_sub(self.began);
        if passed >= 2 * interval {
            *self = Self { began: now, current: 0, previous: 0 };
        } else if passed >= interval {
            *self = Self { began: self.began + interval, current: 0, previous: self.current };
        }
    }
}

/// How many retries may run at once: a share of the requests that are open, or that began within the interval if those
/// are more and there is an interval; never less than the least.
pub(super) fn retries_allowed(budget: &RetryBudget, gauges: &Gauges, recent: &Recent, now: Duration) -> u32 {
    let RetryBudget { percent_centi, min_concurrency, interval } = budget;
    let open = u64::from(gauges.read(Limited::Request)) + u64::from(gauges.read(Limited::PendingRequest));
    let considered = if interval.is_zero() { open } else { open.max(recent.read(*interval, now)) };
    let share = considered * u64::from(*percent_centi) / 10_000;
    u32::try_from(share).unwrap_or(u32::MAX).max(*min_concurrency)
}
