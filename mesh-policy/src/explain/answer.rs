//! The parts of an explanation, as they are printed and written.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde::Serialize;

use crate::model::{Cors, Fault, HeaderOps, HttpAction, Mirror, Origin, PathChange, RetryPolicy, Target, TrafficPolicy};

/// Why a client's connection or request is treated as it is, from its start to the application.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// `namespace/name`.
    pub source: String,
    /// SPIFFE identity that the destination sees; None: the client is not captured, and nobody vouches for it.
    pub source_identity: Option<String>,
    pub dialled: SocketAddr,
    pub bound: BoundTo,
    /// Whether requests are told apart, so that HTTP rules count.
    pub http: bool,
    pub route: Route,
    /// What is answered without asking any endpoint; None: the request is forwarded.
    pub answer: Option<Answer>,
    /// What is done to the request beside forwarding it; None: it is not HTTP, or no rule matches.
    pub treatment: Option<Treatment>,
    /// By weight; one where no rule applies.
    pub backends: Vec<Backend>,
}

/// What the address stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum BoundTo {
    /// `namespace/hostname` and its port.
    Service {
        service: String,
        port: u16,
    },
    /// A ServiceEntry, which the host or the server name says: the address is nobody's.
    Entry {
        service: String,
        port: u16,
    },
    /// A workload's own address; the headless service that the host names, if any.
    Workload {
        workload: String,
        service: Option<String>,
    },
    /// Outside the mesh, or as a ServiceEntry without endpoints says: passed on as it is.
    Passthrough {
        service: Option<String>,
    },
    /// The address lies in the mesh and nobody has it: waited for, then refused.
    Unknown {
        code: &'static str,
    },
    Refused {
        code: &'static str,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Route {
    /// No rules: to what is addressed.
    None,
    /// There are rules and none matches.
    NoRule { routes: String, passed_over: Vec<PassedOver> },
    Rule {
        /// `namespace/hostname:port`, and `@namespace` for one namespace's own.
        routes: String,
        origin: Origin,
        name: Arc<str>,
        /// Which of the rule's matches held, from 0; None: it is for all.
        matched: Option<usize>,
        /// The rules before it.
        passed_over: Vec<PassedOver>,
    },
}

/// A rule that did not match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    pub origin: Origin,
    pub name: Arc<str>,
    /// For each of its matches the condition that did not hold.
    pub failed: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Answer {
    Redirect {
        status: u16,
        location: String,
    },
    Respond {
        status: u16,
    },
    /// 404, `NR`.
    NoRoute,
    /// 500: the rule names no backend, or none with a weight.
    NoBackend,
    /// 502: no ServiceEntry stands for the host, and `outboundTrafficPolicy` is `REGISTRY_ONLY`.
    NotRegistered,
}

/// From the rule, as the node applies it; where there are no rules, what applies to every request.
#[derive(Clone, Debug, Serialize)]
pub struct Treatment {
    /// None: no limit.
    pub timeout: Option<Duration>,
    pub retry: RetryPolicy,
    /// The retry policy is the mesh's default.
    pub retry_is_default: bool,
    pub fault: Fault,
    pub request_headers: HeaderOps,
    pub response_headers: HeaderOps,
    pub mirrors: Vec<Mirror>,
    pub cors: Option<Cors>,
}

impl Treatment {
    pub(super) fn of(action: &HttpAction, default_retry: &RetryPolicy) -> Self {
        let HttpAction { target, rewrite: _, request_headers, response_headers, timeout, retry, fault, mirrors, cors } = action;
        let forwards = matches!(target, Target::Forward(_));
        Self {
            timeout: timeout.filter(|_| forwards),
            retry: retry.as_ref().unwrap_or(default_retry).clone(),
            retry_is_default: retry.is_none(),
            fault: *fault,
            request_headers: request_headers.clone(),
            response_headers: response_headers.clone(),
            mirrors: mirrors.clone(),
            cors: cors.clone(),
        }
    }
}

/// A place that requests are sent to.
#[derive(Clone, Debug, Serialize)]
pub struct Backend {
    /// `namespace/hostname`; None: a workload that was dialled itself and stands behind no service.
    pub service: Option<String>,
    pub port: u16,
    pub subset: Option<Arc<str>>,
    pub weight: u32,
    /// Of all requests, 0 to 100.
    pub percent: f64,
    /// Path and query that the application gets.
    pub path: Option<String>,
    /// The authority that the application gets.
    pub host: Option<String>,
    pub path_change: Option<PathChange>,
    /// The DestinationRule, `namespace/name`.
    pub destination_rule: Option<Arc<str>>,
    pub policy: TrafficPolicy,
    /// Why no endpoint can be picked, as a reason code; of a backend that is invalid the reason itself.
    pub unavailable: Option<String>,
    /// The best first; then those that are not picked.
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Endpoint {
    /// `namespace/name`.
    pub workload: String,
    /// None: looked up by the workload's hostname.
    pub address: Option<SocketAddr>,
    pub healthy: bool,
    /// From 0, the nearest; the next are used as those before are not healthy, or by share. None: not picked.
    pub tier: Option<usize>,
    /// `region/zone/subzone`.
    pub locality: String,
    pub node: Arc<str>,
    pub transport: Transport,
    pub authorization: Authorization,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Transport {
    /// Mutual TLS to the endpoint, who must prove one of these identities.
    Hbone { expected: Vec<String> },
    /// Handed over within the node, which knows both.
    SameNode,
    /// The endpoint is not part of the mesh.
    Plaintext,
}

/// The endpoint's policies on the request as it arrives there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Authorization {
    /// The endpoint is not captured: nobody asks its policies.
    NotEnforced,
    Judged {
        outcome: Judgement,
        /// If dry-run policies were enforced.
        dry_run: Option<Judgement>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judgement {
    pub allowed: bool,
    /// Of a refusal: `POLICY_DENY`, `NO_ALLOW_MATCHED` or `POLICY_NOT_LOADED`.
    pub code: Option<&'static str>,
    /// `namespace/name`.
    pub policy: Option<String>,
    /// The rule of the policy, from 0.
    pub rule: Option<usize>,
}
