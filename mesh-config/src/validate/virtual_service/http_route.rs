//! HTTP routes.

use http::{HeaderName, HeaderValue, StatusCode};
use mesh_policy::model::RetryCondition;

use super::{
    destination, exclusive,
    matching::{self, pattern},
    one_of, required_destination, weights,
};
use crate::{
    kinds::virtual_service::{
        Abort, CorsPolicy, Delay, HeaderFormat, HeaderOperations, Headers, HttpDirectResponse, HttpFaultInjection,
        HttpMatchRequest, HttpRedirect, HttpRetry, HttpRewrite, HttpRoute, Percent, grpc_status, is_authority,
    },
    validate::{
        host::port,
        problem::{Cause, Problem},
        span::duration,
    },
};

/// Largest body of a direct response.
const BODY: usize = 1 << 20;

pub(super) fn route(at: &str, found: &HttpRoute, delegate: bool, at_gateway: bool, out: &mut Vec<Problem>) {
    let HttpRoute {
        name: _,
        matches,
        route,
        redirect: to,
        direct_response: response,
        delegate: to_delegate,
        rewrite: change,
        timeout,
        retries: again,
        fault: injected,
        mirror,
        mirrors,
        mirror_percent,
        mirror_percentage,
        cors_policy,
        headers: operations,
    } = found;
    kinds_of_route(at, found, delegate, out);
    if to_delegate.as_ref().is_some_and(|delegate| delegate.name.is_empty()) {
        out.push(Problem::new(format!("{at}.delegate.name"), Cause::Missing));
    }
    for (index, found) in matches.iter().enumerate() {
        matching::request(&format!("{at}.match[{index}]"), found, at_gateway, out);
    }
    if let Some(operations) = operations {
        headers(&format!("{at}.headers"), operations, out);
        authority_once(at, change.as_ref(), operations, out);
    }
    for (index, destination) in route.iter().enumerate() {
        let at = format!("{at}.route[{index}]");
        required_destination(&format!("{at}.destination"), destination.destination.as_ref(), out);
        if let Some(operations) = &destination.headers {
            headers(&format!("{at}.headers"), operations, out);
        }
    }
    weights(at, route.iter().map(|route| route.weight), out);
    if let Some(to) = to {
        redirect(&format!("{at}.redirect"), to, found, out);
    }
    if let Some(response) = response {
        direct_response(&format!("{at}.directResponse"), response, out);
    }
    if let Some(change) = change {
        rewrite(&format!("{at}.rewrite"), change, out);
    }
    duration(format!("{at}.timeout"), *timeout, out);
    if let Some(again) = again {
        retries(&format!("{at}.retries"), again, out);
    }
    if let Some(injected) = injected {
        fault(&format!("{at}.fault"), injected, out);
    }
    if let Some(mirror) = mirror {
        destination(&format!("{at}.mirror"), mirror, out);
    }
    if mirror_percent.is_some_and(|percent| percent > 100) {
        out.push(Problem::new(format!("{at}.mirrorPercent"), Cause::form("more than 100", "a percentage")));
    }
    percentage(&format!("{at}.mirrorPercentage"), *mirror_percentage, out);
    for (index, mirror) in mirrors.iter().enumerate() {
        let at = format!("{at}.mirrors[{index}]");
        required_destination(&format!("{at}.destination"), mirror.destination.as_ref(), out);
        percentage(&format!("{at}.percentage"), mirror.percentage, out);
    }
    if let Some(policy) = cors_policy {
        cors(&format!("{at}.corsPolicy"), policy, out);
    }
}

/// One of route, redirect, direct response and delegate, and what may not stand beside each.
fn kinds_of_route(at: &str, found: &HttpRoute, delegate: bool, out: &mut Vec<Problem>) {
    let (routed, redirected) = (!found.route.is_empty(), found.redirect.is_some());
    let responds = found.direct_response.is_some();
    let (faulty, rewritten) = (found.fault.is_some(), found.rewrite.is_some());
    if found.delegate.is_some() {
        if delegate {
            let reason = "a delegate can not delegate";
            out.push(Problem::new(format!("{at}.delegate"), Cause::Ineffective { reason }));
        } else {
            exclusive(at, "delegate", &[("route", routed), ("redirect", redirected)], out);
        }
    } else if redirected {
        let beside = [("route", routed), ("fault", faulty), ("rewrite", rewritten), ("directResponse", responds)];
        exclusive(at, "redirect", &beside, out);
    } else if responds {
        exclusive(at, "directResponse", &[("route", routed), ("fault", faulty), ("rewrite", rewritten)], out);
    } else if !routed {
        out.push(Problem::new(format!("{at}.route"), Cause::Missing));
    }
    exclusive(at, "mirrors", &[("mirror", found.mirror.is_some() && !found.mirrors.is_empty())], out);
}

