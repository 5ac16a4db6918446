//! What each pod costs the shared proxy, and its fair share of a busy worker.
//!
//! Every future that serves a pod runs inside [`Metered`], which sums the time of its polls (two clock reads of 25 ns a
//! poll; the thread's CPU clock would cost 630 ns). Once a [`TICK`] the worker scales the sums by the CPU time that
//! its thread really had, and while it is saturated marks the pods over their share: a marked pod's futures give way
//! once before each poll, so that its neighbours' are served first.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use pin_project_lite::pin_project;

/// How often shares are judged.
pub const TICK: Duration = Duration::from_millis(100);

/// Of a worker's time, in thousandths: from here on it counts as saturated.
const SATURATED: u64 = 900;

/// One pod's use of one worker.
#[derive(Debug, Default)]
pub struct Cost {
    /// Nanoseconds of polls since the last tick, unscaled.
    polled: AtomicU64,
    /// Nanoseconds of CPU since the pod joined, scaled.
    total: AtomicU64,
    gives_way: AtomicBool,
}

impl Cost {
    /// CPU time that this pod cost this worker so far.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.total.load(Relaxed))
    }
}

/// Judges one tick of a worker: `cpu` is what its thread used, `costs` are the pods that live on it.
///
/// Returns how busy the worker was, in thousandths.
pub fn judge<'a>(elapsed: Duration, cpu: Duration, costs: impl Iterator<Item = &'a Arc<Cost>> + Clone) -> u64 {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let busy = nanos(cpu).saturating_mul(1000) / nanos(elapsed).max(1);
    let polled: u64 = costs.clone().map(|cost| cost.polled.load(Relaxed)).sum();
    let active = costs.clone().filter(|cost| cost.polled.load(Relaxed) > 0).count() as u64;
    let share = nanos(cpu) / active.max(1);
    for cost in costs {
        let used = cost.polled.swap(0, Relaxed);
        // What the thread did for nobody in particular is charged in proportion.
        let scaled = u64::try_from(u128::from(used) * u128::from(nanos(cpu)) / u128::from(polled.max(1))).unwrap_or(u64::MAX);
        cost.total.fetch_add(scaled, Relaxed);
        cost.gives_way.store(busy >= SATURATED && active > 1 && scaled > share, Relaxed);
    }
    busy
}

pin_project! {
    /// A future whose polls are charged to a pod.
    pub struct Metered<F> {
        cost: Arc<Cost>,
        gave_way: bool,
        #[pin]
        future: F,
    }
}

impl<F> Metered<F> {
    pub fn new(cost: Arc<Cost>, future: F) -> Self {
        Self { cost, gave_way: false, future }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if this.cost.gives_way.load(Relaxed) && !*this.gave_way {
            *this.gave_way = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        *this.gave_way = false;
        let start = Instant::now();
        let result = this.future.poll(cx);
        this.cost.polled.fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
        result
    }
}

/// Starts tasks of the present runtime, charged to a pod.
#[derive(Clone, Debug)]
pub struct Charged(Arc<Cost>);

impl Charged {
    pub fn new(cost: Arc<Cost>) -> Self {
        Self(cost)
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(tokio::spawn(Metered::new(self.0.clone(), task)));
    }
}

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Charged {
    fn execute(&self, task: F) {
        drop(tokio::spawn(Metered::new(self.0.clone(), task)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(nanos: u64) -> Arc<Cost> {
        Arc::new(Cost { polled: nanos.into(), ..Cost::default() })
    }

    #[test]
    fn only_the_pod_over_its_share_of_a_saturated_worker_gives_way() {
        let (greedy, modest, idle) = (used(80_000_000), used(10_000_000), used(0));
        let pods = [greedy.clone(), modest.clone(), idle.clone()];
        let busy = judge(TICK, Duration::from_millis(99), pods.iter());
        assert_eq!(busy, 990);
        assert!(greedy.gives_way.load(Relaxed));
        assert!(!modest.gives_way.load(Relaxed) && !idle.gives_way.load(Relaxed));
        // The thread's 99 ms are shared out in proportion, nothing is lost.
        assert_eq!(greedy.total() + modest.total(), Duration::from_millis(99));

        greedy.polled.store(80_000_000, Relaxed);
        judge(TICK, Duration::from_millis(50), pods.iter());
        assert!(!greedy.gives_way.load(Relaxed), "a worker with time to spare serves everybody");
    }

    #[test]
    fn a_pod_alone_never_gives_way() {
        let alone = used(100_000_000);
        judge(TICK, TICK, [alone.clone()].iter());
        assert!(!alone.gives_way.load(Relaxed));
    }
}
