//! When a failed request is tried again.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use crate::model::header::Name;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryPolicy {
    /// Tries after the first; zero: none.
    pub attempts: u32,
    /// None: only the route's timeout counts.
    pub per_try_timeout: Option<Duration>,
    pub on: RetryOn,
    /// The longest first wait; each wait is drawn below a bound that doubles up to ten times this (Envoy).
    pub backoff: Duration,
    /// No wait is shorter (the Gateway API's `retry.backoff`).
    #[serde(default)]
    pub shortest_wait: Duration,
    /// Another endpoint than those tried before.
    pub avoid_previous: bool,
    /// Endpoints of other localities too.
    pub remote_localities: bool,
}

/// Istio's default: twice more, 25 ms, on failures that can not have had an effect.
impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 2,
            per_try_timeout: None,
            on: RetryOn::default(),
            backoff: Duration::from_millis(25),
            shortest_wait: Duration::ZERO,
            avoid_previous: true,
            remote_localities: false,
        }
    }
}

impl RetryPolicy {
    pub fn never() -> Self {
        Self { attempts: 0, ..Self::default() }
    }
}

/// What counts as a failure to be tried again: any of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryOn {
    pub conditions: BTreeSet<RetryCondition>,
    /// For [`RetryCondition::RetriableStatusCodes`].
    pub statuses: Vec<u16>,
    /// For [`RetryCondition::RetriableHeaders`].
    pub headers: Vec<Name>,
}

/// `connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes` and 503, as Istio's code has it.
impl Default for RetryOn {
    fn default() -> Self {
        use RetryCondition::{Cancelled, ConnectFailure, RefusedStream, RetriableStatusCodes, Unavailable};
        Self {
            conditions: [ConnectFailure, RefusedStream, Unavailable, Cancelled, RetriableStatusCodes].into(),
            statuses: vec![503],
            headers: Vec::new(),
        }
    }
}

/// The vocabulary of Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RetryCondition {
    /// Any 5xx, or no answer at all.
    Status5xx,
    /// 502, 503 or 504.
    GatewayError,
    /// No answer: disconnect, reset, read timeout.
    Reset,
    /// The same before the request was sent whole.
    ResetBeforeRequest,
    ConnectFailure,
    /// Answers marked `x-envoy-ratelimited`.
    EnvoyRatelimited,
    /// 409.
    Retriable4xx,
    /// HTTP/2 REFUSED_STREAM.
    RefusedStream,
    RetriableStatusCodes,
    RetriableHeaders,
    Http3PostConnectFailure,
    // By grpc-status.
    Cancelled,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
}

impl RetryCondition {
    pub const ALL: [(Self, &'static str); 16] = [
        (Self::Status5xx, "5xx"),
        (Self::GatewayError, "gateway-error"),
        (Self::Reset, "reset"),
        (Self::ResetBeforeRequest, "reset-before-request"),
        (Self::ConnectFailure, "connect-failure"),
        (Self::EnvoyRatelimited, "envoy-ratelimited"),
        (Self::Retriable4xx, "retriable-4xx"),
        (Self::RefusedStream, "refused-stream"),
        (Self::RetriableStatusCodes, "retriable-status-codes"),
        (Self::RetriableHeaders, "retriable-headers"),
        (Self::Http3PostConnectFailure, "http3-post-connect-failure"),
        (Self::Cancelled, "cancelled"),
        (Self::DeadlineExceeded, "deadline-exceeded"),
        (Self::Internal, "internal"),
        (Self::ResourceExhausted, "resource-exhausted"),
        (Self::Unavailable, "unavailable"),
    ];

    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(condition, _)| condition)
    }

    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(condition, _)| *condition == self).map_or("", |(_, name)| name)
    }
}
