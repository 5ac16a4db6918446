//! HTTP routes to rules, in their order.

use std::sync::Arc;

use mesh_policy::model::{Backend, BackendRef, ClientMatch, DirectResponse, HttpAction, HttpMatch, HttpRule, PathMatch, Target};

use super::{Place, Root, action, matching, origin};
use crate::{
    status::{Code, Level, Message},
    translate::Report,
};

pub(super) fn rules(root: &Root<'_>, place: &Place<'_>, report: &mut Report) -> Vec<HttpRule> {
    let mut out: Vec<HttpRule> = Vec::new();
    let mut all: Option<String> = None;
    for route in &root.http {
        let matches: Vec<HttpMatch> =
            route.spec.matches.iter().filter_map(|found| matching::request(found, place.port)).collect();
        if matches.is_empty() && !route.spec.matches.is_empty() {
            continue;
        }
        if let Some(before) = &all {
            let text = format!("never reached: {before} matches every request (IST0130)");
            report.tell(route.key(), Message::new(Level::Warning, Code::NotHonoured, &route.field, text));
            continue;
        }
        if matches.is_empty() || matches.iter().any(matches_all) {
            all = Some(route.field.clone());
        }
        let action = action::action(route, place, report);
        out.push(HttpRule {
            name: route.spec.name.as_str().into(),
            origin: origin(&route.name, route.field.clone()),
            matches: for_rewrite(matches, &action),
            action: Arc::new(action),
        });
    }
    for_others(&mut out, root, place);
    out
}

fn matches_all(found: &HttpMatch) -> bool {
    let of_path = match &found.path {
        None => true,
        Some(PathMatch::Prefix(prefix)) => &**prefix == "/",
        Some(_) => false,
    };
    of_path
        && HttpMatch { name: found.name.clone(), path: None, ..found.clone() }
            == HttpMatch { name: found.name.clone(), ..HttpMatch::default() }
}

/// Envoy matches any path by the prefix `/`, so that rewriting a prefix replaces that.
fn for_rewrite(mut matches: Vec<HttpMatch>, action: &HttpAction) -> Vec<HttpMatch> {
    if !action::changes_prefix(action) {
        return matches;
    }
    if matches.is_empty() {
        matches.push(HttpMatch::default());
    }
    for found in matches.iter_mut().filter(|found| found.path.is_none()) {
        found.path = Some(PathMatch::Prefix("/".into()));
    }
    matches
}

/// Where every rule is for some clients only, the others are as if there were none; those who are meant and match no
/// rule find nothing.
fn for_others(rules: &mut Vec<HttpRule>, root: &Root<'_>, place: &Place<'_>) {
    let of_some = |rule: &HttpRule| !rule.matches.is_empty() && rule.matches.iter().all(|found| !found.clients.is_empty());
    if rules.is_empty() || !rules.iter().all(of_some) {
        return;
    }
    let mut meant: Vec<ClientMatch> = Vec::new();
    for client in rules.iter().flat_map(|rule| &rule.matches).flat_map(|found| &found.clients) {
        if !meant.contains(client) {
            meant.push(client.clone());
        }
    }
    let origin = root.origin("spec.http".into());
    let rule = |matches, target| HttpRule {
        name: "default".into(),
        origin: origin.clone(),
        matches,
        action: Arc::new(HttpAction { target, ..HttpAction::default() }),
    };
    let not_found = DirectResponse { status: 404, body: Arc::from([]) };
    rules.push(rule(vec![HttpMatch { clients: meant, ..HttpMatch::default() }], Target::Respond(not_found)));
    rules.push(rule(Vec::new(), Target::Forward(vec![itself(place)])));
}

/// The service that is routed.
pub(super) fn itself(place: &Place<'_>) -> Backend {
    Backend::new(BackendRef::Service { service: place.service.service.key(), port: place.port, subset: None }, 1)
}
