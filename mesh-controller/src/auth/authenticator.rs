//! From a bearer token to the node that calls.

use std::sync::{Arc, atomic::AtomicBool};

use tonic::{Request, Status};

use super::{review::Reviews, tokens::Tokens};

/// The node that calls; in the extensions of every request that passed.
#[derive(Clone, Debug)]
pub struct Caller {
    pub node: String,
    pub(super) proof: Proof,
}

/// What a caller has shown, to be looked at again while its stream is open.
#[derive(Clone, Debug)]
pub(super) enum Proof {
    /// Digest of a token that was issued here.
    Issued([u8; 32]),
    /// A token of a pod's service account.
    Pod {
        token: [u8; 32],
        /// `metadata.uid` of the pod that the token is bound to.
        uid: String,
        /// Whether the pod was ever among those that are known here: from then on its absence counts.
        seen: Arc<AtomicBool>,
    },
}

/// Who knows the tokens.
#[derive(Clone)]
pub enum Authenticator {
    Folder(Tokens),
    Cluster(Arc<Reviews>),
}

impl Authenticator {
    /// The node of a token, or why there is none.
    pub async fn authenticate(&self, token: &str) -> Result<Caller, Status> {
        match self {
            Self::Folder(tokens) => tokens.authenticate(token).ok_or_else(|| {
                Status::unauthenticated("the token is unknown or revoked: issue another with `mesh-controller token`")
            }),
            Self::Cluster(reviews) => reviews.authenticate(token).await.map_err(Status::from),
        }
    }

    /// Whether an open stream of this caller may go on.
    pub fn is_valid(&self, caller: &Caller) -> bool {
        match self {
            Self::Folder(tokens) => tokens.is_valid(caller),
            Self::Cluster(reviews) => reviews.is_valid(caller),
        }
    }

    /// Where a node gets a token, for those that come without.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Folder(_) => "no bearer token: start the node with the token that `mesh-controller token` printed",
            Self::Cluster(_) => "no bearer token: mount a projected service account token with the audience `keelson`",
        }
    }
}

/// The caller that the guard has found.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get().cloned().ok_or_else(|| Status::unauthenticated("no caller"))
}