fn headers(at: &str, found: &Headers, out: &mut Vec<Problem>) {
    for (side, operations, request) in [("request", &found.request, true), ("response", &found.response, false)] {
        let HeaderOperations { set, add, remove } = operations;
        for (operation, values) in [("set", set), ("add", add)] {
            for (name, value) in values {
                let at = format!("{at}.{side}.{operation}.{name}");
                if !(request && is_authority(name)) {
                    header_name(&at, name, out);
                }
                if HeaderValue::try_from(value).is_err() || HeaderFormat::parse(value).is_none() {
                    out.push(Problem::new(at, Cause::form(value, "the value of a header (write `%%` for a percent sign)")));
                }
            }
        }
        for (index, name) in remove.iter().enumerate() {
            header_name(&format!("{at}.{side}.remove[{index}]"), name, out);
        }
    }
}

fn header_name(at: &str, name: &str, out: &mut Vec<Problem>) {
    if name.eq_ignore_ascii_case("host") || HeaderName::try_from(name).is_err() {
        out.push(Problem::new(at, Cause::form(name, "the name of a header that may be changed")));
    }
}

fn authority_once(at: &str, rewrite: Option<&HttpRewrite>, found: &Headers, out: &mut Vec<Problem>) {
    let rewritten = rewrite.is_some_and(|rewrite| !rewrite.authority.is_empty());
    let operations = found.request.set.keys().chain(found.request.add.keys());
    let set = operations.filter(|name| is_authority(name)).count();
    if set + usize::from(rewritten) > 1 {
        let found = "the authority".to_owned();
        out.push(Problem::new(format!("{at}.headers.request"), Cause::Duplicate { found }));
    }
}

fn redirect(at: &str, found: &HttpRedirect, route: &HttpRoute, out: &mut Vec<Problem>) {
    let HttpRedirect { uri, prefix_rewrite, authority, port: number, derive_port, scheme, redirect_code } = found;
    one_of(at, &[("uri", !uri.is_empty()), ("prefixRewrite", !prefix_rewrite.is_empty())], out);
    one_of(at, &[("port", number.is_some()), ("derivePort", derive_port.is_some())], out);
    let by_prefix = |found: &HttpMatchRequest| found.uri.as_ref().is_none_or(|uri| uri.exact.is_none() && uri.regex.is_none());
    if !prefix_rewrite.is_empty() && !route.matches.iter().all(by_prefix) {
        let other = "a match by anything but a prefix";
        out.push(Problem::new(format!("{at}.prefixRewrite"), Cause::Exclusive { other }));
    }
    let parts = [uri, prefix_rewrite, authority, scheme];
    if parts.iter().all(|part| part.is_empty()) && number.is_none() && derive_port.is_none() {
        out.push(Problem::new(at, Cause::Empty));
    }
    if let Some(number) = number {
        port(&format!("{at}.port"), *number, out);
    }
    if !matches!(scheme.as_str(), "" | "http" | "https") {
        out.push(Problem::new(format!("{at}.scheme"), Cause::form(scheme, "http or https")));
    }
    if !matches!(redirect_code, 0 | 301 | 302 | 303 | 307 | 308) {
        let cause = Cause::form(redirect_code.to_string(), "301, 302, 303, 307 or 308");
        out.push(Problem::new(format!("{at}.redirectCode"), cause));
    }
}

fn direct_response(at: &str, found: &HttpDirectResponse, out: &mut Vec<Problem>) {
    status(&format!("{at}.status"), i64::from(found.status), out);
    let Some(body) = &found.body else { return };
    one_of(&format!("{at}.body"), &[("string", body.string.is_some()), ("bytes", body.bytes.is_some())], out);
    let size = body.string.as_ref().map_or(0, String::len).max(body.bytes.as_ref().map_or(0, |bytes| bytes.0.len()));
    if size > BODY {
        out.push(Problem::new(format!("{at}.body"), Cause::TooMany { found: size, limit: BODY }));
    }
}

fn status(at: &str, status: i64, out: &mut Vec<Problem>) {
    if !(200..=599).contains(&status) {
        out.push(Problem::new(at, Cause::form(status.to_string(), "an HTTP status of 200 to 599")));
    }
}

fn rewrite(at: &str, found: &HttpRewrite, out: &mut Vec<Problem>) {
    let HttpRewrite { uri, authority, uri_regex_rewrite } = found;
    one_of(at, &[("uri", !uri.is_empty()), ("uriRegexRewrite", uri_regex_rewrite.is_some())], out);
    if uri.is_empty() && authority.is_empty() && uri_regex_rewrite.is_none() {
        out.push(Problem::new(at, Cause::Empty));
    }
    if let Some(regex) = uri_regex_rewrite {
        pattern(&format!("{at}.uriRegexRewrite.match"), &regex.pattern, out);
        if regex.rewrite.is_empty() {
            out.push(Problem::new(format!("{at}.uriRegexRewrite.rewrite"), Cause::Missing));
        }
    }
}

