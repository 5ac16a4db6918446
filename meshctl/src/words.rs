//! Parts of the model in a few words, for tables and texts.

mod conditions;
mod traffic;

use std::time::Duration;

pub(crate) use conditions::conditions;
use mesh_policy::model::{
    AbortWith, BackendRef, Fault, Header, HeaderOps, HttpAction, Mirror, PathChange, Redirect, RedirectPort, RetryPolicy, Target,
};
pub(crate) use traffic::policy;

/// `90 %`, to the second decimal.
pub(crate) fn percent(percent: f64) -> String {
    format!("{} %", (percent * 100.0).round() / 100.0)
}

/// `none` for no limit.
pub(crate) fn limit(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "none".to_owned(), time)
}

/// `500ms`, `2s`, `1.5s`.
pub(crate) fn time(duration: Duration) -> String {
    format!("{duration:?}")
}

/// `shop/reviews` of `shop/reviews.shop.svc.cluster.local`; other host names stay whole.
pub(crate) fn service(key: &str) -> String {
    let Some((namespace, hostname)) = key.split_once('/') else { return key.to_owned() };
    match hostname.split_once(&format!(".{namespace}.svc.")) {
        Some((name, _)) => format!("{namespace}/{name}"),
        None => hostname.to_owned(),
    }
}

/// `shop/reviews:9080 subset v1`.
pub(crate) fn place(key: Option<&str>, port: u16, subset: Option<&str>) -> String {
    let subset = subset.map(|subset| format!(" subset {subset}")).unwrap_or_default();
    format!("{}:{port}{subset}", key.map_or_else(|| "nowhere".to_owned(), service))
}

pub(crate) fn reference(to: &BackendRef) -> String {
    match to {
        BackendRef::Service { service, port, subset } => place(Some(&service.to_string()), *port, subset.as_deref()),
        BackendRef::Invalid { reason } => format!("invalid: {reason}"),
    }
}

/// What becomes of a request, with all that is done beside it.
pub(crate) fn action(action: &HttpAction) -> String {
    let HttpAction { target, rewrite, request_headers, response_headers, timeout: _, retry: _, fault, mirrors, cors } = action;
    let mut parts = vec![self::target(target)];
    if let Some(rewrite) = rewrite {
        parts.extend(rewrite.path.as_ref().map(|path| format!("path {}", path_change(path))));
        parts.extend(rewrite.host.as_ref().map(|host| format!("host {host}")));
    }
    parts.extend(self::fault(fault));
    parts.extend(mirrors.iter().map(|one| format!("mirror {}", mirror(one))));
    parts.extend(headers("request", request_headers));
    parts.extend(headers("response", response_headers));
    parts.extend(cors.as_ref().map(|_| "CORS".to_owned()));
    parts.join("; ")
}

fn target(target: &Target) -> String {
    match target {
        Target::Forward(backends) => self::backends(backends),
        Target::Redirect(redirect) => format!("redirect {}", self::redirect(redirect)),
        Target::Respond(response) => format!("respond {}", response.status),
    }
}

/// With the share of each, where there are several.
pub(crate) fn backends(backends: &[mesh_policy::model::Backend]) -> String {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    match backends {
        [] => "no backend".to_owned(),
        [one] if one.weight > 0 => reference(&one.to),
        several => {
            let share = |weight: u32| if total == 0 { 0.0 } else { f64::from(weight) * 100.0 / total as f64 };
            let one = |one: &mesh_policy::model::Backend| format!("{} {}", reference(&one.to), percent(share(one.weight)));
            several.iter().map(one).collect::<Vec<_>>().join(", ")
        }
    }
}

/// `301 https://host:443/path`, where `*` stands for what the request says.
fn redirect(redirect: &Redirect) -> String {
    let Redirect { scheme, host, port, path, status } = redirect;
    let (scheme, host) = (scheme.as_deref().unwrap_or("*"), host.as_deref().unwrap_or("*"));
    let port = match port {
        RedirectPort::Number(port) => format!(":{port}"),
        RedirectPort::Unchanged | RedirectPort::OfScheme | RedirectPort::OfRequest => String::new(),
    };
    let path = path.as_ref().map_or_else(|| "*".to_owned(), path_change);
    format!("{status} to {scheme}://{host}{port}, path {path}")
}

pub(crate) fn path_change(change: &PathChange) -> String {
    match change {
        PathChange::Full(path) => format!("to {path}"),
        PathChange::Prefix(prefix) => format!("prefix to {prefix}"),
        PathChange::Regex { pattern, with } => format!("{pattern} to {with}"),
    }
}

/// A delay, an abort, or both.
pub(crate) fn fault(fault: &Fault) -> Vec<String> {
    let Fault { delay, abort } = fault;
    let delay = delay.map(|delay| format!("delay {} for {}", time(delay.of), percent(delay.share.as_f64())));
    let abort = abort.map(|abort| {
        let with = match abort.with {
            AbortWith::Http(status) => status.to_string(),
            AbortWith::Grpc(code) => format!("grpc-status {code}"),
        };
        format!("abort {with} for {}", percent(abort.share.as_f64()))
    });
    delay.into_iter().chain(abort).collect()
}

pub(crate) fn mirror(mirror: &Mirror) -> String {
    let Mirror { to, share } = mirror;
    format!("{} of requests to {}", percent(share.as_f64()), reference(to))
}

/// What is done to the headers of requests or responses; nothing where nothing is.
pub(crate) fn headers(of: &str, ops: &HeaderOps) -> Option<String> {
    let HeaderOps { set, add, remove } = ops;
    let value = |header: &Header| format!("{}: {}", header.name, String::from_utf8_lossy(header.value.0.as_bytes()));
    let set = set.iter().map(|header| format!("set {}", value(header)));
    let add = add.iter().map(|header| format!("add {}", value(header)));
    let remove = remove.iter().map(|name| format!("remove {name}"));
    let all: Vec<_> = remove.chain(set).chain(add).collect();
    (!all.is_empty()).then(|| format!("{of} headers: {}", all.join(", ")))
}

/// `2 on connect-failure,503`; `none`.
pub(crate) fn retry(retry: &RetryPolicy) -> String {
    let RetryPolicy { attempts, per_try_timeout, on, backoff: _, shortest_wait: _, avoid_previous: _, remote_localities } = retry;
    if *attempts == 0 {
        return "none".to_owned();
    }
    let conditions = on.conditions.iter().map(|condition| condition.name().to_owned());
    let statuses = on.statuses.iter().map(ToString::to_string);
    let headers = on.headers.iter().map(|header| format!("header {header}"));
    let on: Vec<_> = conditions.chain(statuses).chain(headers).collect();
    let per_try = per_try_timeout.map(|per_try| format!(", {} a try", time(per_try))).unwrap_or_default();
    let remote = if *remote_localities { ", of other localities too" } else { "" };
    format!("{attempts} on {}{per_try}{remote}", on.join(","))
}
