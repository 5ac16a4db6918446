//! Tokens of service accounts, confirmed by the API server (TokenReview, `authentication.k8s.io/v1`).
//!
//! An answer counts for a minute and never past the token's end. While the API server is away, tokens that it has confirmed
//! before go on until they expire, and all others are refused. A stream outlives its token: it ends when its pod or its
//! node is gone.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};
use tonic::Status;
use tracing::{debug, warn};

use super::{
    account::Account,
    authenticator::{Caller, Proof},
    cache::{Cache, Digest, Known},
    claims::Claims,
};
use crate::placement::Placement;

/// For whom the nodes' tokens are made.
pub(super) const AUDIENCE: &str = "keelson";
/// Put into the tokens of pods since Kubernetes 1.32.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions at a time; the rest wait their turn.
const AT_ONCE: usize = 16;

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the token is not one of a service account")]
    Malformed,
    #[error("the token is for audience {audiences:?}, not for `keelson`: is the projected volume's audience right?")]
    Audience { audiences: String },
    #[error("the token is of {found}, not of {expected}")]
    Account { found: String, expected: String },
    #[error("the token has expired")]
    Expired,
    #[error("the API server does not know the token: {cause}")]
    Unknown { cause: String },
    #[error(
        "the token does not name a node: it has to be bound to the node's pod, by a Kubernetes that says where pods are (1.32 or newer)"
    )]
    NoNode,
    #[error("the token is not bound to a pod")]
    NoPod,
    #[error("the token cannot be checked now: {cause}")]
    Away { cause: String },
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::Away { .. } => Self::unavailable(text),
            Refusal::Account { .. } => Self::permission_denied(text),
            Refusal::Malformed
            | Refusal::Audience { .. }
            | Refusal::Expired
            | Refusal::Unknown { .. }
            | Refusal::NoNode
            | Refusal::NoPod => Self::unauthenticated(text),
        }
    }
}

/// Asks the API server about tokens, and remembers its answers.
pub struct Reviews {
    api: Api<TokenReview>,
    account: Account,
    placement: watch::Receiver<Arc<Placement>>,
    pub(super) cache: Mutex<Cache>,
    places: Semaphore,
    away: AtomicBool,
}

impl Reviews {
    pub fn new(client: Client, account: Account, placement: watch::Receiver<Arc<Placement>>) -> Self {
        let (cache, places) = (Mutex::default(), Semaphore::new(AT_ONCE));
        Self { api: Api::all(client), account, placement, cache, places, away: AtomicBool::new(false) }
    }

    pub(super) async fn authenticate(&self, token: &str) -> Result<Caller, Refusal> {
        let digest: Digest = Sha256::digest(token.as_bytes()).into();
        let known = self.look(&digest);
        match &known {
            // A pod that is gone takes its token with it.
            Known::Fresh(caller) | Known::Stale(caller) if !self.is_valid(caller) => {
                self.cache.lock().expect("nobody panics with the cache in hand").forget(&digest);
                return Err(Refusal::Unknown { cause: "its pod is gone".into() });
            }
            Known::Fresh(caller) => return Ok(caller.clone()),
            Known::Stale(_) | Known::Unknown => {}
        }
        let claims = Claims::of(token).ok_or(Refusal::Malformed)?;
        let now = SystemTime::now();
        let expires = plausible(&claims, &self.account, now)?;
        let status = match self.review(token).await {
            Ok(status) => status,
            Err(cause) => {
                if !self.away.swap(true, Ordering::Relaxed) {
                    warn!(cause, "tokens cannot be checked: those that are known count until they expire");
                }
                return match known {
                    Known::Stale(caller) => Ok(caller),
                    Known::Fresh(_) | Known::Unknown => Err(Refusal::Away { cause }),
                };
            }
        };
        self.away.store(false, Ordering::Relaxed);
        let mut cache = self.cache.lock().expect("nobody panics with the cache in hand");
        match judge(&status, &self.account) {
            Ok(Confirmed { node, uid }) => Ok(cache.confirm(digest, node, uid, expires, now)),
            Err(refusal) => {
                cache.forget(&digest);
                debug!(%refusal, "a token was refused");
                Err(refusal)
            }
        }
    }

    /// An open stream goes on while its pod is there. Until the pod is known here, the token's confirmation has to do.
    pub(super) fn is_valid(&self, caller: &Caller) -> bool {
        let Proof::Pod { token, uid, seen } = &caller.proof else { return false };
        if self.account.runs(&self.placement.borrow(), &caller.node, uid) {
            seen.store(true, Ordering::Relaxed);
            return true;
        }
        !seen.load(Ordering::Relaxed) && !matches!(self.look(token), Known::Unknown)
    }

    fn look(&self, digest: &Digest) -> Known {
        self.cache.lock().expect("nobody panics with the cache in hand").look(digest, SystemTime::now())
    }

    async fn review(&self, token: &str) -> Result<TokenReviewStatus, String> {
        let spec = TokenReviewSpec { audiences: Some(vec![AUDIENCE.into()]), token: Some(token.into()) };
        let question = TokenReview { spec, ..TokenReview::default() };
        let ask = async {
            let _place = self.places.acquire().await;
            self.api.create(&PostParams::default(), &question).await
        };
        match timeout(PATIENCE, ask).await {
            Ok(Ok(answer)) => answer.status.ok_or_else(|| "the API server gave no answer".to_owned()),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                Err(format!("the controller's account may not review tokens (RBAC): {}", status.message))
            }
            Ok(Err(error)) => Err(format!("the API server does not answer: {error}")),
            Err(_) => Err(format!("the API server does not answer within {} s", PATIENCE.as_secs())),
        }
    }
}

/// When the token ends, unless its own words refuse it already.
pub(super) fn plausible(claims: &Claims, account: &Account, now: SystemTime) -> Result<SystemTime, Refusal> {
    if claims.sub != account.username() {
        return Err(Refusal::Account { found: claims.sub.clone(), expected: account.username() });
    }
    if !claims.aud.contains(AUDIENCE) {
        return Err(Refusal::Audience { audiences: claims.aud.text() });
    }
    let expires = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp)).ok_or(Refusal::Malformed)?;
    if expires <= now { Err(Refusal::Expired) } else { Ok(expires) }
}

/// Node and pod of a confirmed token.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Confirmed {
    pub(super) node: String,
    pub(super) uid: String,
}

/// What the API server's answer means.
pub(super) fn judge(status: &TokenReviewStatus, account: &Account) -> Result<Confirmed, Refusal> {
    let TokenReviewStatus { audiences, authenticated, error, user } = status;
    if *authenticated != Some(true) {
        let cause = error.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| "no reason given".into());
        return Err(Refusal::Unknown { cause });
    }
    // Without it the answer would come from a server that does not look at audiences.
    let audiences = audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(Refusal::Audience { audiences: audiences.join(", ") });
    }
    let user = user.as_ref();
    let found = user.and_then(|user| user.username.clone()).unwrap_or_default();
    if found != account.username() {
        return Err(Refusal::Account { found, expected: account.username() });
    }
    let extra = |key: &str| match user?.extra.as_ref()?.get(key).map(Vec::as_slice) {
        Some([one]) if !one.is_empty() => Some(one.clone()),
        _ => None,
    };
    let node = extra(NODE_NAME).ok_or(Refusal::NoNode)?;
    let uid = extra(POD_UID).ok_or(Refusal::NoPod)?;
    Ok(Confirmed { node, uid })
}
