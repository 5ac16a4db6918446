//! The certificates of this node's workloads: kept, renewed, handed out.
//!
//! The data path reads [`Certificates::current`], two atomic loads and no lock. Everything else happens in
//! [`Certificates::run`], on the control runtime: [`super::schedule`] decides, this module carries it out. A certificate that
//! is there stays there until a better one comes; whether it still convinces is for the peer to judge.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use mesh_policy::model::Identity;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant as Deadline, sleep, timeout, timeout_at},
};
use tracing::{debug, info, warn};

use super::{
    certificate::CertificateError,
    disk::{Persist, Stored},
    schedule::{Action, Book, Event, Now, State, Validity},
    tls::TlsIdentity,
    verify::Aliases,
};
use crate::reason::Reason;

/// For one answer of the authority.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Signs certificate requests.
pub trait CertificateAuthority: Send + Sync + 'static {
    /// The chain for `identity` over the key of `csr_pem`: leaf first, the root bundle last, PEM each.
    fn sign(&self, identity: &Identity, csr_pem: &str) -> impl Future<Output = Result<Vec<String>, SignError>> + Send;
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("the authority does not answer: {cause}")]
    Unavailable { cause: String },
    #[error("the authority refuses: {cause}")]
    Refused { cause: String },
    #[error("no token to ask the authority with")]
    Token {
        #[source]
        source: std::io::Error,
    },
    #[error("no answer in {after:?}")]
    Timeout { after: Duration },
    #[error("the answer is of no use")]
    Answer {
        #[source]
        source: CertificateError,
    },
    #[error("no key or request could be made")]
    Request {
        #[source]
        source: rcgen::Error,
    },
}

/// One entry for dumps.
#[derive(Clone, Debug)]
pub struct CertificateSnapshot {
    pub identity: Identity,
    pub state: State,
    pub last_error: Option<String>,
    pub certificate: Option<Arc<TlsIdentity>>,
}

/// Why an identity can not be used now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("no certificate for {identity} yet ({cause}): is the controller reachable, and the pod on this node?")]
    Pending { identity: Identity, cause: String },
    #[error("no pod of this node has the identity {identity}")]
    NotHere { identity: Identity },
}

impl IdentityError {
    pub fn reason(&self) -> Reason {
        match self {
            Self::Pending { .. } | Self::NotHere { .. } => Reason::CertificatePending,
        }
    }
}

/// See the module.
pub struct Certificates {
    slots: ArcSwap<HashMap<Identity, Arc<Slot>>>,
    book: Mutex<Book>,
    /// Something for [`Certificates::run`] to look at.
    changed: Notify,
    started: Instant,
    aliases: Aliases,
    persist: Option<Arc<dyn Persist>>,
}

/// Where the certificate of one identity lies.
#[derive(Default)]
struct Slot {
    current: ArcSwapOption<TlsIdentity>,
    filled: Notify,
}

impl Certificates {
    /// `aliases` are the trust domains that are accepted of peers besides the own one. With `persist`, certificates outlive
    /// the process.
    pub fn new(aliases: Aliases, persist: Option<Arc<dyn Persist>>) -> Arc<Self> {
        Arc::new(Self {
            slots: ArcSwap::default(),
            book: Mutex::default(),
            changed: Notify::new(),
            started: Instant::now(),
            aliases,
            persist,
        })
    }

    /// Keeps a certificate for `identity` as long as the guard lives.
    pub fn retain(self: &Arc<Self>, identity: Identity) -> Guard {
        {
            let mut book = self.book();
            book.apply(Event::Retain(identity.clone()), self.now(), fastrand::f64());
            if !self.slots.load().contains_key(&identity) {
                self.slots.rcu(|slots| {
                    let mut slots = HashMap::clone(slots);
                    slots.entry(identity.clone()).or_default();
                    slots
                });
            }
        }
        self.changed.notify_one();
        Guard { certificates: Arc::clone(self), identity }
    }

    /// The certificate to use now, if there is one. Lock-free.
    pub fn current(&self, identity: &Identity) -> Option<Arc<TlsIdentity>> {
        self.slots.load().get(identity)?.current.load_full()
    }

    /// Like [`Certificates::current`], for a connection that comes before the first certificate.
    pub async fn wait(&self, identity: &Identity, deadline: Deadline) -> Result<Arc<TlsIdentity>, IdentityError> {
        let slot = self.slots.load().get(identity).cloned();
        let slot = slot.ok_or_else(|| IdentityError::NotHere { identity: identity.clone() })?;
        let filled = async {
            loop {
                let next = slot.filled.notified();
                if let Some(current) = slot.current.load_full() {
                    return current;
                }
                next.await;
            }
        };
        timeout_at(deadline, filled).await.map_err(|_| {
            let cause = self.book().last_error(identity).unwrap_or("still asking").to_owned();
            IdentityError::Pending { identity: identity.clone(), cause }
        })
    }

