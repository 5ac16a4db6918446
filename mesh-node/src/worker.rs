//! The threads that carry traffic: one single-threaded runtime a core.
//!
//! A pod has a home worker that holds its listeners and tunnels. When the home is clearly busier than another worker,
//! new connections of the pod are handed to that one. Measured on HBONE at 64 connections, one multi-thread runtime
//! costs 1.2 to 1.3 times Envoy's CPU and this shape 0.7 to 1.0 times.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Instant,
};

use nix::time::{ClockId, clock_gettime};

use crate::metered::{self, Cost, TICK};

/// Which worker; an index below [`Workers::count`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkerId(pub usize);

/// How much busier (in thousandths) the home must be than another worker before a connection is handed over.
const HAND_OVER: u64 = 250;

/// The set of workers; threads end when it is dropped.
pub struct Workers {
    workers: Vec<Worker>,
    next_home: AtomicUsize,
}

struct Worker {
    runtime: tokio::runtime::Handle,
    load: Arc<Load>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

#[derive(Default)]
struct Load {
    /// Thousandths of the last tick.
    busy: AtomicU64,
    costs: Mutex<Vec<Weak<Cost>>>,
}

impl Workers {
    /// Starts `count` threads (at least one).
    pub fn start(count: usize) -> io::Result<Self> {
        let workers = (0..count.max(1)).map(Worker::start).collect::<io::Result<_>>()?;
        Ok(Self { workers, next_home: AtomicUsize::new(0) })
    }

    pub fn count(&self) -> usize {
        self.workers.len()
    }

    pub fn ids(&self) -> impl Iterator<Item = WorkerId> + use<> {
        (0..self.workers.len()).map(WorkerId)
    }

    /// The home of the next pod: in turn, since what a pod will cost is not known when it joins.
    pub fn home(&self) -> WorkerId {
        WorkerId(self.next_home.fetch_add(1, Relaxed) % self.workers.len())
    }

    pub fn runtime(&self, worker: WorkerId) -> &tokio::runtime::Handle {
        &self.workers[worker.0].runtime
    }

    /// The worker that should take a new connection of a pod that lives on `home`.
    pub fn pick(&self, home: WorkerId) -> WorkerId {
        let busy = |id: &WorkerId| self.workers[id.0].load.busy.load(Relaxed);
        let least = self.ids().min_by_key(busy).unwrap_or(home);
        if busy(&home) > busy(&least) + HAND_OVER { least } else { home }
    }

    /// A cost account on a worker, judged with the others there until it is dropped.
    pub fn account(&self, worker: WorkerId) -> Arc<Cost> {
        let cost = Arc::new(Cost::default());
        let mut costs = self.workers[worker.0].load.costs.lock().unwrap_or_else(PoisonError::into_inner);
        costs.push(Arc::downgrade(&cost));
        cost
    }

    /// How busy each worker was in the last tick, in thousandths.
    pub fn busy(&self) -> Vec<u64> {
        self.workers.iter().map(|worker| worker.load.busy.load(Relaxed)).collect()
    }
}

impl Worker {
    fn start(index: usize) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let load = Arc::new(Load::default());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let ticking = load.clone();
        thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    () = ticking.tick() => {}
                    // Either a message or the sender's end: the workers are gone.
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { runtime: handle, load, _stop: stop })
    }
}

impl Load {
    async fn tick(&self) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut at, mut cpu) = (Instant::now(), thread_cpu());
        loop {
            interval.tick().await;
            let (now, cpu_now) = (Instant::now(), thread_cpu());
            let live: Vec<Arc<Cost>> = {
                let mut costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
                costs.retain(|cost| cost.strong_count() > 0);
                costs.iter().filter_map(Weak::upgrade).collect()
            };
            self.busy.store(metered::judge(now - at, cpu_now.saturating_sub(cpu), live.iter()), Relaxed);
            (at, cpu) = (now, cpu_now);
        }
    }
}

fn thread_cpu() -> std::time::Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Into::into).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_home_hands_over_and_a_calm_one_keeps() {
        let workers = Workers::start(2).expect("threads");
        let (first, second) = (workers.home(), workers.home());
        assert_ne!(first, second);
        let set = |worker: WorkerId, busy| workers.workers[worker.0].load.busy.store(busy, Relaxed);
        set(first, 900);
        set(second, 100);
        assert_eq!(workers.pick(first), second);
        set(second, 800);
        assert_eq!(workers.pick(first), first);
    }
}
