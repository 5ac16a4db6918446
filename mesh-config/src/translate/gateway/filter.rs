//! Filters and backends of a rule to what is done with its requests.

use std::{sync::Arc, time::Duration};

use mesh_policy::model::{
    Backend, BackendRef, Cors, DirectResponse, Header, HeaderOps, HttpAction, Mirror, PathChange, Percent, Redirect,
    RedirectPort, Rewrite, Target, UnmatchedPreflights,
};

use super::{
    Rules,
    backend::{Backends, Reason, Unresolved},
    values::{header_name, header_value, origin},
};
use crate::kinds::gateway::{
    CorsFilter, Filter, HeaderFilter, HttpBackend, MirrorFilter, PathModifier, RedirectFilter, RewriteFilter,
};

/// Where a filter that is not understood stands, requests fail: what it would have done may be what protects.
const FAILING: u16 = 500;

/// What is done with the requests of a rule; `at` is its path.
pub(super) fn action(
    at: &str,
    filters: &[Filter],
    backend_refs: &[HttpBackend],
    backends: &Backends<'_>,
    rules: &mut Rules,
) -> HttpAction {
    let mut found = Filters::default();
    for (index, filter) in filters.iter().enumerate() {
        found.take(&format!("{at}.filters[{index}]"), filter, backends, &mut rules.unresolved);
    }
    let Filters { request_headers, response_headers, mirrors, redirect, rewrite, cors, failing } = found;
    let mut forward = Vec::new();
    for (index, backend) in backend_refs.iter().enumerate() {
        forward.push(self::backend(&format!("{at}.backendRefs[{index}]"), backend, backends, rules));
    }
    let target = if failing.is_empty() {
        redirect.map_or(Target::Forward(forward), Target::Redirect)
    } else {
        let text = format!("{}: requests that match are answered with {FAILING}", failing.join(", "));
        rules.failing.push((at.to_owned(), text));
        Target::Respond(DirectResponse { status: FAILING, body: Arc::new([]) })
    };
    HttpAction { target, rewrite, request_headers, response_headers, mirrors, cors, ..HttpAction::default() }
}

fn backend(at: &str, backend: &HttpBackend, backends: &Backends<'_>, rules: &mut Rules) -> Backend {
    let to = backends.resolve(at, &backend.into(), &mut rules.unresolved);
    let mut found = Filters::default();
    for (index, filter) in backend.filters.iter().enumerate() {
        found.take(&format!("{at}.filters[{index}]"), filter, backends, &mut rules.unresolved);
    }
    let Filters { request_headers, response_headers, mirrors, redirect, rewrite, cors, mut failing } = found;
    let only_of_rules = [("RequestRedirect", redirect.is_some()), ("CORS", cors.is_some())];
    failing.extend(
        only_of_rules.into_iter().filter(|(_, there)| *there).map(|(name, _)| format!("{name} is not carried out for a backend")),
    );
    let mut out =
        Backend { request_headers, response_headers, mirrors, rewrite, ..Backend::new(to, backend.weight.unwrap_or(1)) };
    if !failing.is_empty() {
        let text = format!("{}: requests to the backend are answered with {FAILING}", failing.join(", "));
        out.to = BackendRef::Invalid { reason: text.as_str().into() };
        rules.failing.push((at.to_owned(), text));
    }
    out
}

#[derive(Default)]
struct Filters {
    request_headers: HeaderOps,
    response_headers: HeaderOps,
    mirrors: Vec<Mirror>,
    redirect: Option<Redirect>,
    rewrite: Option<Rewrite>,
    cors: Option<Cors>,
    /// What is not carried out.
    failing: Vec<String>,
}

