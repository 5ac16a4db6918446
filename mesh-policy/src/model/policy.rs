//! Authorization on what the transport knows (identities, addresses, ports) and on HTTP requests.
//!
//! The nesting is that of `istio.security.Authorization`, each level named: a policy matches if any [`Rule`] does; a
//! rule if all its [`Clause`]s do; a clause if it has no [`Match`] or any of them does; a match if it has attributes
//! and all of them do.

use std::{fmt, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::header::Name;

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
    /// What only an HTTP request has.
    pub request: RequestMatch,
}

/// Attributes of an HTTP request, beside those of its connection and judged like them.
///
/// Where there is no request to look at (the traffic is not HTTP), a match that allows does not hold, and one that denies
/// holds as if these attributes were not there.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RequestMatch {
    /// Compared without case; a value without port means any port.
    pub hosts: Vec<StringMatch>,
    pub not_hosts: Vec<StringMatch>,
    pub methods: Vec<StringMatch>,
    pub not_methods: Vec<StringMatch>,
    /// Of the normalised path, without query.
    pub paths: Vec<PathPattern>,
    pub not_paths: Vec<PathPattern>,
    /// The client's address as a trusted proxy in front tells it, else that of the connection.
    pub remote_ips: Vec<IpMatch>,
    pub not_remote_ips: Vec<IpMatch>,
    /// All must hold.
    pub headers: Vec<HeaderCondition>,
}

/// One of `values` if there are any, and none of `not_values`, among all values that the request has of the header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderCondition {
    pub name: Name,
    pub values: Vec<StringMatch>,
    pub not_values: Vec<StringMatch>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum PathPattern {
    Text(StringMatch),
    Template(PathTemplate),
}

/// A path with `{*}` for one segment and `{**}`, once and only before a literal end, for any number of them (Envoy's URI
/// templates).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    source: Arc<str>,
    parts: Arc<[TemplatePart]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TemplatePart {
    Literal(Arc<str>),
    Segment,
    Segments,
}

/// Why a text is no path template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a path template (`/` between literals, `{{*}}` and at most one `{{**}}`, which no other operator follows): {found:?}"
)]
pub struct PathTemplateError {
    pub found: String,
}

impl PathTemplate {
    pub fn new(source: &str) -> Result<Self, PathTemplateError> {
        let error = || PathTemplateError { found: source.chars().take(256).collect() };
        let rest = source.strip_prefix('/').ok_or_else(error)?;
        let mut parts = Vec::new();
        for part in rest.split('/') {
            let follows_any = parts.contains(&TemplatePart::Segments);
            parts.push(match part {
                "{*}" | "{**}" if follows_any => return Err(error()),
                "{*}" => TemplatePart::Segment,
                "{**}" => TemplatePart::Segments,
                literal if literal.contains(['{', '}', '*']) => return Err(error()),
                literal => TemplatePart::Literal(literal.into()),
            });
        }
        Ok(Self { source: source.into(), parts: parts.into() })
    }

    /// Whether a path, normalised and without query, has this form. A `{*}` takes a segment that is not empty.
    pub fn is(&self, path: &str) -> bool {
        fn fits(parts: &[TemplatePart], segments: &[&str]) -> bool {
            match (parts.split_first(), segments.split_first()) {
                (None, None) => true,
                (Some((TemplatePart::Literal(literal), parts)), Some((segment, segments))) => {
                    **literal == **segment && fits(parts, segments)
                }
                (Some((TemplatePart::Segment, parts)), Some((segment, segments))) => !segment.is_empty() && fits(parts, segments),
                // Only literals follow, so that they are the path's end. `/a/{**}` holds `/a/`, and not `/a` (Envoy).
                (Some((TemplatePart::Segments, parts)), _) => {
                    let taken = segments.len().checked_sub(parts.len()).filter(|taken| *taken > 0);
                    taken.is_some_and(|taken| fits(parts, &segments[taken..]))
                }
                (None, Some(_)) | (Some(_), None) => false,
            }
        }
        let Some(rest) = path.strip_prefix('/') else { return false };
        fits(&self.parts, &rest.split('/').collect::<Vec<_>>())
    }

    pub fn as_str(&self) -> &str {
        &self.source
    }
}

impl Serialize for PathTemplate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

impl<'de> Deserialize<'de> for PathTemplate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IpMatch(pub IpNet);
