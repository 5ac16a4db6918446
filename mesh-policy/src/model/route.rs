//! How requests and connections to a service's port are routed: one model for Istio's VirtualService and the Gateway
//! API's routes.
//!
//! Precedence is settled where routes are translated: in a [`Routes`] the first rule that matches wins. What no rule
//! matches is refused if there are rules at all (404), and goes to the service itself where there are none.

mod action;
mod matcher;
mod retry;

use std::{fmt, net::IpAddr, sync::Arc};

pub use action::{
    Abort, AbortWith, Backend, BackendRef, Cors, Delay, DirectResponse, Fault, HttpAction, Mirror, PathChange, Percent, Redirect,
    RedirectPort, Rewrite, Target, UnmatchedPreflights,
};
use ipnet::IpNet;
pub use matcher::{ClientMatch, HttpMatch, PathMatch, QueryMatch};
pub use retry::{RetryCondition, RetryOn, RetryPolicy};
use serde::{Deserialize, Serialize};

use super::ServiceKey;

/// Where a set of routes applies: a port of a service, for all clients or for those of one namespace only, whose own
/// routes come in place of everybody's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutesKey {
    pub service: ServiceKey,
    pub port: u16,
    /// None: the routes of the service's owner, for every client.
    pub consumer: Option<Arc<str>>,
}

/// `namespace/hostname:port`, and `@namespace` for the routes of one namespace's clients.
impl fmt::Display for RoutesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)?;
        self.consumer.as_ref().map_or(Ok(()), |consumer| write!(f, "@{consumer}"))
    }
}

/// All rules of a port. HTTP rules count where the port speaks HTTP; TLS rules, then TCP rules, where it does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routes {
    pub key: RoutesKey,
    pub http: Vec<HttpRule>,
    pub tls: Vec<TlsRule>,
    pub tcp: Vec<TcpRule>,
}

/// The object and the place in it that a rule comes from: shown by `meshctl explain` and in logs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// `VirtualService`, `HTTPRoute`, `GRPCRoute`, `TLSRoute` or `TCPRoute`.
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Such as `spec.http[2]`.
    pub field: Arc<str>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{} {}", self.kind, self.namespace, self.name, self.field)
    }
}

/// Requests that one of `matches` describes are treated so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpRule {
    /// `%ROUTE_NAME%` of the access log; empty for a rule without a name.
    pub name: Arc<str>,
    pub origin: Origin,
    /// None: every request.
    pub matches: Vec<HttpMatch>,
    pub action: Arc<HttpAction>,
}

/// Connections that begin with a TLS ClientHello, passed on as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsRule {
    pub origin: Origin,
    /// Exact names, or `*.` and a suffix; one must match. None: any name, or none.
    pub sni: Vec<Arc<str>>,
    pub when: ConnectionMatch,
    pub backends: Vec<Backend>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpRule {
    pub origin: Origin,
    pub when: ConnectionMatch,
    pub backends: Vec<Backend>,
}

/// Conditions on a connection; every one that is not empty must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionMatch {
    /// Any of these; none: all.
    pub clients: Vec<ClientMatch>,
    /// Of the address dialled.
    pub destination_subnets: Vec<IpNet>,
    /// Of the client.
    pub source_subnets: Vec<IpNet>,
}

impl ConnectionMatch {
    /// Whether the addresses are within the subnets; clients are judged by [`ClientMatch::is`].
    pub fn addresses_match(&self, source: IpAddr, destination: IpAddr) -> bool {
        let within = |subnets: &[IpNet], address: IpAddr| {
            subnets.is_empty() || subnets.iter().any(|subnet| subnet.contains(&address.to_canonical()))
        };
        within(&self.source_subnets, source) && within(&self.destination_subnets, destination)
    }
}
