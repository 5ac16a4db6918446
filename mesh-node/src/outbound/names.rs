//! Endpoints that have a name and no address: looked up by the node itself, for all of its pods.
//!
//! An answer is used for as long as its TTL says. The connection that finds none waits for the lookup, bounded; who comes while
//! one is under way waits for the same. For a while after its end an answer still serves, while the next is being looked up
//! behind it; and where no server of names answers at all, the last good answer is kept. That a name has no address is believed
//! at once. Memory and lookups are bounded, and no lookup runs on a thread that carries traffic. What is decided here and why:
//! ADR 0008.

mod system;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

pub use system::SystemResolver;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    time::timeout_at,
};

use crate::{
    reason::{Failure, Reason},
    telemetry::{Metrics, Reading},
};

/// How long a connection waits for the addresses of a name.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// So long after its end an answer is used while the next is looked up.
const GRACE: Duration = Duration::from_secs(30);
/// So long after a failed lookup nobody tries again.
const PAUSE: Duration = Duration::from_secs(1);
/// Lookups that run at once.
const LOOKUPS: usize = 32;
/// Names that are remembered.
const MOST_NAMES: usize = 4096;
/// TTLs are believed within these bounds.
const TTL: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);

/// The addresses of a name, and until when they are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub addresses: Vec<IpAddr>,
    pub ttl: Duration,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The servers of names say so.
    #[error("it has no address")]
    NoAddress,
    /// Nobody knows.
    #[error("{0}")]
    Failed(String),
}

/// A lookup under way.
pub type Lookup = Pin<Box<dyn Future<Output = Result<Answer, LookupError>> + Send>>;

/// Who asks the servers of names.
pub trait Resolve: Send + Sync + 'static {
    fn lookup(&self, hostname: &str) -> Lookup;
}

/// The names that pods of this node have asked for.
pub struct Names {
    resolve: Box<dyn Resolve>,
    /// Where lookups run.
    runtime: Handle,
    lookups: Semaphore,
    known: Mutex<HashMap<Arc<str>, Entry>>,
    turn: AtomicUsize,
    patience: Duration,
    counts: Counts,
}

/// Since the start.
#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    no_address: AtomicU64,
    failed: AtomicU64,
}

struct Entry {
    answer: Option<(Arc<[IpAddr]>, Instant)>,
    /// Why the last lookup gave nothing, and when.
    failed: Option<(LookupError, Instant)>,
    /// Changes when the lookup has ended.
    looking: Option<watch::Receiver<()>>,
    used: Instant,
}

/// What is known at once.
enum Found {
    Addresses(Arc<[IpAddr]>),
    Nothing(LookupError),
    Looking(watch::Receiver<()>),
}

