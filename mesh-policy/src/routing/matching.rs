//! What each condition of a rule means.
//!
//! Where the specifications leave it open, as Envoy: query parameters are compared undecoded, the first of a name; a
//! prefix of VirtualService is any text, one of the Gateway API whole segments. A header matches by any of its values, as
//! they came in or joined.

use std::fmt;

use crate::{
    http::{Request, bytes_match},
    model::{ClientMatch, HeaderMatch, HttpMatch, PathMatch, QueryMatch, TextMatch, Workload},
};

/// The first condition of a match that does not hold. Writes itself as the condition that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch<'a> {
    Client(&'a [ClientMatch]),
    Method(&'a TextMatch),
    Scheme(&'a TextMatch),
    Authority(&'a TextMatch),
    Path(&'a PathMatch),
    Header(&'a HeaderMatch),
    WithoutHeader(&'a HeaderMatch),
    Query(&'a QueryMatch),
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(clients) => {
                f.write_str("client is ")?;
                clients.iter().enumerate().try_for_each(|(at, one)| {
                    let or = if at > 0 { " or " } else { "" };
                    let namespace = one.namespace.as_deref().unwrap_or("any namespace");
                    write!(f, "{or}in {namespace}")?;
                    one.labels.iter().try_for_each(|(name, value)| write!(f, ", {name}={value}"))
                })
            }
            Self::Method(text) => write!(f, "method {text}"),
            Self::Scheme(text) => write!(f, "scheme {text}"),
            Self::Authority(text) => write!(f, "authority {text}"),
            Self::Path(path) => write!(f, "path {path}"),
            Self::Header(header) => write!(f, "header {} {}", header.name, header.value),
            Self::WithoutHeader(header) => write!(f, "without header {} {}", header.name, header.value),
            Self::Query(query) => write!(f, "query parameter {} {}", query.name, query.value),
        }
    }
}

/// Whether a match holds for a client's request, and what fails if not.
pub fn judge<'a>(one: &'a HttpMatch, client: &Workload, request: &Request<'_>) -> Result<(), Mismatch<'a>> {
    let HttpMatch { name: _, path, ignore_path_case, method, scheme, authority, headers, without_headers, query, clients } = one;
    let demand = |holds: bool, otherwise: Mismatch<'a>| if holds { Ok(()) } else { Err(otherwise) };
    if let Some(path) = path {
        demand(path_is(path, *ignore_path_case, request.path), Mismatch::Path(path))?;
    }
    if let Some(method) = method {
        demand(method.is(request.method.as_str()), Mismatch::Method(method))?;
    }
    for header in headers {
        demand(header_is(header, request), Mismatch::Header(header))?;
    }
    for header in without_headers {
        demand(header_is_not(header, request), Mismatch::WithoutHeader(header))?;
    }
    for query in query {
        let value = request.query_value(&query.name);
        demand(value.is_some_and(|value| query.value.is(value)), Mismatch::Query(query))?;
    }
    if let Some(authority) = authority {
        demand(request.host_matches(authority), Mismatch::Authority(authority))?;
    }
    if let Some(scheme) = scheme {
        demand(scheme.is(request.scheme), Mismatch::Scheme(scheme))?;
    }
    demand(clients.is_empty() || clients.iter().any(|one| one.is(client)), Mismatch::Client(clients))
}

fn path_is(wanted: &PathMatch, ignore_case: bool, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(exact) => exact.len() == path.len() && begins(path, exact, ignore_case),
        PathMatch::Prefix(prefix) => begins(path, prefix, ignore_case),
        PathMatch::Segments(prefix) => {
            let prefix = prefix.trim_end_matches('/');
            begins(path, prefix, ignore_case) && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
        }
        PathMatch::Regex(pattern) => pattern.is(path),
    }
}

/// Whether a path begins with a text, without regard to ASCII case if wanted.
pub(super) fn begins(path: &str, start: &str, ignore_case: bool) -> bool {
    let found = path.as_bytes().get(..start.len());
    found.is_some_and(|found| if ignore_case { found.eq_ignore_ascii_case(start.as_bytes()) } else { found == start.as_bytes() })
}

fn header_is(wanted: &HeaderMatch, request: &Request<'_>) -> bool {
    request.any_value(&wanted.name.0, |value| bytes_match(&wanted.value, value))
}

/// A header that is not there counts as an empty one (Istio sets Envoy's `treat_missing_header_as_empty`), so that a
/// condition which holds for an empty value can not be met by leaving the header out.
fn header_is_not(unwanted: &HeaderMatch, request: &Request<'_>) -> bool {
    let HeaderMatch { name, value } = unwanted;
    if request.has_header(&name.0) {
        return !header_is(unwanted, request);
    }
    *value == TextMatch::Present || !value.is("")
}
