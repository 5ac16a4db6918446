//! An explanation in one line: what the client gets.

use mesh_policy::{
    explain::{Answer, Authorization, Backend, BoundTo, Endpoint, Explanation, Judgement},
    model::{Abort, AbortWith, Percent},
};
use serde::{Deserialize, Serialize};

use crate::words::{percent, place};

/// What kind of answer a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// An application answers.
    Routed,
    Redirected,
    /// The node answers as a rule says: a direct response, or a fault that every request meets.
    Responded,
    /// Every endpoint that may be picked refuses it by policy.
    Denied,
    NoRoute,
    /// There is a way, and nobody at its end.
    NoEndpoint,
    /// The address is nothing that can be connected to.
    Refused,
    /// Outside the mesh.
    Passthrough,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Outcome {
    #[serde(rename = "outcome")]
    pub(crate) kind: Kind,
    pub(crate) summary: String,
    /// Of an answer that no application gives.
    pub(crate) status: Option<u16>,
    pub(crate) location: Option<String>,
    /// The policy, `namespace/name`; None where no ALLOW policy matched, or nothing was denied.
    pub(crate) denied_by: Option<String>,
}

impl Outcome {
    pub(crate) fn of(explanation: &Explanation) -> Self {
        if explanation.answer == Some(Answer::NotRegistered) {
            return answered(&Answer::NotRegistered);
        }
        match &explanation.bound {
            BoundTo::Unknown { code } | BoundTo::Refused { code } => {
                return Self::new(Kind::Refused, None, format!("connection refused: {code}"));
            }
            BoundTo::Passthrough { service } => {
                let of = service.as_ref().map(|service| format!(", as {service} says")).unwrap_or_default();
                return Self::new(Kind::Passthrough, None, format!("passed on to {} as it is{of}", explanation.dialled));
            }
            BoundTo::Service { .. } | BoundTo::Entry { .. } | BoundTo::Workload { .. } => {}
        }
        let abort = explanation.treatment.as_ref().and_then(|treatment| treatment.fault.abort);
        if let Some(Abort { with, share: Percent::ALL }) = abort {
            return aborted(with);
        }
        match &explanation.answer {
            Some(answer) => answered(answer),
            None => forwarded(explanation, abort.as_ref()),
        }
    }

    fn new(kind: Kind, status: Option<u16>, summary: String) -> Self {
        Self { kind, summary, status, location: None, denied_by: None }
    }
}

fn aborted(with: AbortWith) -> Outcome {
    let (status, text) = match with {
        AbortWith::Http(status) => (status, format!("{status} fault filter abort")),
        AbortWith::Grpc(code) => (200, format!("grpc-status {code}: fault filter abort")),
    };
    Outcome::new(Kind::Responded, Some(status), format!("{text}, by the rule's fault"))
}

fn answered(answer: &Answer) -> Outcome {
    match answer {
        Answer::Redirect { status, location } => Outcome {
            location: Some(location.clone()),
            ..Outcome::new(Kind::Redirected, Some(*status), format!("{status} redirected to {location}"))
        },
        Answer::Respond { status } => {
            Outcome::new(Kind::Responded, Some(*status), format!("{status} answered by the rule itself"))
        }
        Answer::NotRegistered => {
            let text = "502 no ServiceEntry stands for the host, and outboundTrafficPolicy is REGISTRY_ONLY";
            Outcome::new(Kind::Refused, Some(502), text.into())
        }
        Answer::NoRoute => Outcome::new(Kind::NoRoute, Some(404), "404 no route".into()),
        Answer::NoBackend => {
            Outcome::new(Kind::NoEndpoint, Some(500), "500 no backend: the rule names none, or none with a weight".into())
        }
    }
}

fn forwarded(explanation: &Explanation, abort: Option<&Abort>) -> Outcome {
    let used = || explanation.backends.iter().filter(|backend| backend.weight > 0);
    if let (Some(first), false) = (used().next(), used().any(|backend| backend.unavailable.is_none())) {
        return unavailable(explanation.http, first);
    }
    let picked = || used().flat_map(|backend| backend.endpoints.iter().filter(|endpoint| endpoint.tier.is_some()));
    let denied = || picked().filter_map(denial);
    let failing =
        used().filter_map(|backend| Some(format!("; {} fail: {}", percent(backend.percent), backend.unavailable.as_ref()?)));
    let failing: String = failing.collect();
    if let Some(judgement) = denied().next().filter(|_| denied().count() == picked().count()) {
        let mut outcome = refused(explanation.http, judgement);
        outcome.summary += &failing;
        return outcome;
    }
    let way = |backend: &Backend| {
        let share = if backend.percent < 100.0 { format!(" ({})", percent(backend.percent)) } else { String::new() };
        let to = match (&backend.service, backend.endpoints.as_slice()) {
            (None, [workload]) => workload.workload.clone(),
            _ => place(backend.service.as_deref(), backend.port, backend.subset.as_deref()),
        };
        format!("{to}{share}")
    };
    let ways: Vec<_> = used().filter(|backend| backend.unavailable.is_none()).map(way).collect();
    let begin = if explanation.http { "200-class: routed to" } else { "connected to" };
    let mut summary = format!("{begin} {}", ways.join(", "));
    summary += &failing;
    if denied().next().is_some() {
        summary += &format!("; {} of {} endpoints deny it", denied().count(), picked().count());
    }
    if let Some(abort) = abort.filter(|abort| abort.share != Percent::NONE) {
        summary += &format!("; {} are aborted by the rule's fault", percent(abort.share.as_f64()));
    }
    Outcome::new(Kind::Routed, None, summary)
}

/// Of the first backend, where all fail. The node answers 500 where a route names what is invalid, else 503.
fn unavailable(http: bool, backend: &Backend) -> Outcome {
    let why = backend.unavailable.as_deref().unwrap_or_default();
    let readable = if why == "NO_HEALTHY_ENDPOINT" { "no healthy endpoint" } else { why };
    let (status, summary) = match (http, &backend.service) {
        (true, Some(_)) => (Some(503), format!("503 {readable}")),
        (true, None) => (Some(500), format!("500 {readable}")),
        (false, _) => (None, format!("connection refused: {why}")),
    };
    Outcome::new(Kind::NoEndpoint, status, summary)
}

fn refused(http: bool, judgement: &Judgement) -> Outcome {
    let (status, begin) = if http { (Some(403), "403 RBAC: access denied") } else { (None, "connection refused: access denied") };
    let outcome = Outcome::new(Kind::Denied, status, format!("{begin} {}", denier(judgement)));
    Outcome { denied_by: judgement.policy.clone(), ..outcome }
}

fn denial(endpoint: &Endpoint) -> Option<&Judgement> {
    match &endpoint.authorization {
        Authorization::Judged { outcome, .. } if !outcome.allowed => Some(outcome),
        Authorization::Judged { .. } | Authorization::NotEnforced => None,
    }
}

/// `by shop/policy rule[0]`, or why without one.
pub(super) fn denier(judgement: &Judgement) -> String {
    let Judgement { allowed: _, code, policy, rule } = judgement;
    match (policy, rule, code) {
        (Some(policy), Some(rule), _) => format!("by {policy} rule[{rule}]"),
        (Some(policy), None, _) => format!("by {policy}"),
        (None, _, Some("NO_ALLOW_MATCHED")) => "as no ALLOW policy matches".to_owned(),
        (None, _, code) => format!("({})", code.unwrap_or("no reason")),
    }
}
