//! Leaving endpoints out for a time that keep failing: Envoy's outlier detection, by consecutive errors.
//!
//! One [`Detector`] is one client pod's judgement of the endpoints of one service, port and subset. It has no clock: every
//! call is given the time, on any clock that does not go back.
//!
//! As in Envoy, of which Istio uses this part:
//!
//! - An endpoint is ejected when it has failed so many times in a row: with any 5xx, with a gateway error (502, 503, 504),
//!   or, with `splitExternalLocalOriginErrors`, by not being reached. Without the split a failed connection counts as a 503
//!   and a timeout as a 504.
//! - It returns at the first multiple of `interval` after `baseEjectionTime` times its ejections, at most 300 s or
//!   `baseEjectionTime` if that is longer; every interval in which it is not out takes one from that number.
//! - `maxEjectionPercent` is never exceeded, not even by the first: with the default of 10 % nothing of a service of
//!   fewer than ten endpoints is ejected (Envoy since 1.29, whose `always_eject_one_host` Istio does not set).
//! - Statuses that DestinationRule names in `outlierDetectionHttpErrorCodes` count as 500, and all others as successes.
//!
//! Otherwise than in Envoy, an answer is a success of the connection too, and a timeout is not preceded by one: with the
//! split, endpoints that accept connections and never answer are ejected.
//!
//! `minHealthPercent` does not hinder an ejection. It says when ejections are ignored ([`Picker`](super::Picker)).
//!
//! What a policy refuses (a 403 of `RBAC`, a HBONE answer of 401 or 403) says nothing of an endpoint: do not record it.

use std::{collections::HashMap, time::Duration};

use crate::model::{OutlierDetection, WorkloadUid};

/// Envoy's default, which Istio does not set.
const MAX_EJECTION: Duration = Duration::from_mins(5);

/// How one attempt on an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With an HTTP status.
    Status(u16),
    /// With the status of a gRPC call, which travels under HTTP's 200.
    Grpc(u8),
    /// Without an answer: refused, reset, no HBONE tunnel, failed TLS.
    ConnectFailed,
    /// Without an answer in time.
    TimedOut,
    /// A connection that carries no requests was opened.
    Opened,
}

impl Outcome {
    /// Whether it clears what an endpoint did before.
    pub fn is_success(self, policy: &OutlierDetection) -> bool {
        matches!(sign(policy, self), Sign::Success)
    }
}

/// What an endpoint did too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    Consecutive5xx,
    ConsecutiveGatewayErrors,
    ConsecutiveLocalFailures,
}

impl Cause {
    /// As in Envoy's statistics (`outlier_detection.ejections_enforced_…`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayErrors => "consecutive_gateway_failure",
            Self::ConsecutiveLocalFailures => "consecutive_local_origin_failure",
        }
    }
}

/// What a recorded outcome led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    Nothing,
    Ejected(Cause),
    /// It would have been ejected, were not enough others already.
    Spared(Cause),
}

#[derive(Clone, Debug, Default)]
pub struct Detector {
    /// Only those that have anything to remember.
    hosts: HashMap<WorkloadUid, Host>,
    ejected: usize,
    /// The last tick that was worked off.
    ticked: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Host {
    in_a_row_5xx: u32,
    in_a_row_gateway: u32,
    in_a_row_local: u32,
    ejected_at: Option<Duration>,
    /// Multiplies the base ejection time.
    times: u32,
}

/// What an outcome is to the counters.
#[derive(Clone, Copy)]
enum Sign {
    Success,
    Error,
    GatewayError,
    LocalFailure,
}

impl Detector {
    /// Intervals are counted from `now`.
    pub fn new(now: Duration) -> Self {
        Self { hosts: HashMap::new(), ejected: 0, ticked: now }
    }

    /// Takes note of an outcome. `endpoints` is how many the service's port and subset has, ready or not.
    pub fn record(
        &mut self,
        policy: &OutlierDetection,
        uid: &WorkloadUid,
        outcome: Outcome,
        endpoints: usize,
        now: Duration,
    ) -> Judgement {
        self.advance(policy, now);
        let sign = sign(policy, outcome);
        let host = match self.hosts.get_mut(uid) {
            Some(host) => host,
            // Nothing to forget.
            None if matches!(sign, Sign::Success) => return Judgement::Nothing,
            None => self.hosts.entry(uid.clone()).or_default(),
        };
        if host.ejected_at.is_some() {
            return Judgement::Nothing;
        }
        let Some(cause) = host.count(policy, sign) else {
            if *host == Host::default() {
                self.hosts.remove(uid);
            }
            return Judgement::Nothing;
        };
        let share = 100 * (self.ejected + 1);
        if share > policy.max_ejection_percent.min(100) as usize * endpoints {
            return Judgement::Spared(cause);
        }
        if policy.base_ejection.saturating_mul(host.times) < longest(policy).saturating_add(policy.base_ejection) {
            host.times += 1;
        }
        host.ejected_at = Some(now);
        self.ejected += 1;
        Judgement::Ejected(cause)
    }

