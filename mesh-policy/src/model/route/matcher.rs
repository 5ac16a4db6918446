//! What a request must be like for a rule to apply.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::model::{HeaderMatch, Pattern, TextMatch, Workload};

/// Every condition that is there must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpMatch {
    /// VirtualService's name of the match; part of `%ROUTE_NAME%`.
    pub name: Arc<str>,
    pub path: Option<PathMatch>,
    /// The path is compared without regard to ASCII case (exact and prefix only).
    pub ignore_path_case: bool,
    pub method: Option<TextMatch>,
    pub scheme: Option<TextMatch>,
    /// Of the Host header or `:authority`; case does not count, and a port only where the condition says one.
    pub authority: Option<TextMatch>,
    /// All must match. A header that is not there matches nothing.
    pub headers: Vec<HeaderMatch>,
    /// None may match; one that is not there counts as empty, as Istio has it.
    pub without_headers: Vec<HeaderMatch>,
    /// All must match, each by the first parameter of its name, not decoded.
    pub query: Vec<QueryMatch>,
    /// The client is one of these; none: all.
    pub clients: Vec<ClientMatch>,
}

/// A condition on the path, which has been normalised and is without query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum PathMatch {
    Exact(Arc<str>),
    /// Whole segments, as the Gateway API has it: `/a` holds `/a` and `/a/b`, and not `/ab`.
    Segments(Arc<str>),
    /// Any text that begins so, as VirtualService has it.
    Prefix(Arc<str>),
    Regex(Pattern),
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) => write!(f, "= {exact}"),
            Self::Segments(prefix) => write!(f, "under {prefix}"),
            Self::Prefix(prefix) => write!(f, "= {prefix}*"),
            Self::Regex(pattern) => write!(f, "~ {pattern}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryMatch {
    /// Compared with case, not decoded.
    pub name: Arc<str>,
    pub value: TextMatch,
}

/// A condition on who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientMatch {
    pub namespace: Option<Arc<str>>,
    /// All of these labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
}

impl ClientMatch {
    pub fn is(&self, client: &Workload) -> bool {
        let Self { namespace, labels } = self;
        namespace.as_ref().is_none_or(|namespace| *namespace == client.namespace)
            && labels.iter().all(|(name, value)| client.labels.get(name) == Some(value))
    }
}