/// Also of MeshConfig.
pub(in crate::validate) fn retries(at: &str, found: &HttpRetry, out: &mut Vec<Problem>) {
    let HttpRetry { attempts, per_try_timeout, retry_on, retry_remote_localities, retry_ignore_previous_hosts: _, backoff } =
        found;
    if *attempts < 0 {
        out.push(Problem::new(format!("{at}.attempts"), Cause::form(attempts.to_string(), "zero or more")));
    }
    if *attempts == 0 {
        let beside = [
            ("perTryTimeout", per_try_timeout.is_some()),
            ("retryOn", !retry_on.is_empty()),
            ("retryRemoteLocalities", retry_remote_localities.is_some()),
        ];
        exclusive(at, "attempts: 0, which turns retries off", &beside, out);
    }
    duration(format!("{at}.perTryTimeout"), *per_try_timeout, out);
    duration(format!("{at}.backoff"), *backoff, out);
    for condition in retry_on.split(',').map(str::trim).filter(|condition| !condition.is_empty()) {
        let is_status = condition.parse().is_ok_and(|code: u16| StatusCode::from_u16(code).is_ok());
        if !is_status && RetryCondition::of_name(condition).is_none() {
            out.push(Problem::new(format!("{at}.retryOn"), Cause::form(condition, "a condition for a retry")));
        }
    }
}

fn fault(at: &str, found: &HttpFaultInjection, out: &mut Vec<Problem>) {
    let HttpFaultInjection { delay, abort } = found;
    if delay.is_none() && abort.is_none() {
        out.push(Problem::new(at, Cause::Empty));
    }
    if let Some(Delay { percent, fixed_delay, exponential_delay, percentage: share }) = delay {
        let at = format!("{at}.delay");
        one_of(&at, &[("fixedDelay", fixed_delay.is_some()), ("exponentialDelay", exponential_delay.is_some())], out);
        if !(0..=100).contains(percent) {
            out.push(Problem::new(format!("{at}.percent"), Cause::form(percent.to_string(), "a percentage")));
        }
        percentage(&format!("{at}.percentage"), *share, out);
        duration(format!("{at}.fixedDelay"), *fixed_delay, out);
        duration(format!("{at}.exponentialDelay"), *exponential_delay, out);
    }
    if let Some(Abort { http_status, grpc_status: grpc, http2_error, percentage: share }) = abort {
        let at = format!("{at}.abort");
        let kinds =
            [("httpStatus", http_status.is_some()), ("grpcStatus", grpc.is_some()), ("http2Error", http2_error.is_some())];
        one_of(&at, &kinds, out);
        percentage(&format!("{at}.percentage"), *share, out);
        if let Some(code) = http_status {
            status(&format!("{at}.httpStatus"), i64::from(*code), out);
        }
        if let Some(name) = grpc.as_deref().filter(|name| grpc_status(name).is_none()) {
            out.push(Problem::new(format!("{at}.grpcStatus"), Cause::form(name, "a gRPC status such as NOT_FOUND")));
        }
    }
}

fn percentage(at: &str, found: Option<Percent>, out: &mut Vec<Problem>) {
    let valid = |value: f64| value == 0.0 || (0.0001..=100.0).contains(&value);
    if let Some(Percent { value }) = found.filter(|percent| !valid(percent.value)) {
        out.push(Problem::new(at, Cause::form(value.to_string(), "0 or a percentage of 0.0001 to 100")));
    }
}

fn cors(at: &str, found: &CorsPolicy, out: &mut Vec<Problem>) {
    for (index, origin) in found.allow_origins.iter().enumerate() {
        let at = format!("{at}.allowOrigins[{index}]");
        let values = [&origin.exact, &origin.prefix, &origin.regex];
        if values.into_iter().flatten().all(String::is_empty) {
            out.push(Problem::new(at, Cause::Empty));
        } else {
            matching::text(&at, origin, false, out);
        }
    }
    for (index, method) in found.allow_methods.iter().enumerate() {
        if method != "*" && method.parse::<http::Method>().is_err() {
            out.push(Problem::new(format!("{at}.allowMethods[{index}]"), Cause::form(method, "a method")));
        }
    }
    for (field, names) in [("allowHeaders", &found.allow_headers), ("exposeHeaders", &found.expose_headers)] {
        for (index, name) in names.iter().enumerate() {
            if name != "*" && HeaderName::try_from(name).is_err() {
                out.push(Problem::new(format!("{at}.{field}[{index}]"), Cause::form(name, "the name of a header")));
            }
        }
    }
    duration(format!("{at}.maxAge"), found.max_age, out);
    if found.max_age.is_some_and(|age| age.0.subsec_nanos() != 0) {
        out.push(Problem::new(format!("{at}.maxAge"), Cause::form("a fraction", "whole seconds")));
    }
}