    /// Works off the intervals that have passed. Whether anybody returned.
    pub fn advance(&mut self, policy: &OutlierDetection, now: Duration) -> bool {
        let interval = policy.interval.max(Duration::from_millis(1));
        let passed = now.saturating_sub(self.ticked).as_nanos() / interval.as_nanos();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed == 0 {
            return false;
        }
        let since = self.ticked;
        self.ticked = since + interval * passed;
        let before = self.ejected;
        self.hosts.retain(|_, host| {
            if host.tick(policy, since, interval, passed) {
                self.ejected -= 1;
            }
            *host != Host::default()
        });
        self.ejected != before
    }

    pub fn is_ejected(&self, uid: &WorkloadUid) -> bool {
        self.hosts.get(uid).is_some_and(|host| host.ejected_at.is_some())
    }

    pub fn ejected(&self) -> impl Iterator<Item = &WorkloadUid> {
        self.hosts.iter().filter(|(_, host)| host.ejected_at.is_some()).map(|(uid, _)| uid)
    }

    pub fn ejected_count(&self) -> usize {
        self.ejected
    }

    /// The first moment at which [`Self::advance`] can return somebody; None while nobody is out.
    pub fn next_tick(&self, policy: &OutlierDetection) -> Option<Duration> {
        (self.ejected > 0).then(|| self.ticked + policy.interval.max(Duration::from_millis(1)))
    }

    /// Forgets endpoints that are gone: one that comes back under the same name is a new one.
    pub fn retain(&mut self, is_there: impl Fn(&WorkloadUid) -> bool) {
        self.hosts.retain(|uid, _| is_there(uid));
        self.ejected = self.hosts.values().filter(|host| host.ejected_at.is_some()).count();
    }

    /// How many endpoints it remembers anything of.
    pub fn remembered(&self) -> usize {
        self.hosts.len()
    }
}

impl Host {
    /// The counter that has come to its limit, which it starts again from.
    fn count(&mut self, policy: &OutlierDetection, sign: Sign) -> Option<Cause> {
        let is_gateway_error = match sign {
            Sign::Success => {
                (self.in_a_row_5xx, self.in_a_row_gateway, self.in_a_row_local) = (0, 0, 0);
                return None;
            }
            Sign::LocalFailure => {
                let reached = reaches(&mut self.in_a_row_local, policy.consecutive_local_failures);
                return reached.then_some(Cause::ConsecutiveLocalFailures);
            }
            Sign::Error => {
                self.in_a_row_gateway = 0;
                false
            }
            Sign::GatewayError => true,
        };
        if policy.split_local_errors {
            self.in_a_row_local = 0;
        }
        // Both count, whichever comes first.
        let by_gateway = is_gateway_error && reaches(&mut self.in_a_row_gateway, policy.consecutive_gateway_errors);
        let by_error = reaches(&mut self.in_a_row_5xx, policy.consecutive_5xx);
        match (by_gateway, by_error) {
            (true, _) => Some(Cause::ConsecutiveGatewayErrors),
            (false, true) => Some(Cause::Consecutive5xx),
            (false, false) => None,
        }
    }

    /// Lives through so many ticks after `since`. Whether it returned at one of them.
    fn tick(&mut self, policy: &OutlierDetection, since: Duration, interval: Duration, ticks: u32) -> bool {
        let Some(ejected_at) = self.ejected_at else {
            self.times = self.times.saturating_sub(ticks);
            return false;
        };
        let until = ejected_at + policy.base_ejection.saturating_mul(self.times).min(longest(policy));
        let at = u32::try_from(until.saturating_sub(since).as_nanos().div_ceil(interval.as_nanos())).unwrap_or(u32::MAX).max(1);
        if at > ticks {
            return false;
        }
        *self = Self { times: self.times.saturating_sub(ticks - at), ..Self::default() };
        true
    }
}

fn longest(policy: &OutlierDetection) -> Duration {
    MAX_EJECTION.max(policy.base_ejection)
}

/// Counts one more; at the limit from zero again, so that one that was spared must fail as often again. Zero: never.
fn reaches(counter: &mut u32, limit: u32) -> bool {
    if limit == 0 {
        return false;
    }
    *counter += 1;
    let reached = *counter >= limit;
    if reached {
        *counter = 0;
    }
    reached
}

fn sign(policy: &OutlierDetection, outcome: Outcome) -> Sign {
    match outcome {
        Outcome::ConnectFailed | Outcome::TimedOut if policy.split_local_errors => Sign::LocalFailure,
        Outcome::ConnectFailed | Outcome::TimedOut => Sign::GatewayError,
        Outcome::Opened => Sign::Success,
        Outcome::Status(status) => of_status(policy, status),
        Outcome::Grpc(status) => of_status(policy, http_of_grpc(status)),
    }
}

fn of_status(policy: &OutlierDetection, status: u16) -> Sign {
    if !policy.error_statuses.is_empty() {
        return if policy.error_statuses.contains(&status) { Sign::Error } else { Sign::Success };
    }
    match status {
        502..=504 => Sign::GatewayError,
        500.. => Sign::Error,
        _ => Sign::Success,
    }
}

/// What Envoy takes a gRPC status for (`Grpc::Utility::grpcToHttpStatus`).
fn http_of_grpc(status: u8) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

#[cfg(test)]
mod tests;
