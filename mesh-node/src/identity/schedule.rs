//! When to ask for which certificate: the decisions of [`super::Certificates`], without I/O and without a clock.
//!
//! ```text
//!            Retain                Fetched                 half its life has passed
//!   (none) ────────▶ Pending ──────────────────▶ Ready ─────────────────────────────▶ fetch again
//!                       │ Failed                   ▲ Fetched
//!                       ▼                          │
//!                    Failing ──────────────────────┘   (keeps a certificate that it has; backs off to 150 s)
//! ```
//!
//! The monotonic clock says when to act, so a clock that is set does not make all certificates due at once. The wall
//! clock is asked for two things only: how much of a restored certificate's life is left, and whether one has really
//! expired.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use mesh_policy::model::Identity;

/// The first wait after a failure; doubled up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(150);

/// Requests to the authority at the same time.
const MAX_FETCHES: usize = 8;

/// The longest sleep: how soon an expiry by a wall clock that was set forward is seen.
const LOOK: Duration = Duration::from_secs(30);

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since an arbitrary start; never goes back.
    pub monotonic: Duration,
    pub wall: SystemTime,
}

/// When a certificate holds, by the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// How it stands with one identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No answer yet.
    Pending,
    /// The last request succeeded.
    Ready,
    /// The last request failed; an older certificate may still serve.
    Failing,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask for this one; it counts as asked from now on.
    Fetch(Identity),
    /// Nothing before this long from now, unless an event comes.
    Sleep(Duration),
}

#[derive(Debug)]
pub enum Event {
    /// One more pod has this identity.
    Retain(Identity),
    /// One less.
    Release(Identity),
    /// A certificate is there, from the authority or from disk.
    Fetched(Identity, Validity),
    Failed(Identity, String),
}

/// What is wanted, held, under way and planned.
#[derive(Debug, Default)]
pub struct Book {
    entries: HashMap<Identity, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// Pods that have the identity; the entry goes with the last.
    interest: usize,
    held: Option<Validity>,
    plan: Plan,
    failures: u32,
    last_error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// By the monotonic clock.
    FetchAt(Duration),
    Fetching,
}

impl Book {
    /// The next thing to do.
    pub fn select(&mut self, now: Now) -> Action {
        let fetching = self.entries.values().filter(|entry| entry.plan == Plan::Fetching).count();
        if fetching >= MAX_FETCHES {
            return Action::Sleep(LOOK);
        }
        let next = self.entries.iter().filter_map(|(identity, entry)| Some((entry.due(now)?, identity))).min();
        match next {
            Some((due, identity)) if due <= now.monotonic => {
                let identity = identity.clone();
                if let Some(entry) = self.entries.get_mut(&identity) {
                    entry.plan = Plan::Fetching;
                }
                Action::Fetch(identity)
            }
            Some((due, _)) => Action::Sleep(due.saturating_sub(now.monotonic).min(LOOK)),
            None => Action::Sleep(LOOK),
        }
    }

    /// Takes an event in. `dice` is evenly spread over 0..1 and only moves times.
    ///
    /// Says whether the identity is to be forgotten.
    pub fn apply(&mut self, event: Event, now: Now, dice: f64) -> bool {
        match event {
            Event::Retain(identity) => {
                let fresh =
                    || Entry { interest: 0, held: None, plan: Plan::FetchAt(now.monotonic), failures: 0, last_error: None };
                self.entries.entry(identity).or_insert_with(fresh).interest += 1;
            }
            Event::Release(identity) => {
                let Some(entry) = self.entries.get_mut(&identity) else { return false };
                entry.interest -= 1;
                if entry.interest == 0 {
                    self.entries.remove(&identity);
                    return true;
                }
            }
            Event::Fetched(identity, validity) => {
                if let Some(entry) = self.entries.get_mut(&identity) {
                    entry.held = Some(validity);
                    entry.failures = 0;
                    entry.last_error = None;
                    entry.plan = Plan::FetchAt(now.monotonic + until_renewal(validity, now.wall, dice));
                }
            }
            Event::Failed(identity, error) => {
                if let Some(entry) = self.entries.get_mut(&identity) {
                    entry.plan = Plan::FetchAt(now.monotonic + backoff(entry.failures, dice));
                    entry.failures = entry.failures.saturating_add(1);
                    entry.last_error = Some(error);
                }
            }
        }
        false
    }

    pub fn state(&self, identity: &Identity) -> Option<State> {
        let entry = self.entries.get(identity)?;
        Some(match (entry.failures, entry.held) {
            (0, None) => State::Pending,
            (0, Some(_)) => State::Ready,
            _ => State::Failing,
        })
    }

    pub fn last_error(&self, identity: &Identity) -> Option<&str> {
        self.entries.get(identity)?.last_error.as_deref()
    }

    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.entries.keys()
    }
}

impl Entry {
    fn due(&self, now: Now) -> Option<Duration> {
        match self.plan {
            Plan::Fetching => None,
            // Not while it backs off: an authority that is away is not to be hammered for what has expired.
            Plan::FetchAt(_) if self.failures == 0 && self.held.is_some_and(|held| now.wall > held.not_after) => {
                Some(now.monotonic)
            }
            Plan::FetchAt(at) => Some(at),
        }
    }
}

/// Half of the life has passed, give or take a tenth of that. At once for what is older, never more than that for
/// what our clock calls younger than new.
fn until_renewal(validity: Validity, wall: SystemTime, dice: f64) -> Duration {
    let life = validity.not_after.duration_since(validity.not_before).unwrap_or_default();
    let planned = life.mul_f64(0.45 + 0.1 * dice.clamp(0.0, 1.0));
    let age = wall.duration_since(validity.not_before).unwrap_or_default();
    planned.saturating_sub(age)
}

/// 1 s, 2 s, 4 s … 150 s, less up to a fifth.
fn backoff(failures: u32, dice: f64) -> Duration {
    let full = FIRST_BACKOFF.saturating_mul(1 << failures.min(16)).min(MAX_BACKOFF);
    full.mul_f64(1.0 - 0.2 * dice.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests;
