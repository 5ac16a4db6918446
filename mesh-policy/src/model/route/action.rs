//! What is done with a request.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::RetryPolicy;
use crate::model::{HeaderOps, Pattern, ServiceKey, TextMatch};

/// The treatment of a request, in the order in which it is applied: CORS, fault, redirect or direct response; else
/// rewrite and headers, mirrors, and forwarding with timeout and retries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpAction {
    pub target: Target,
    pub rewrite: Option<Rewrite>,
    pub request_headers: HeaderOps,
    pub response_headers: HeaderOps,
    /// For the whole exchange, retries included. None: no limit.
    pub timeout: Option<Duration>,
    /// None: the mesh's default.
    pub retry: Option<RetryPolicy>,
    pub fault: Fault,
    pub mirrors: Vec<Mirror>,
    pub cors: Option<Cors>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Target {
    /// One of these, by weight. None, or a weight of zero in all: 500, as the Gateway API has it.
    Forward(Vec<Backend>),
    Redirect(Redirect),
    Respond(DirectResponse),
}

impl Default for Target {
    fn default() -> Self {
        Self::Forward(Vec::new())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    pub to: BackendRef,
    /// Share of the sum of all weights.
    pub weight: u32,
    /// Applied after those of the action.
    pub request_headers: HeaderOps,
    pub response_headers: HeaderOps,
    /// In place of the action's.
    pub rewrite: Option<Rewrite>,
    /// Beside the action's.
    pub mirrors: Vec<Mirror>,
}

impl Backend {
    pub fn new(to: BackendRef, weight: u32) -> Self {
        let (request_headers, response_headers) = <(HeaderOps, HeaderOps)>::default();
        Self { to, weight, request_headers, response_headers, rewrite: None, mirrors: Vec::new() }
    }
}

/// Where a request is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum BackendRef {
    Service {
        service: ServiceKey,
        port: u16,
        /// Of the service's DestinationRule.
        subset: Option<Arc<str>>,
    },
    /// Nowhere: the object names what is not there or may not be named. Answered with 500.
    Invalid { reason: Arc<str> },
}

/// The unset parts are those of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Arc<str>>,
    pub host: Option<Arc<str>>,
    pub port: RedirectPort,
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum RedirectPort {
    /// Said only where the request said one and the host stays; beside a changed scheme not that of the old one (Envoy).
    #[default]
    Unchanged,
    /// That of the scheme, which is not written.
    OfScheme,
    /// The port that the client dialled; written unless it is that of the scheme.
    OfRequest,
    /// Written unless it is that of the scheme.
    Number(u16),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rewrite {
    pub path: Option<PathChange>,
    pub host: Option<Arc<str>>,
}

/// A new path; the query stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum PathChange {
    Full(Arc<str>),
    /// In place of what the match's prefix covers.
    Prefix(Arc<str>),
    /// Every match of the pattern; `\1` names a group.
    Regex {
        pattern: Pattern,
        with: Arc<str>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: u16,
    /// At most 1 MiB.
    pub body: Arc<[u8]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fault {
    pub delay: Option<Delay>,
    pub abort: Option<Abort>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    pub of: Duration,
    pub share: Percent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abort {
    pub with: AbortWith,
    pub share: Percent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum AbortWith {
    /// 200 to 599.
    Http(u16),
    /// 0 to 16.
    Grpc(u8),
}

/// A share of all cases, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percent(u32);

impl Percent {
    pub const ALL: Self = Self(1_000_000);
    pub const NONE: Self = Self(0);

    /// From 0.0 to 100.0, to the fourth decimal; what lies outside is cut off.
    #[allow(clippy::cast_sign_loss, reason = "the clamp leaves nothing below zero")]
    pub fn of(percent: f64) -> Self {
        Self((percent.clamp(0.0, 100.0) * 10_000.0).round() as u32)
    }

    /// Draws.
    pub fn hits(self, rng: &mut Rng) -> bool {
        self.0 > 0 && rng.u32(..Self::ALL.0) < self.0
    }

    /// From 0.0 to 100.0.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

/// A copy of the request whose answer nobody reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    pub to: BackendRef,
    pub share: Percent,
}

/// Cross-origin requests, answered as Envoy's CORS filter does (Fetch standard, §3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cors {
    pub allow_origins: Vec<TextMatch>,
    pub allow_methods: Vec<Arc<str>>,
    pub allow_headers: Vec<Arc<str>>,
    pub expose_headers: Vec<Arc<str>>,
    pub max_age: Option<Duration>,
    pub allow_credentials: bool,
    pub unmatched_preflights: UnmatchedPreflights,
}

/// What becomes of a preflight whose origin is not allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnmatchedPreflights {
    #[default]
    Forward,
    Ignore,
}
