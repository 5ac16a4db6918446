//! Which rule a request or connection follows, and what the rule makes of it.
//!
//! [`select`] takes the first rule of a [`Routes`] that matches; the order was settled in translation. [`change_path`]
//! and [`location`] write the paths of rewrites and redirects, [`choose_backend`] draws by weight. What a condition
//! means is said in one place, [`judge`], which also tells the condition that failed: `meshctl explain` asks the same
//! function as the data path. Selecting allocates nothing, but for a header of several values none of which matches alone,
//! and for an expression on an authority with port.

mod connection;
mod matching;
mod path;
mod redirect;
#[cfg(test)]
mod tests;

pub use connection::{TlsName, select_tcp, select_tcp_rule, select_tls, select_tls_rule};
use fastrand::Rng;
pub use matching::{Mismatch, judge};
pub use path::change_path;
pub use redirect::location;

use crate::{
    http::Request,
    model::{Backend, HttpMatch, HttpRule, Routes, Workload},
};

/// The rule that a request follows.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'a> {
    pub rule: &'a HttpRule,
    /// Of the rule's matches the first that holds; None: the rule is for every request.
    pub matched: Option<&'a HttpMatch>,
}

/// The first HTTP rule that matches a client's request.
///
/// None: no rule does. That is 404 where there are rules, and the service itself where there are none.
pub fn select<'a>(routes: &'a Routes, client: &Workload, request: &Request<'_>) -> Option<Selected<'a>> {
    routes.http.iter().find_map(|rule| follow(rule, client, request))
}

/// The rule itself, if it matches.
pub fn follow<'a>(rule: &'a HttpRule, client: &Workload, request: &Request<'_>) -> Option<Selected<'a>> {
    if rule.matches.is_empty() {
        return Some(Selected { rule, matched: None });
    }
    let matched = rule.matches.iter().find(|one| judge(one, client, request).is_ok())?;
    Some(Selected { rule, matched: Some(matched) })
}

/// One of the backends, drawn by weight; None where there is none, or none of a weight above zero.
pub fn choose_backend<'a>(backends: &'a [Backend], rng: &mut Rng) -> Option<&'a Backend> {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    if total == 0 {
        return None;
    }
    let mut drawn = rng.u64(..total);
    backends.iter().find(|backend| {
        let weight = u64::from(backend.weight);
        let chosen = drawn < weight;
        drawn = drawn.saturating_sub(weight);
        chosen
    })
}
