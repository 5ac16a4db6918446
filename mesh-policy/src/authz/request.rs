//! What a match says of HTTP requests.

use super::matching::{Facts, contains, holds, text_is};
use crate::{
    http::Request,
    model::{Action, HeaderCondition, PathPattern, RequestMatch, StringMatch},
};

/// Whether the attributes of a request hold.
///
/// Where there is no request, what would allow does not hold, and what denies holds: whoever hides what a policy wants to
/// see gains nothing.
pub(super) fn holds_for(wanted: &RequestMatch, action: Action, facts: &Facts<'_>) -> bool {
    if *wanted == RequestMatch::default() {
        return true;
    }
    let Some(request) = facts.request else { return action == Action::Deny };
    let RequestMatch { hosts, not_hosts, methods, not_methods, paths, not_paths, remote_ips, not_remote_ips, headers } = wanted;
    let remote_ip = request.remote_ip.map_or(facts.source_ip, |address| address.to_canonical());
    holds(methods, not_methods, |text| text_is(text, request.method.as_str()))
        && holds(paths, not_paths, |pattern| path_is(pattern, request.path))
        && holds(hosts, not_hosts, |text| request.host_is(text))
        && holds(remote_ips, not_remote_ips, |range| contains(range, remote_ip))
        && headers.iter().all(|condition| header_holds(condition, action, request))
}

fn path_is(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Text(text) => text_is(text, path),
        PathPattern::Template(template) => template.is(path),
    }
}

/// Every value of the header is looked at, so that a second one hides nothing (CVE-2026-26308). One that is wanted is
/// enough; one that is not wanted is too much where it would allow, and where it would deny it excuses only a request
/// that has no other value.
fn header_holds(condition: &HeaderCondition, action: Action, request: &Request<'_>) -> bool {
    let HeaderCondition { name, values, not_values } = condition;
    let among = |texts: &[StringMatch], value: &[u8]| texts.iter().any(|text| value_is(text, value));
    let wanted = values.is_empty() || request.any_value(&name.0, |value| among(values, value));
    let excluded = !not_values.is_empty()
        && match action {
            Action::Allow => request.any_value(&name.0, |value| among(not_values, value)),
            Action::Deny => request.every_value(&name.0, |value| among(not_values, value)),
        };
    wanted && !excluded
}

/// A header that is there is present, empty or not.
fn value_is(text: &StringMatch, value: &[u8]) -> bool {
    match text {
        StringMatch::Exact(exact) => exact.as_bytes() == value,
        StringMatch::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
        StringMatch::Suffix(suffix) => value.ends_with(suffix.as_bytes()),
        StringMatch::Presence => true,
    }
}
