//! The tunnels of one key, and those who wait for a place in them.
//!
//! First come, first served: a place that a stream gives back or a new tunnel brings goes to whoever has waited longest,
//! and newcomers go behind them. As long as somebody waits, a handshake is under way; more of them for more who wait,
//! within a bound. Each carries an equal share of those who wait: one that fails takes its share along, the oldest first.
//! So all fail together when the only one does, and few when it was one of many.
//!
//! Whoever gives up drops his end of a channel. A place that was on its way to him goes to the next.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    client::{Place, Tunnel},
    error::HboneError,
    pool::{PoolKey, TunnelSnapshot},
};
use crate::identity::TlsIdentity;

/// Handshakes for one key that are under way at once.
const MAX_HANDSHAKES: usize = 8;

pub(super) struct Queue {
    key: PoolKey,
    /// How many streams a new tunnel is expected to take.
    batch: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What tunnels are made with; those made with another one take no new streams.
    tls: Option<Arc<TlsIdentity>>,
    tunnels: Vec<Tunnel>,
    waiters: VecDeque<oneshot::Sender<Served>>,
    handshakes: usize,
}

type Served = Result<Place, HboneError>;

/// What is there for a newcomer.
pub(super) enum Reserved {
    Place(Place),
    /// Dropped, the place goes to the next. The handshakes that [`Queue::begin`] then wants must be begun.
    Wait(oneshot::Receiver<Served>),
}

impl Queue {
    pub(super) fn new(key: PoolKey, batch: usize) -> Self {
        Self { key, batch: batch.max(1), state: Mutex::default() }
    }

    pub(super) fn key(&self) -> &PoolKey {
        &self.key
    }

    /// A place in a tunnel made with `tls`, or in the line for one.
    pub(super) fn reserve(self: &Arc<Self>, tls: &Arc<TlsIdentity>) -> Reserved {
        let mut state = self.state();
        state.renew(tls);
        if state.waiters.is_empty()
            && let Some(place) = state.place(self)
        {
            return Reserved::Place(place);
        }
        let (waiter, served) = oneshot::channel();
        state.waiters.push_back(waiter);
        drop(state);
        // A peer may have come to allow more streams than when the line began.
        self.serve();
        Reserved::Wait(served)
    }

    /// Gives free places to those who wait. Called whenever there may be one.
    pub(super) fn serve(self: &Arc<Self>) {
        // Declared before the guard, so dropped after it: a place that is dropped comes here.
        let mut refused = None;
        let mut state = self.state();
        while let Some(waiter) = state.waiters.pop_front() {
            let Some(place) = refused.take().or_else(|| state.place(self)) else {
                state.waiters.push_front(waiter);
                break;
            };
            if let Err(Ok(place)) = waiter.send(Ok(place)) {
                refused = Some(place);
            }
        }
    }

    /// One more handshake, if those under way are too few for those who wait.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Handshake> {
        let mut state = self.state();
        let wanted = |waiters: usize| waiters.div_ceil(self.batch).min(MAX_HANDSHAKES);
        if state.handshakes >= wanted(state.waiters.len()) {
            return None;
        }
        state.forget_who_gave_up();
        if state.handshakes >= wanted(state.waiters.len()) {
            return None;
        }
        let tls = Arc::clone(state.tls.as_ref()?);
        state.handshakes += 1;
        Some(Handshake { queue: Arc::clone(self), tls, over: false })
    }

    /// A tunnel is over.
    pub(super) fn remove(&self, tunnel: &Tunnel) {
        self.state().tunnels.retain(|other| other.id() != tunnel.id());
    }

    /// Closes a tunnel that has had no stream for a while, unless it is the one that the next stream would go into.
    pub(super) fn retire_if_spare(&self, tunnel: &Tunnel, idle: Duration) {
        let state = self.state();
        let first = state.tunnels.iter().find(|other| other.has_place());
        if first.is_some_and(|first| first.id() != tunnel.id()) {
            tunnel.retire_if_idle(idle);
        }
    }

    /// Opens no more streams in any of its tunnels. Open streams go on, and who waits gets a new one.
    pub(super) fn retire(&self) {
        self.state().retire();
    }

    pub(super) fn is_empty(&self) -> bool {
        let State { tls: _, tunnels, waiters, handshakes } = &*self.state();
        tunnels.is_empty() && waiters.is_empty() && *handshakes == 0
    }

    pub(super) fn snapshot(&self) -> Vec<TunnelSnapshot> {
        let state = self.state();
        let open = state.tunnels.iter().filter(|tunnel| tunnel.is_open());
        open.map(|tunnel| TunnelSnapshot { address: tunnel.address(), peer: tunnel.peer().clone(), streams: tunnel.streams() })
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn renew(&mut self, tls: &Arc<TlsIdentity>) {
        if !self.is_current(tls) {
            self.tls = Some(Arc::clone(tls));
            self.retire();
        }
    }

    fn is_current(&self, tls: &Arc<TlsIdentity>) -> bool {
        self.tls.as_ref().is_some_and(|current| Arc::ptr_eq(current, tls))
    }

    fn retire(&mut self) {
        self.tunnels.drain(..).for_each(|tunnel| tunnel.retire());
    }

    fn place(&self, queue: &Arc<Queue>) -> Option<Place> {
        Some(self.tunnels.iter().find_map(Tunnel::reserve)?.returning_to(queue))
    }

    fn forget_who_gave_up(&mut self) {
        self.waiters.retain(|waiter| !waiter.is_closed());
    }
}

/// A handshake that is under way. Dropped, it has failed.
pub(super) struct Handshake {
    queue: Arc<Queue>,
    tls: Arc<TlsIdentity>,
    over: bool,
}

impl Handshake {
    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    pub(super) fn tls(&self) -> &Arc<TlsIdentity> {
        &self.tls
    }

    /// Whom it was for get their places, or the error. More may be wanted now: see [`Queue::begin`].
    pub(super) fn settle(mut self, made: Result<Tunnel, HboneError>) {
        self.end(made);
    }

    fn end(&mut self, made: Result<Tunnel, HboneError>) {
        self.over = true;
        let mut state = self.queue.state();
        let under_way = state.handshakes;
        state.handshakes -= 1;
        match made {
            Ok(tunnel) if state.is_current(&self.tls) => state.tunnels.push(tunnel),
            // The certificate was renewed meanwhile, and who waits has asked with the new one.
            Ok(tunnel) => tunnel.retire(),
            Err(error) => {
                state.forget_who_gave_up();
                let share = state.waiters.len() / under_way;
                for waiter in state.waiters.drain(..share) {
                    // It may give up just now.
                    let _ = waiter.send(Err(error.clone()));
                }
            }
        }
        drop(state);
        self.queue.serve();
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        if !self.over {
            let address = self.queue.key.address;
            self.end(Err(HboneError::Closed { address, cause: "the handshake was given up".into() }));
        }
    }
}
