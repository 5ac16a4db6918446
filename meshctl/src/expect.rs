//! Expectations of a mesh's routes and policies, as users write them for their own checks, and whether they are met.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_policy::{
    explain::{Backend, Route},
    model::Snapshot,
};
use serde::Deserialize;

use crate::{
    ask::{Answer, Call, Kind},
    words::{limit, service},
};

/// A call and what should come of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expectation {
    /// In the user's own words.
    pub(crate) what: String,
    from: String,
    to: String,
    port: Option<u16>,
    #[serde(default = "get")]
    method: String,
    #[serde(default = "root")]
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    expect: Expected,
}

/// What is not said does not matter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Expected {
    outcome: Option<Kind>,
    /// The beginning of the rule's origin, whole words of it; `none` where no rule is followed.
    route: Option<String>,
    /// All that have a weight, with it; that of one alone does not matter. `NAME`, `NAMESPACE/NAME` or a host, then `:PORT`
    /// where it matters and `@SUBSET` where there is one.
    backends: Option<BTreeMap<String, u32>>,
    status: Option<u16>,
    location: Option<String>,
    /// Such as `500ms`, `2s`; `none`.
    timeout: Option<String>,
    /// `NAMESPACE/NAME` of a policy.
    denied_by: Option<String>,
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

/// Reads a list of expectations.
///
/// # Errors
///
/// When the text is none, naming the field; and when it expects nothing at all.
pub(crate) fn read(text: &str) -> Result<Vec<Expectation>> {
    let list: Vec<Expectation> = serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(!list.is_empty(), "no expectation");
    for one in &list {
        if let Some(text) = &one.expect.timeout {
            timeout(text).with_context(|| format!("{:?}: expect.timeout", one.what))?;
        }
    }
    Ok(list)
}

impl Expectation {
    /// What comes of the call; an error if it can not even be put.
    pub(crate) fn answer(&self, snapshot: &Snapshot) -> Result<Answer> {
        let Self { what: _, from, to, port, method, path, headers, expect: _ } = self;
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let (from, to, method, path) = (from.clone(), to.clone(), method.clone(), path.clone());
        Call { from, to, port: *port, method, path, headers }.put(snapshot)
    }

    /// What is other than expected, a sentence each.
    pub(crate) fn differences(&self, answer: &Answer) -> Vec<String> {
        let Expected { outcome, route, backends, status, location, timeout: wanted, denied_by } = &self.expect;
        let found = &answer.outcome;
        let mut differences = Vec::new();
        if let Some(wanted) = outcome.filter(|wanted| *wanted != found.kind) {
            differences.push(format!("outcome is {}, not {}", name(found.kind), name(wanted)));
        }
        if let Some(wanted) = route {
            let origin = origin(&answer.explanation.route);
            if !begins(&origin, wanted) {
                differences.push(format!("route is {origin}, not {wanted}"));
            }
        }
        if let Some(wanted) = backends {
            differences.extend(backends_differ(wanted, &answer.explanation.backends));
        }
        let mut compare = |field: &str, found: Option<String>, wanted: Option<String>| {
            if let Some(wanted) = wanted.filter(|wanted| found.as_ref() != Some(wanted)) {
                differences.push(format!("{field} is {}, not {wanted}", found.as_deref().unwrap_or("none")));
            }
        };
        compare("status", found.status.map(|status| status.to_string()), status.map(|status| status.to_string()));
        compare("location", found.location.clone(), location.clone());
        compare("denied-by", found.denied_by.clone(), denied_by.clone());
        let of_rule = answer.explanation.treatment.as_ref().and_then(|treatment| treatment.timeout);
        let wanted = wanted.as_deref().map(|text| limit(timeout(text).expect("read() has checked it")));
        compare("timeout", Some(limit(of_rule)), wanted);
        differences
    }
}

pub(crate) fn name(kind: Kind) -> String {
    serde_json::to_value(kind).ok().and_then(|name| name.as_str().map(Into::into)).unwrap_or_default()
}

fn origin(route: &Route) -> String {
    match route {
        Route::None | Route::NoRule { .. } => "none".to_owned(),
        Route::Rule { origin, .. } => origin.to_string(),
    }
}

/// Whole words: `VirtualService shop/reviews` is no beginning of `VirtualService shop/reviews-2`.
fn begins(origin: &str, wanted: &str) -> bool {
    let after = origin.strip_prefix(wanted);
    after.is_some_and(|after| after.is_empty() || after.starts_with([' ', '[', '.', '/']))
}

fn backends_differ(wanted: &BTreeMap<String, u32>, found: &[Backend]) -> Option<String> {
    let used: Vec<_> = found.iter().filter(|backend| backend.weight > 0).collect();
    let alone = used.len() == 1;
    let has = |backend: &Backend, weight: u32| alone || backend.weight == weight;
    let fits = |(name, weight): (&String, &u32)| used.iter().any(|backend| has(backend, *weight) && is_named(backend, name));
    let all = used.len() == wanted.len() && wanted.iter().all(fits);
    (!all).then(|| {
        let found: Vec<_> = used.iter().map(|backend| format!("{}: {}", described(backend), backend.weight)).collect();
        let wanted: Vec<_> = wanted.iter().map(|(name, weight)| format!("{name}: {weight}")).collect();
        format!("backends are {{{}}}, not {{{}}}", found.join(", "), wanted.join(", "))
    })
}

fn described(backend: &Backend) -> String {
    let subset = backend.subset.as_ref().map(|subset| format!("@{subset}")).unwrap_or_default();
    let name = backend.service.as_deref().map_or_else(|| "nowhere".to_owned(), service);
    format!("{name}:{}{subset}", backend.port)
}

/// Whether a backend is `NAME[:PORT][@SUBSET]`.
fn is_named(backend: &Backend, text: &str) -> bool {
    let (text, subset) = text.split_once('@').map_or((text, None), |(text, subset)| (text, Some(subset)));
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let Some(key) = &backend.service else { return false };
    let (short, hostname) = (service(key), key.split_once('/').map_or("", |(_, hostname)| hostname));
    (short == name || hostname == name || short.split_once('/').is_some_and(|(_, of_namespace)| of_namespace == name))
        && port.is_none_or(|port| port == backend.port.to_string())
        && backend.subset.as_deref() == subset
}

/// A number with `ms`, `s`, `m` or `h`; `none` for no limit.
fn timeout(text: &str) -> Result<Option<Duration>> {
    if text == "none" {
        return Ok(None);
    }
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => anyhow::bail!("{text:?} is no duration: a number with ms, s, m or h, such as 500ms, or none"),
    };
    let number: f64 = number.parse().with_context(|| format!("{text:?} is no duration"))?;
    Ok(Some(Duration::try_from_secs_f64(number * seconds).with_context(|| format!("{text:?} is no duration"))?))
}
