//! What is done with a request (Istio's `TranslateRoute`).

use std::sync::Arc;

use mesh_policy::model::{
    Abort, AbortWith, Backend, BackendRef, Cors, Delay, DirectResponse, Fault, Header, HeaderOps, HttpAction, Mirror, PathChange,
    Pattern, Percent, Redirect, RedirectPort, Rewrite, Target, TextMatch, UnmatchedPreflights,
    header::{Name, Value},
};

use super::{Place, delegate::Route, destination, matching};
use crate::{
    kinds::virtual_service::{
        self as written, CorsPolicy, HeaderFormat, HeaderOperations, Headers, HttpDirectResponse, HttpFaultInjection,
        HttpRedirect, HttpRewrite, HttpRoute, RedirectPortSelection, grpc_status, is_authority,
    },
    status::{Code, Level, Message},
    translate::{Report, retry},
};

pub(super) fn action(route: &Route, place: &Place<'_>, report: &mut Report) -> HttpAction {
    Builder { route, place, report }.action()
}

/// Whether it replaces the prefix by which a path was matched.
pub(super) fn changes_prefix(action: &HttpAction) -> bool {
    let changes = |rewrite: &Option<Rewrite>| {
        rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref()).is_some_and(|path| matches!(path, PathChange::Prefix(_)))
    };
    match &action.target {
        Target::Redirect(redirect) => matches!(redirect.path, Some(PathChange::Prefix(_))),
        Target::Forward(_) | Target::Respond(_) => changes(&action.rewrite),
    }
}

struct Builder<'a> {
    route: &'a Route,
    place: &'a Place<'a>,
    report: &'a mut Report,
}

