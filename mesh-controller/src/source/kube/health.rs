//! How reading goes, kind by kind: for readiness, the log and whoever looks for a fault.

use std::{
    collections::BTreeMap,
    error::Error as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use kube::runtime::watcher;
use tracing::{info, warn};

use super::kinds::{BUILT_IN, Watch};
use crate::telemetry::Telemetry;

/// A kind that has not failed for so long is well again: nothing says so of a watch that has no news.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// Shared by all who read; cheap to clone.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    kinds: Mutex<BTreeMap<String, State>>,
    telemetry: Arc<Telemetry>,
}

#[derive(Debug, Default)]
struct State {
    listed: bool,
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    text: String,
    at: Instant,
}

/// A kind that can not be read at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// As a Role names it: `httproutes.gateway.networking.k8s.io`.
    pub kind: String,
    /// None: the server has not answered yet.
    pub text: Option<String>,
}

impl Health {
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        let kinds = BUILT_IN.iter().map(|watch| (watch.definition(), State::default())).collect();
        Self(Arc::new(Inner { kinds: Mutex::new(kinds), telemetry }))
    }

    /// Kinds that have never been read whole: nothing is published before there are none.
    pub fn unlisted(&self) -> Vec<Trouble> {
        self.select(|state| !state.listed)
    }

    /// Kinds that can not be followed at present: what was known of them stays in force.
    pub fn stale(&self) -> Vec<Trouble> {
        self.select(|state| state.failure.as_ref().is_some_and(|failure| failure.at.elapsed() < FORGOTTEN))
    }

    fn select(&self, wanted: impl Fn(&State) -> bool) -> Vec<Trouble> {
        self.change(|kinds| {
            let found = kinds.iter().filter(|(_, state)| wanted(state));
            found
                .map(|(kind, state)| Trouble {
                    kind: kind.clone(),
                    text: state.failure.as_ref().map(|failure| failure.text.clone()),
                })
                .collect()
        })
    }

    /// The kind is there: it has to be read.
    pub(super) fn expect(&self, watch: &Watch) {
        self.change(|kinds| {
            kinds.entry(watch.definition()).or_default();
        });
    }

    /// The kind is not there: nobody need read it.
    pub(super) fn withdrawn(&self, what: &str) {
        self.change(|kinds| drop(kinds.remove(what)));
    }

    pub(super) fn listed(&self, what: &str, count: usize) {
        let before = self.change(|kinds| {
            let state = kinds.entry(what.to_owned()).or_default();
            (std::mem::replace(&mut state.listed, true), state.failure.take().is_some())
        });
        match before {
            (false, _) => info!(kind = what, count, "listed"),
            (true, true) => info!(kind = what, count, "listed again"),
            (true, false) => {}
        }
        self.count();
    }

    /// Something of a kind that must be read has failed; it is tried again.
    pub(super) fn failed(&self, what: &str, error: &watcher::Error) {
        let text = explain(what, error);
        let news = self.change(|kinds| {
            let state = kinds.entry(what.to_owned()).or_default();
            let known = state.failure.as_ref().is_some_and(|known| known.text == text && known.at.elapsed() < FORGOTTEN);
            state.failure = Some(Failure { text: text.clone(), at: Instant::now() });
            !known
        });
        if news {
            warn!(kind = what, "{text}");
        }
        self.count();
    }

    fn count(&self) {
        let well = self.stale().is_empty();
        self.0.telemetry.metrics.source_readable.set(i64::from(well));
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<String, State>) -> T) -> T {
        change(&mut self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether the server knows who asks and refuses.
pub(super) fn is_forbidden(error: &watcher::Error) -> bool {
    status_code(error) == Some(403)
}

fn status_code(error: &watcher::Error) -> Option<u16> {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => match error {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        },
        WatchError(status) => Some(status.code),
        NoResourceVersion => None,
    }
}

/// What is wrong, and what to do about it where that is known.
fn explain(what: &str, error: &watcher::Error) -> String {
    match status_code(error) {
        Some(401) => "the API server does not know the controller: is its service account token valid?".to_owned(),
        Some(403) => format!("list and watch of {what} are not permitted: grant them to the controller's service account (RBAC)"),
        Some(404) => format!("the API server has no {what} at present"),
        // A version that the server has forgotten: the list that follows brings everything.
        Some(410) => "the watch fell behind and lists again".to_owned(),
        _ => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                let further = error.to_string();
                if !text.contains(&further) {
                    text = format!("{text}: {further}");
                }
                cause = error.source();
            }
            format!("{what} can not be read, what is known of them stays in force: {text}")
        }
    }
}