    /// All identities, ordered, for dumps.
    pub fn snapshot(&self) -> Vec<CertificateSnapshot> {
        let book = self.book();
        let mut identities: Vec<_> = book.identities().cloned().collect();
        identities.sort();
        let entry = |identity: Identity| {
            Some(CertificateSnapshot {
                state: book.state(&identity)?,
                last_error: book.last_error(&identity).map(ToOwned::to_owned),
                certificate: self.current(&identity),
                identity,
            })
        };
        identities.into_iter().filter_map(entry).collect()
    }

    /// Fetches and renews until it is dropped. One call a process, on the control runtime.
    pub async fn run<C: CertificateAuthority>(self: Arc<Self>, authority: Arc<C>) {
        let mut fetches = JoinSet::new();
        loop {
            let action = self.book().select(self.now());
            match action {
                Action::Fetch(identity) => {
                    let (certificates, authority) = (Arc::clone(&self), Arc::clone(&authority));
                    fetches.spawn(async move { certificates.fetch(identity, &*authority).await });
                }
                Action::Sleep(duration) => {
                    tokio::select! {
                        () = sleep(duration) => {}
                        () = self.changed.notified() => {}
                        Some(_) = fetches.join_next() => {}
                    }
                }
            }
        }
    }

    async fn fetch<C: CertificateAuthority>(&self, identity: Identity, authority: &C) {
        if self.current(&identity).is_none()
            && let Some(restored) = self.restore(&identity)
        {
            info!(%identity, serial = restored.facts().serial, "certificate restored");
            return self.install(identity, restored);
        }
        let signed = timeout(FETCH_TIMEOUT, self.sign(&identity, authority)).await;
        match signed.unwrap_or(Err(SignError::Timeout { after: FETCH_TIMEOUT })) {
            Ok((tls, stored)) => {
                debug!(%identity, serial = tls.facts().serial, "certificate issued");
                self.install(identity, tls);
                self.save(stored).await;
            }
            Err(error) => {
                let error = describe(&error);
                warn!(%identity, error, "no new certificate");
                self.book().apply(Event::Failed(identity, error), self.now(), fastrand::f64());
            }
        }
    }

    async fn sign<C: CertificateAuthority>(
        &self,
        identity: &Identity,
        authority: &C,
    ) -> Result<(TlsIdentity, Stored), SignError> {
        let (key, csr) = request(identity).map_err(|source| SignError::Request { source })?;
        let chain = authority.sign(identity, &csr).await?;
        let stored = Stored { identity: identity.clone(), key_pem: key.serialize_pem(), chain: chain.clone() };
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let tls = TlsIdentity::new(identity, key, chain, &self.aliases).map_err(|source| SignError::Answer { source })?;
        Ok((tls, stored))
    }

    fn install(&self, identity: Identity, tls: TlsIdentity) {
        let validity = Validity { not_before: tls.facts().not_before, not_after: tls.facts().not_after };
        if let Some(slot) = self.slots.load().get(&identity) {
            slot.current.store(Some(Arc::new(tls)));
            slot.filled.notify_waiters();
        }
        self.book().apply(Event::Fetched(identity, validity), self.now(), fastrand::f64());
    }

    /// What an earlier process left, if it is still good.
    fn restore(&self, identity: &Identity) -> Option<TlsIdentity> {
        let stored = self.persist.as_ref()?.load(identity)?;
        let restored = stored.key().and_then(|key| TlsIdentity::new(identity, key, stored.chain, &self.aliases));
        match restored {
            Ok(restored) if restored.is_expired(SystemTime::now()) => None,
            Ok(restored) => Some(restored),
            Err(error) => {
                warn!(%identity, error = describe(&error), "a stored certificate is of no use");
                None
            }
        }
    }

    async fn save(&self, stored: Stored) {
        let Some(persist) = self.persist.clone() else { return };
        let saved = tokio::task::spawn_blocking(move || persist.save(&stored)).await;
        if let Ok(Err(error)) = saved {
            warn!(%error, "a certificate could not be stored: a restart will need the controller");
        }
    }

    fn release(&self, identity: &Identity) {
        let mut book = self.book();
        if book.apply(Event::Release(identity.clone()), self.now(), 0.0) {
            self.slots.rcu(|slots| {
                let mut slots = HashMap::clone(slots);
                slots.remove(identity);
                slots
            });
        }
    }

    fn now(&self) -> Now {
        Now { monotonic: self.started.elapsed(), wall: SystemTime::now() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pod's interest in an identity; dropped with the last one, the certificate is forgotten (in memory, not on disk).
pub struct Guard {
    certificates: Arc<Certificates>,
    identity: Identity,
}

impl Guard {
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.certificates.release(&self.identity);
    }
}

/// A new P-256 key and a request for `identity`. The subject is empty, so the URI name is critical (RFC 5280 §4.2.1.6).
fn request(identity: &Identity) -> Result<(KeyPair, String), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    let csr = params.serialize_request(&key)?.pem()?;
    Ok((key, csr))
}

/// An error with its causes, on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