impl Filters {
    fn take(&mut self, at: &str, filter: &Filter, backends: &Backends<'_>, unresolved: &mut Vec<Unresolved>) {
        let Filter {
            r#type: _,
            request_header_modifier,
            response_header_modifier,
            request_mirror,
            request_redirect,
            url_rewrite,
            cors,
            external_auth,
            extension_ref,
        } = filter;
        if let Some(found) = request_header_modifier {
            self.request_headers = header_ops(found);
        }
        if let Some(found) = response_header_modifier {
            self.response_headers = header_ops(found);
        }
        if let Some(MirrorFilter { backend_ref, percent, fraction }) = request_mirror {
            let of_fraction = fraction
                .map(|fraction| f64::from(fraction.numerator) * 100.0 / f64::from(fraction.denominator.unwrap_or(100).max(1)));
            let share = percent.map(f64::from).or(of_fraction).unwrap_or(100.0);
            // A copy that leads nowhere is left out; the request goes its way.
            let to = backends.resolve(&format!("{at}.requestMirror.backendRef"), backend_ref, unresolved);
            if matches!(to, BackendRef::Service { .. }) {
                self.mirrors.push(Mirror { to, share: Percent::of(share) });
            }
        }
        if let Some(found) = request_redirect {
            self.redirect = Some(redirect(found));
        }
        if let Some(RewriteFilter { hostname, path }) = url_rewrite {
            self.rewrite = Some(Rewrite { path: path.as_ref().and_then(change), host: hostname.as_deref().map(Arc::from) });
        }
        if let Some(found) = cors {
            self.cors = Some(of_cors(found));
        }
        if external_auth.is_some() {
            self.failing.push("the filter ExternalAuth is not carried out in this version".to_owned());
        }
        if let Some(reference) = extension_ref {
            let text = format!("nothing is known of the filter {}/{} {}", reference.group, reference.kind, reference.name);
            self.failing.push(text.clone());
            unresolved.push(Unresolved { field: format!("{at}.extensionRef"), reason: Reason::InvalidKind, text });
        }
    }
}

/// Validation has seen that names and values are what they have to be.
fn header_ops(filter: &HeaderFilter) -> HeaderOps {
    let HeaderFilter { set, add, remove } = filter;
    let headers = |values: &[crate::kinds::gateway::HeaderValue]| {
        let header = |one: &crate::kinds::gateway::HeaderValue| {
            Some(Header { name: header_name(&one.name)?, value: header_value(&one.value)? })
        };
        values.iter().filter_map(header).collect()
    };
    HeaderOps { set: headers(set), add: headers(add), remove: remove.iter().filter_map(|name| header_name(name)).collect() }
}

fn redirect(filter: &RedirectFilter) -> Redirect {
    let RedirectFilter { scheme, hostname, path, port, status_code } = filter;
    let port = match (port, scheme) {
        (Some(port), _) => RedirectPort::Number(*port),
        (None, Some(_)) => RedirectPort::OfScheme,
        (None, None) => RedirectPort::OfRequest,
    };
    Redirect {
        scheme: scheme.as_deref().map(Arc::from),
        host: hostname.as_deref().map(Arc::from),
        port,
        path: path.as_ref().and_then(change),
        status: status_code.unwrap_or(302),
    }
}

fn change(modifier: &PathModifier) -> Option<PathChange> {
    let PathModifier { r#type: _, replace_full_path, replace_prefix_match } = modifier;
    let full = replace_full_path.as_deref().map(|path| PathChange::Full(path.into()));
    full.or_else(|| replace_prefix_match.as_deref().map(|path| PathChange::Prefix(path.into())))
}

fn of_cors(filter: &CorsFilter) -> Cors {
    let CorsFilter { allow_origins, allow_credentials, allow_methods, allow_headers, expose_headers, max_age } = filter;
    let texts = |values: &[String]| values.iter().map(|value| value.as_str().into()).collect();
    Cors {
        allow_origins: allow_origins.iter().filter_map(|text| origin(text)).collect(),
        allow_methods: texts(allow_methods),
        allow_headers: texts(allow_headers),
        expose_headers: texts(expose_headers),
        max_age: Some(Duration::from_secs(max_age.unwrap_or(5).into())),
        allow_credentials: *allow_credentials,
        // The specification answers them itself, without leave.
        unmatched_preflights: UnmatchedPreflights::Ignore,
    }
}
