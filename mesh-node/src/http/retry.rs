//! Whether a failed try is made again.

use std::time::Duration;

use fastrand::Rng;
use http::{HeaderMap, HeaderName};
use mesh_policy::model::{RetryCondition, RetryOn, RetryPolicy};

use super::{error::ExchangeError, upstream::SendErrorKind};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const X_ENVOY_RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// How a try ended.
pub(super) enum Outcome<'a> {
    Answered { status: u16, headers: &'a HeaderMap },
    Failed { error: &'a ExchangeError, sent_whole: bool },
}

/// Whether the policy wants another try after this one.
pub(super) fn wants(on: &RetryOn, outcome: &Outcome<'_>) -> bool {
    let RetryOn { conditions, statuses, headers } = on;
    conditions.iter().any(|condition| holds(*condition, outcome, statuses, headers))
}

fn holds(condition: RetryCondition, outcome: &Outcome<'_>, statuses: &[u16], marks: &[mesh_policy::model::header::Name]) -> bool {
    use RetryCondition as On;
    match outcome {
        Outcome::Answered { status, headers } => match condition {
            On::Status5xx => *status >= 500,
            On::GatewayError => matches!(status, 502..=504),
            On::EnvoyRatelimited => headers.contains_key(X_ENVOY_RATELIMITED),
            On::Retriable4xx => *status == 409,
            On::RetriableStatusCodes => statuses.contains(status),
            On::RetriableHeaders => marks.iter().any(|mark| headers.contains_key(&mark.0)),
            On::Cancelled => grpc_is(headers, 1),
            On::DeadlineExceeded => grpc_is(headers, 4),
            On::ResourceExhausted => grpc_is(headers, 8),
            On::Internal => grpc_is(headers, 13),
            On::Unavailable => grpc_is(headers, 14),
            On::Reset | On::ResetBeforeRequest | On::ConnectFailure | On::RefusedStream | On::Http3PostConnectFailure => false,
        },
        Outcome::Failed { error, sent_whole } => match condition {
            // What such a failure would be answered with counts.
            On::Status5xx | On::GatewayError | On::Reset => is_no_answer(error),
            On::ResetBeforeRequest => is_no_answer(error) && !sent_whole,
            On::ConnectFailure => matches!(error, ExchangeError::Connect(_)),
            On::RefusedStream => matches!(error, ExchangeError::Send(error) if error.kind == SendErrorKind::Refused),
            On::RetriableStatusCodes
            | On::EnvoyRatelimited
            | On::Retriable4xx
            | On::RetriableHeaders
            | On::Http3PostConnectFailure
            | On::Cancelled
            | On::DeadlineExceeded
            | On::Internal
            | On::ResourceExhausted
            | On::Unavailable => false,
        },
    }
}

/// The endpoint did not answer. A refusal by policy is an answer, and a broken request no endpoint's fault.
fn is_no_answer(error: &ExchangeError) -> bool {
    match error {
        ExchangeError::Connect(_) | ExchangeError::PerTryTimeout(_) | ExchangeError::UnaskedSwitch => true,
        ExchangeError::Send(error) => error.kind != SendErrorKind::RequestBody,
        ExchangeError::BadRequest(_)
        | ExchangeError::NoRoute
        | ExchangeError::Slow(_)
        | ExchangeError::InvalidBackend { .. }
        | ExchangeError::InvalidGrpcBackend { .. }
        | ExchangeError::NoUpstream { .. }
        | ExchangeError::NotRegistered { .. }
        | ExchangeError::Ambiguous(_)
        | ExchangeError::Gone(_)
        | ExchangeError::Overflow(_)
        | ExchangeError::Timeout(_)
        | ExchangeError::Answered(_)
        | ExchangeError::Denied { .. } => false,
    }
}

/// Of an answer without body only: otherwise the status comes with the trailers, when it is too late.
fn grpc_is(headers: &HeaderMap, status: u8) -> bool {
    headers.get(GRPC_STATUS).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok()) == Some(status)
}

/// How long to wait before the `number`th retry (from 1): drawn below a bound that doubles, up to ten times the first.
pub(super) fn backoff(policy: &RetryPolicy, number: u32, rng: &mut Rng) -> Duration {
    let bound = policy.backoff.saturating_mul(1 << number.min(5).saturating_sub(1)).min(policy.backoff.saturating_mul(10));
    bound.mul_f64(rng.f64()).max(policy.shortest_wait)
}
