//! Tokens that the API server has confirmed, by digest, for a while.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use super::authenticator::{Caller, Proof};

/// How long an answer of the API server counts without asking again.
pub(super) const FRESH: Duration = Duration::from_mins(1);
/// More than two tokens of each of 10,000 nodes.
pub(super) const MAX_TOKENS: usize = 32_768;

/// A token's digest.
pub(super) type Digest = [u8; 32];

/// What is known of a token.
#[derive(Debug)]
pub(super) enum Known {
    /// Confirmed within the last minute.
    Fresh(Caller),
    /// Confirmed earlier, and not expired: to be asked for again, and good as long as nobody can be asked.
    Stale(Caller),
    Unknown,
}

/// Bounded; whoever leaves it is asked for again.
#[derive(Debug, Default)]
pub(super) struct Cache {
    tokens: HashMap<Digest, Entry>,
}

#[derive(Debug)]
struct Entry {
    node: String,
    uid: String,
    seen: Arc<AtomicBool>,
    confirmed: SystemTime,
    expires: SystemTime,
}

impl Cache {
    pub(super) fn look(&self, token: &Digest, now: SystemTime) -> Known {
        let Some(entry) = self.tokens.get(token).filter(|entry| now < entry.expires) else { return Known::Unknown };
        let caller = entry.caller(*token);
        // A clock that was set back confirms nothing for longer.
        match now.duration_since(entry.confirmed) {
            Ok(age) if age < FRESH => Known::Fresh(caller),
            _ => Known::Stale(caller),
        }
    }

    /// Keeps what the API server has confirmed.
    pub(super) fn confirm(&mut self, token: Digest, node: String, uid: String, expires: SystemTime, now: SystemTime) -> Caller {
        if self.tokens.len() >= MAX_TOKENS && !self.tokens.contains_key(&token) {
            self.make_room(now);
        }
        let seen = self.tokens.get(&token).map(|entry| entry.seen.clone()).unwrap_or_default();
        let entry = Entry { node, uid, seen, confirmed: now, expires };
        let caller = entry.caller(token);
        self.tokens.insert(token, entry);
        caller
    }

    pub(super) fn forget(&mut self, token: &Digest) {
        self.tokens.remove(token);
    }

    /// Drops what has expired, or else the older half.
    fn make_room(&mut self, now: SystemTime) {
        self.tokens.retain(|_, entry| now < entry.expires);
        if self.tokens.len() >= MAX_TOKENS {
            let mut times: Vec<SystemTime> = self.tokens.values().map(|entry| entry.confirmed).collect();
            let (_, median, _) = times.select_nth_unstable(MAX_TOKENS / 2);
            let median = *median;
            self.tokens.retain(|_, entry| entry.confirmed > median);
        }
    }
}

impl Entry {
    fn caller(&self, token: Digest) -> Caller {
        Caller { node: self.node.clone(), proof: Proof::Pod { token, uid: self.uid.clone(), seen: self.seen.clone() } }
    }
}