impl Builder<'_> {
    fn action(&mut self) -> HttpAction {
        let HttpRoute {
            name: _,
            matches: _,
            route,
            redirect: to,
            direct_response: response,
            delegate: _,
            rewrite: change,
            timeout,
            retries,
            fault: injected,
            mirror: _,
            mirrors: _,
            mirror_percent: _,
            mirror_percentage: _,
            cors_policy,
            headers,
        } = &self.route.spec;
        let (request_headers, response_headers, authority) = self.headers("headers", headers.as_ref());
        let mut rewrite = change.as_ref().map(rewrite).unwrap_or_default();
        rewrite.host = rewrite.host.or(authority);
        let target = match (to, response) {
            (Some(to), _) => Target::Redirect(redirect(to)),
            (None, Some(response)) => Target::Respond(direct_response(response)),
            (None, None) => Target::Forward(self.backends(route, &rewrite)),
        };
        HttpAction {
            mirrors: if matches!(target, Target::Forward(_)) { self.mirrors() } else { Vec::new() },
            target,
            rewrite: Some(rewrite).filter(|rewrite| *rewrite != Rewrite::default()),
            request_headers,
            response_headers,
            timeout: timeout.map(|span| span.0),
            retry: retries.as_ref().map(retry::policy),
            fault: injected.as_ref().map(|injected| self.fault(injected)).unwrap_or_default(),
            cors: cors_policy.as_ref().map(cors),
        }
    }

    fn tell(&mut self, level: Level, code: Code, field: &str, text: impl Into<String>) {
        let field = format!("{}.{field}", self.route.field);
        self.report.tell(self.route.key(), Message::new(level, code, field, text));
    }

    fn backend(&mut self, field: &str, found: &written::Destination, otherwise: &str) -> BackendRef {
        let at = format!("{}.{field}", self.route.field);
        let (key, report) = (self.route.key(), &mut *self.report);
        destination::backend(self.place, &self.route.name.namespace, &at, found, otherwise, &mut |message| {
            report.tell(key.clone(), message);
        })
    }

    fn backends(&mut self, routes: &[written::HttpRouteDestination], rewrite: &Rewrite) -> Vec<Backend> {
        let mut out = Vec::new();
        for (index, route) in routes.iter().enumerate() {
            let weight = match routes {
                // The weight of a single destination says nothing.
                [_] => 1,
                _ => u32::try_from(route.weight).unwrap_or(0),
            };
            let Some(destination) = route.destination.as_ref().filter(|_| weight != 0) else { continue };
            let to = self.backend(&format!("route[{index}].destination"), destination, "requests are answered with 500");
            let field = format!("route[{index}].headers");
            let (request_headers, response_headers, authority) = self.headers(&field, route.headers.as_ref());
            // The route's own authority has precedence, as in Istio.
            let authority = authority.filter(|_| rewrite.host.is_none());
            let rewrite = authority.map(|host| Rewrite { path: rewrite.path.clone(), host: Some(host) });
            out.push(Backend { request_headers, response_headers, rewrite, ..Backend::new(to, weight) });
        }
        out
    }

    fn mirrors(&mut self) -> Vec<Mirror> {
        let route = self.route;
        let HttpRoute { mirror, mirrors, mirror_percent, mirror_percentage, .. } = &route.spec;
        let percent = mirror_percentage.map(|percent| percent.value).or(mirror_percent.map(f64::from));
        let single = mirror.iter().map(|to| ("mirror".to_owned(), to, percent));
        let several = mirrors.iter().enumerate().filter_map(|(index, mirror)| {
            let percent = mirror.percentage.map(|percent| percent.value);
            Some((format!("mirrors[{index}].destination"), mirror.destination.as_ref()?, percent))
        });
        let mut out = Vec::new();
        for (field, to, percent) in single.chain(several).collect::<Vec<_>>() {
            let share = percent.map_or(Percent::ALL, Percent::of);
            let to = self.backend(&field, to, "nothing is mirrored");
            if share != Percent::NONE && !matches!(to, BackendRef::Invalid { .. }) {
                out.push(Mirror { to, share });
            }
        }
        out
    }

    /// What is done to the headers of request and response, and the authority that the request gets.
    fn headers(&mut self, field: &str, found: Option<&Headers>) -> (HeaderOps, HeaderOps, Option<Arc<str>>) {
        let Some(Headers { request, response }) = found else { return Default::default() };
        let authority = [&request.set, &request.add].into_iter().flatten().find(|(name, _)| is_authority(name));
        let request = self.operations(&format!("{field}.request"), request);
        let response = self.operations(&format!("{field}.response"), response);
        (request, response, authority.map(|(_, value)| value.as_str().into()))
    }

    fn operations(&mut self, field: &str, found: &HeaderOperations) -> HeaderOps {
        let HeaderOperations { set, add, remove } = found;
        let mut values = |operation: &str, found: &std::collections::BTreeMap<String, String>| {
            let mut out = Vec::new();
            for (name, value) in found.iter().filter(|(name, _)| !is_authority(name)) {
                let text = match HeaderFormat::parse(value) {
                    Some(HeaderFormat::Literal(text)) => text,
                    Some(HeaderFormat::Commands) | None => {
                        let text = "values with Envoy's `%COMMAND%` are not known: the header is left alone";
                        self.tell(Level::Error, Code::NotHonoured, &format!("{field}.{operation}.{name}"), text);
                        continue;
                    }
                };
                if let (Ok(name), Ok(value)) = (name.parse(), text.parse()) {
                    out.push(Header { name: Name(name), value: Value(value) });
                }
            }
            out
        };
        HeaderOps {
            set: values("set", set),
            add: values("add", add),
            remove: remove.iter().filter_map(|name| name.parse().ok().map(Name)).collect(),
        }
    }

    fn fault(&mut self, found: &HttpFaultInjection) -> Fault {
        let HttpFaultInjection { delay, abort } = found;
        if delay.as_ref().is_some_and(|delay| delay.exponential_delay.is_some()) {
            let text = "no request is delayed: write fixedDelay";
            self.tell(Level::Error, Code::NotHonoured, "fault.delay.exponentialDelay", text);
        }
        if abort.as_ref().is_some_and(|abort| abort.http2_error.is_some()) {
            let text = "no request is aborted: write httpStatus or grpcStatus";
            self.tell(Level::Error, Code::NotHonoured, "fault.abort.http2Error", text);
        }
        let never = |share: Percent| share == Percent::NONE;
        let delay = delay.as_ref().and_then(|delay| {
            let share = delay.percentage.map_or_else(|| f64::from(delay.percent), |percent| percent.value);
            Some(Delay { of: delay.fixed_delay?.0, share: Percent::of(share) })
        });
        let abort = abort.as_ref().and_then(|abort| {
            let http = abort.http_status.and_then(|status| u16::try_from(status).ok()).map(AbortWith::Http);
            let grpc = abort.grpc_status.as_deref().and_then(grpc_status).map(AbortWith::Grpc);
            Some(Abort { with: http.or(grpc)?, share: Percent::of(abort.percentage.map_or(0.0, |percent| percent.value)) })
        });
        for (field, idle) in [
            ("fault.delay", delay.is_some_and(|delay| never(delay.share))),
            ("fault.abort", abort.is_some_and(|abort| never(abort.share))),
        ] {
            if idle {
                let text = "has no percentage, or one of zero: it happens to no request, as in Istio";
                self.tell(Level::Warning, Code::NotHonoured, field, text);
            }
        }
        Fault { delay: delay.filter(|delay| !never(delay.share)), abort: abort.filter(|abort| !never(abort.share)) }
    }
}

