//! Authorization on what the transport knows: identities, addresses, ports.
//!
//! The nesting is that of `istio.security.Authorization`, each level named: a policy matches if any [`Rule`] does; a
//! rule if all its [`Clause`]s do; a clause if it has no [`Match`] or any of them does; a match if it has attributes
//! and all of them do.

use std::{fmt, sync::Arc};

use ipnet::IpNet;

/// `namespace/name`, as policies are named on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    pub key: PolicyKey,
    pub scope: Scope,
    pub action: Action,
    /// Evaluated and reported, never enforced.
    pub dry_run: bool,
    /// None: the policy never matches (an ALLOW without rules denies all).
    pub rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every workload of the mesh.
    Global,
    /// Every workload of the policy's namespace.
    Namespace,
    /// The workloads that name it.
    Workload,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Allow,
    Deny,
}

/// All clauses must hold; without clauses it always does.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Rule {
    pub clauses: Vec<Clause>,
}

/// One match must hold; without matches it always does.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Clause {
    pub matches: Vec<Match>,
}

/// Every attribute that is not empty must hold: one of its values, and none of its `not_` values. Without attributes it
/// never holds, which is how the wire says "what stood here was not understood".
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Match {
    pub namespaces: Vec<StringMatch>,
    pub not_namespaces: Vec<StringMatch>,
    pub service_accounts: Vec<ServiceAccountMatch>,
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    /// Compared with the identity without `spiffe://`.
    pub principals: Vec<StringMatch>,
    pub not_principals: Vec<StringMatch>,
    pub source_ips: Vec<IpMatch>,
    pub not_source_ips: Vec<IpMatch>,
    pub destination_ips: Vec<IpMatch>,
    pub not_destination_ips: Vec<IpMatch>,
    pub destination_ports: Vec<u16>,
    pub not_destination_ports: Vec<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StringMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    /// Any value that is there at all.
    Presence,
}

/// A service account of one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAccountMatch {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// An address or a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpMatch(pub IpNet);