impl Names {
    /// Lookups run on the runtime that calls this.
    pub fn new(resolve: impl Resolve, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            resolve: Box::new(resolve),
            runtime: Handle::current(),
            lookups: Semaphore::new(LOOKUPS),
            known: Mutex::default(),
            turn: AtomicUsize::new(0),
            patience,
            counts: Counts::default(),
        })
    }

    /// Shows in the metrics what became of lookups.
    pub fn show(self: &Arc<Self>, metrics: &Metrics) {
        let reading = |of: fn(&Counts) -> &AtomicU64| -> Reading {
            let names = self.clone();
            Box::new(move || of(&names.counts).load(Relaxed))
        };
        let values = vec![
            ("answered", reading(|counts| &counts.answered)),
            ("no_address", reading(|counts| &counts.no_address)),
            ("failed", reading(|counts| &counts.failed)),
        ];
        metrics.watch("keelson_name_lookups", "Lookups of endpoints' names, by what became of them", "outcome", values);
    }

    /// The addresses of a name in the order in which to try them: of several of one family each comes first in its turn, and
    /// the families alternate (RFC 8305 §4), that of `like` first. Never empty.
    pub async fn addresses(self: &Arc<Self>, hostname: &Arc<str>, like: IpAddr) -> Result<Vec<IpAddr>, Failure> {
        let failed = |why: &dyn std::fmt::Display| Failure::new(Reason::NameNotResolved, format!("{hostname}: {why}"));
        let deadline = tokio::time::Instant::now() + self.patience;
        loop {
            let mut looking = match self.look(hostname, Instant::now()) {
                Found::Addresses(addresses) => return Ok(in_order(&addresses, self.turn.fetch_add(1, Relaxed), like)),
                Found::Nothing(why) => return Err(failed(&why)),
                Found::Looking(looking) => looking,
            };
            if timeout_at(deadline, looking.changed()).await.is_err() {
                return match self.last_good(hostname) {
                    Some(addresses) => Ok(in_order(&addresses, self.turn.fetch_add(1, Relaxed), like)),
                    None => Err(failed(&format!("no answer in {:?}", self.patience))),
                };
            }
        }
    }

    /// What is known, and a lookup where that is not enough.
    fn look(self: &Arc<Self>, hostname: &Arc<str>, now: Instant) -> Found {
        let mut known = self.known();
        if known.len() >= MOST_NAMES && !known.contains_key(hostname) {
            forget_oldest(&mut known);
        }
        let entry =
            known.entry(hostname.clone()).or_insert_with(|| Entry { answer: None, failed: None, looking: None, used: now });
        entry.used = now;
        if let Some((addresses, until)) = &entry.answer
            && now < *until
        {
            return Found::Addresses(addresses.clone());
        }
        let pausing = entry.failed.as_ref().filter(|(_, when)| now < *when + PAUSE);
        let found = match (&entry.answer, pausing) {
            (Some((addresses, _)), Some(_)) => return Found::Addresses(addresses.clone()),
            (None, Some((why, _))) => return Found::Nothing(why.clone()),
            // Where the servers have just been silent, nobody waits for them once more.
            (Some((addresses, until)), None) if now < *until + GRACE || entry.failed.is_some() => {
                Some(Found::Addresses(addresses.clone()))
            }
            (_, None) => None,
        };
        // One that broke off says nothing any more.
        entry.looking = entry.looking.take().filter(|looking| looking.has_changed().is_ok());
        let looking = entry.looking.get_or_insert_with(|| self.begin(hostname.clone())).clone();
        found.unwrap_or(Found::Looking(looking))
    }

    /// Looks a name up behind whoever asks; the lookup goes on when they do not wait any longer.
    fn begin(self: &Arc<Self>, hostname: Arc<str>) -> watch::Receiver<()> {
        let (done, looking) = watch::channel(());
        let names = self.clone();
        self.runtime.spawn(async move {
            let answer = {
                let _place = names.lookups.acquire().await;
                names.resolve.lookup(&hostname).await
            };
            names.learn(&hostname, answer, Instant::now());
            // Whoever waits is told by the channel's end.
            drop(done);
        });
        looking
    }

    fn learn(&self, hostname: &Arc<str>, answer: Result<Answer, LookupError>, now: Instant) {
        let Counts { answered, no_address, failed } = &self.counts;
        let mut known = self.known();
        // Forgotten meanwhile: who waits asks anew.
        let Some(entry) = known.get_mut(hostname) else { return };
        entry.looking = None;
        let usable = |Answer { addresses, ttl }: Answer| {
            let addresses: Arc<[IpAddr]> = addresses.into_iter().map(|address| address.to_canonical()).filter(is_far).collect();
            if addresses.is_empty() { Err(LookupError::NoAddress) } else { Ok((addresses, ttl)) }
        };
        match answer.and_then(usable) {
            Ok((addresses, ttl)) => {
                answered.fetch_add(1, Relaxed);
                entry.answer = Some((addresses, now + ttl.clamp(*TTL.start(), *TTL.end())));
                entry.failed = None;
            }
            Err(why @ LookupError::NoAddress) => {
                no_address.fetch_add(1, Relaxed);
                (entry.answer, entry.failed) = (None, Some((why, now)));
            }
            Err(why @ LookupError::Failed(_)) => {
                failed.fetch_add(1, Relaxed);
                entry.failed = Some((why, now));
            }
        }
    }

    fn last_good(&self, hostname: &str) -> Option<Arc<[IpAddr]>> {
        let known = self.known();
        known.get(hostname)?.answer.as_ref().map(|(addresses, _)| addresses.clone())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forget_oldest(known: &mut HashMap<Arc<str>, Entry>) {
    let oldest = known.iter().min_by_key(|(_, entry)| entry.used).map(|(name, _)| name.clone());
    if let Some(oldest) = oldest {
        known.remove(&oldest);
    }
}

/// An address that is somewhere else: whoever answers for a name may not point a pod at itself.
fn is_far(address: &IpAddr) -> bool {
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

fn in_order(addresses: &[IpAddr], turn: usize, like: IpAddr) -> Vec<IpAddr> {
    let family = |is_v4: bool| {
        let mut of: Vec<IpAddr> = addresses.iter().copied().filter(|address| address.is_ipv4() == is_v4).collect();
        let count = of.len().max(1);
        of.rotate_left(turn % count);
        of
    };
    let is_v4 = like.to_canonical().is_ipv4();
    let (first, second) = (family(is_v4), family(!is_v4));
    let pairs = (0..first.len().max(second.len())).flat_map(|at| [first.get(at), second.get(at)]);
    pairs.flatten().copied().collect()
}