fn rewrite(found: &HttpRewrite) -> Rewrite {
    let HttpRewrite { uri, authority, uri_regex_rewrite } = found;
    let by_regex = uri_regex_rewrite.as_ref().and_then(|regex| {
        let pattern = Pattern::new(&regex.pattern).ok()?;
        Some(PathChange::Regex { pattern, with: regex.rewrite.as_str().into() })
    });
    let by_prefix = Some(uri).filter(|uri| !uri.is_empty()).map(|uri| PathChange::Prefix(uri.as_str().into()));
    let host = Some(authority).filter(|authority| !authority.is_empty()).map(|authority| authority.as_str().into());
    Rewrite { path: by_regex.or(by_prefix), host }
}

fn redirect(found: &HttpRedirect) -> Redirect {
    let HttpRedirect { uri, prefix_rewrite, authority, port, derive_port, scheme, redirect_code } = found;
    let some = |text: &String| Some(text).filter(|text| !text.is_empty()).map(|text| Arc::from(text.as_str()));
    Redirect {
        scheme: some(scheme),
        host: some(authority),
        port: match (port.and_then(|port| u16::try_from(port).ok()), derive_port) {
            (Some(port), _) => RedirectPort::Number(port),
            (None, Some(RedirectPortSelection::FromProtocolDefault)) => RedirectPort::OfScheme,
            (None, Some(RedirectPortSelection::FromRequestPort)) => RedirectPort::OfRequest,
            (None, None) => RedirectPort::Unchanged,
        },
        path: some(prefix_rewrite).map(PathChange::Prefix).or_else(|| some(uri).map(PathChange::Full)),
        status: u16::try_from(*redirect_code).ok().filter(|code| *code != 0).unwrap_or(301),
    }
}

fn direct_response(found: &HttpDirectResponse) -> DirectResponse {
    let body = found.body.as_ref();
    let text = body.and_then(|body| body.string.as_deref()).map(str::as_bytes);
    let bytes = body.and_then(|body| body.bytes.as_ref()).map(|bytes| &bytes.0[..]);
    DirectResponse { status: u16::try_from(found.status).unwrap_or(200), body: text.or(bytes).unwrap_or_default().into() }
}

fn cors(found: &CorsPolicy) -> Cors {
    let CorsPolicy {
        allow_origin,
        allow_origins,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        unmatched_preflights,
    } = found;
    let texts = |texts: &[String]| texts.iter().map(|text| Arc::from(text.as_str())).collect();
    let origins: Vec<TextMatch> = if allow_origins.is_empty() {
        allow_origin.iter().map(|origin| TextMatch::Exact(origin.as_str().into())).collect()
    } else {
        allow_origins.iter().filter_map(matching::text).collect()
    };
    Cors {
        allow_origins: origins,
        allow_methods: texts(allow_methods),
        allow_headers: texts(allow_headers),
        expose_headers: texts(expose_headers),
        max_age: max_age.map(|span| span.0),
        allow_credentials: allow_credentials.unwrap_or(false),
        unmatched_preflights: match unmatched_preflights {
            written::UnmatchedPreflights::Ignore => UnmatchedPreflights::Ignore,
            written::UnmatchedPreflights::Unspecified | written::UnmatchedPreflights::Forward => UnmatchedPreflights::Forward,
        },
    }
}
