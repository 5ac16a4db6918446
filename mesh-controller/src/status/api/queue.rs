//! What is still to be written, and when.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Work by key: each key has one value, at most one attempt at a time, and pauses that grow while it fails.
#[derive(Debug)]
pub(super) struct Queue<K, V> {
    waiting: BTreeMap<K, Waiting<V>>,
    running: BTreeMap<K, Running<V>>,
    /// What was written last, while it has not come back.
    settled: BTreeMap<K, V>,
}

#[derive(Debug)]
struct Waiting<V> {
    value: V,
    at: Instant,
    failures: u32,
}

#[derive(Debug)]
struct Running<V> {
    value: V,
    failures: u32,
    /// News for the key since the attempt began.
    next: Option<V>,
}

impl<K: Ord + Clone, V: Clone + PartialEq> Default for Queue<K, V> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), running: BTreeMap::new(), settled: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> Queue<K, V> {
    /// Replaces what is wanted: keys that are not named need nothing.
    pub(super) fn want(&mut self, wanted: BTreeMap<K, V>, now: Instant) {
        let names: BTreeSet<&K> = wanted.keys().collect();
        self.waiting.retain(|key, _| names.contains(key));
        self.settled.retain(|key, _| names.contains(key));
        for running in self.running.values_mut() {
            running.next = None;
        }
        for (key, value) in wanted {
            if self.settled.get(&key) == Some(&value) {
                continue;
            }
            if let Some(running) = self.running.get_mut(&key) {
                running.next = (running.value != value).then_some(value);
                continue;
            }
            match self.waiting.get_mut(&key) {
                Some(waiting) if waiting.value == value => {}
                // Another value is another matter: it need not wait for the last one's pause.
                _ => drop(self.waiting.insert(key, Waiting { value, at: now, failures: 0 })),
            }
        }
    }

    /// Something that is due; it counts as running from now on.
    pub(super) fn next(&mut self, now: Instant) -> Option<(K, V)> {
        let key = self.waiting.iter().find(|(_, waiting)| waiting.at <= now).map(|(key, _)| key.clone())?;
        let Waiting { value, failures, .. } = self.waiting.remove(&key)?;
        self.running.insert(key.clone(), Running { value: value.clone(), failures, next: None });
        Some((key, value))
    }

    /// When the next is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.at).min()
    }

    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// An attempt has ended.
    pub(super) fn done(&mut self, key: &K, succeeded: bool, now: Instant) {
        let Some(Running { value, failures, next }) = self.running.remove(key) else { return };
        if succeeded {
            self.settled.insert(key.clone(), value);
            if let Some(value) = next {
                self.waiting.insert(key.clone(), Waiting { value, at: now, failures: 0 });
            }
            return;
        }
        let pause =
            FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_PAUSE).mul_f64(0.75 + fastrand::f64() / 2.0);
        let waiting = Waiting { value: next.unwrap_or(value), at: now + pause, failures: failures.saturating_add(1) };
        self.waiting.insert(key.clone(), waiting);
    }
}
