//! Carrying the bytes of a connection that stands, for as long as it may.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use mesh_policy::model::ConnectionLimits;
use tokio::{
    net::TcpStream,
    time::{sleep, sleep_until},
};

use crate::{
    balance::Permit,
    copy::{self, End, Meter},
    enrol::pod::InFlightGuard,
    hbone::{self, H2Stream},
    reason::{Failure, Reason},
    telemetry::Tracked,
};

/// A connection to the destination, described and counted.
pub(super) enum Upstream {
    Tcp(TcpStream, Tracked),
    /// Both halves are served here.
    SameNode(TcpStream, (Tracked, Tracked)),
    Hbone(H2Stream, Tracked),
}

/// A connection to the destination, and what counts for as long as it is carried.
pub(super) struct Connected {
    pub(super) upstream: Upstream,
    pub(super) lifetime: Lifetime,
    pub(super) _in_flight: Option<InFlightGuard>,
    pub(super) _permit: Option<Permit>,
}

impl Connected {
    /// Copies until both directions have ended, a policy change ends the connection, or its time is over.
    pub(super) async fn carry(self, app: &mut TcpStream) {
        let Self { upstream, lifetime, _in_flight, _permit } = self;
        let activity = Activity::new(lifetime.idle.is_some());
        match upstream {
            Upstream::Tcp(mut stream, tracked) => {
                let meter = Noticed { activity: &activity, meter: &tracked };
                let failure = tokio::select! {
                    result = copy::bidirectional(app, &mut stream, &meter) => result.err().map(|error| broken(&error)),
                    failure = lifetime.is_over(&activity) => Some(failure),
                };
                tracked.close(failure.as_ref());
            }
            Upstream::SameNode(mut stream, halves) => {
                let meter = Noticed { activity: &activity, meter: &halves };
                let failure = tokio::select! {
                    // First: what is denied already carries nothing.
                    biased;
                    () = halves.1.revoked() => Some(Reason::PolicyRevoked.into()),
                    result = copy::bidirectional(app, &mut stream, &meter) => result.err().map(|error| broken(&error)),
                    failure = lifetime.is_over(&activity) => Some(failure),
                };
                halves.0.close(failure.as_ref());
                halves.1.close(failure.as_ref());
            }
            Upstream::Hbone(stream, tracked) => {
                let meter = Noticed { activity: &activity, meter: &tracked };
                let failure = tokio::select! {
                    result = hbone::copy_bidirectional(app, stream, &meter) => result.err().map(|error| broken(&error)),
                    failure = lifetime.is_over(&activity) => Some(failure),
                };
                tracked.close(failure.as_ref());
            }
        }
    }
}

/// How a copy error is reported.
pub(crate) fn broken(error: &copy::CopyError) -> Failure {
    let reason = match error.end {
        End::Downstream => Reason::ClientReset,
        End::Upstream => Reason::ServerReset,
    };
    Failure::new(reason, error.source.to_string())
}

/// How long a connection is carried; None: until either end closes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetime {
    /// Without a byte.
    idle: Option<Duration>,
    most: Option<Duration>,
}

impl Lifetime {
    pub(super) fn of(limits: &ConnectionLimits) -> Self {
        Self { idle: limits.tcp_idle_timeout, most: limits.max_connection_duration }
    }

    /// Completes when the connection has stood, or was silent, for too long.
    async fn is_over(&self, activity: &Activity) -> Failure {
        let ended = async {
            match self.most {
                Some(most) => sleep_until((activity.begun + most).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = ended => Failure::new(Reason::ConnectionDuration, "connectionPool.tcp.maxConnectionDuration"),
            () = self.is_idle(activity) => Failure::new(Reason::ConnectionIdle, "connectionPool.tcp.idleTimeout"),
        }
    }

    async fn is_idle(&self, activity: &Activity) {
        let Some(idle) = self.idle else { return std::future::pending().await };
        loop {
            let left = idle.saturating_sub(activity.silence());
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

/// When bytes were carried last.
struct Activity {
    begun: Instant,
    /// Whether anybody asks.
    asked: bool,
    /// In milliseconds since the beginning.
    last: AtomicU64,
}

impl Activity {
    fn new(asked: bool) -> Self {
        Self { begun: Instant::now(), asked, last: AtomicU64::new(0) }
    }

    fn notice(&self) {
        if self.asked {
            self.last.store(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    fn silence(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.last.load(Relaxed)))
    }
}

/// Counts, and notices that there was something to count.
struct Noticed<'a, M> {
    activity: &'a Activity,
    meter: &'a M,
}

impl<M: Meter> Meter for Noticed<'_, M> {
    fn sent(&self, bytes: u64) {
        self.activity.notice();
        self.meter.sent(bytes);
    }

    fn received(&self, bytes: u64) {
        self.activity.notice();
        self.meter.received(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(idle_ms: Option<u64>, most_ms: Option<u64>) -> Lifetime {
        let duration = |ms: Option<u64>| ms.map(Duration::from_millis);
        let (tcp_idle_timeout, max_connection_duration) = (duration(idle_ms), duration(most_ms));
        Lifetime::of(&ConnectionLimits { tcp_idle_timeout, max_connection_duration, ..ConnectionLimits::default() })
    }

    #[tokio::test]
    async fn a_silent_connection_ends_and_one_that_speaks_does_not() {
        let lifetime = limits(Some(300), None);
        let activity = Activity::new(true);
        // Whoever speaks every now and then is still there long after.
        let speaks = async {
            while activity.begun.elapsed() < Duration::from_millis(900) {
                activity.notice();
                sleep(Duration::from_millis(10)).await;
            }
            activity.begun.elapsed()
        };
        let (spoke, failure) = tokio::join!(speaks, lifetime.is_over(&activity));
        assert_eq!(failure.reason, Reason::ConnectionIdle);
        assert!(activity.begun.elapsed() >= spoke, "it ended while it spoke");
        assert!(activity.silence() >= Duration::from_millis(299));
    }

    #[tokio::test]
    async fn a_connection_ends_when_it_has_stood_long_enough_whatever_it_carries() {
        let activity = Activity::new(false);
        let failure = limits(None, Some(200)).is_over(&activity).await;
        assert_eq!(failure.reason, Reason::ConnectionDuration);
        assert!(activity.begun.elapsed() >= Duration::from_millis(200));
    }

    #[tokio::test]
    async fn nothing_ends_by_itself() {
        let activity = Activity::new(false);
        let lifetime = limits(None, None);
        let over = lifetime.is_over(&activity);
        assert!(futures_util::FutureExt::now_or_never(over).is_none());
    }
}
