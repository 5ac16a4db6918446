//! What would happen to a connection or a request, and why: `meshctl explain`.
//!
//! [`explain`] asks the functions that the data path asks ([`plan`], [`bind`], [`select`](routing::select), the balance's
//! pools, [`authz`](crate::authz)) and writes down what they say. It knows nothing by itself, and nothing of what only a
//! running node knows: which endpoints are ejected, warming up or busy. Header values with `%VARIABLES%` count as written.

mod answer;
mod backend;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use answer::{
    Answer, Authorization, Backend, BoundTo, Endpoint, Explanation, Judgement, PassedOver, Route, Transport, Treatment,
};
use backend::{Asked, Place};

use crate::{
    balance::Standing,
    binding::{self, Addressed, Bound, Unaddressed, bind},
    destination::{Plan, Refusal, plan, plan_named},
    http::Request,
    model::{
        BackendRef, HttpAction, HttpMatch, HttpRule, Rewrite, Routes, RoutingMode, Service, ServiceKey, Snapshot, Target,
        TunnelProtocol, Workload,
    },
    outside,
    routing::{self, Selected},
};

/// Who asks for what.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    pub source: &'a Workload,
    pub dialled: SocketAddr,
    /// The server name, where the client begins with TLS.
    pub sni: Option<&'a str>,
    /// Normalized, as the node does; None: the traffic is not HTTP.
    pub request: Option<Request<'a>>,
}

/// Stands for whatever address a client finds for the host of a ServiceEntry that has none itself (RFC 5737: nobody's).
pub const ANY_OUTSIDE: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// The address that a client gets for a host, which may be short for one of its namespace's services: the service's own,
/// or that of the first endpoint where it has none; [`ANY_OUTSIDE`] for the host of a ServiceEntry without address. None: no
/// service of that name has an address.
pub fn resolve(snapshot: &Snapshot, source: &Workload, host: &str) -> Option<std::net::IpAddr> {
    if outside::by_name(snapshot, source, host).is_some_and(|entry| entry.addresses.is_empty()) {
        return Some(ANY_OUTSIDE);
    }
    let named = |service: &&std::sync::Arc<Service>| binding::names(host, service, &source.namespace);
    let exact = |service: &&std::sync::Arc<Service>| *service.hostname == *host;
    let service = snapshot.services().find(exact).or_else(|| snapshot.services().find(named))?;
    let own = service.addresses.iter().map(|address| address.range.addr());
    let of_endpoints = snapshot.endpoints(&service.key()).iter().flat_map(|endpoint| endpoint.workload.addresses.iter().copied());
    own.chain(of_endpoints).next()
}

/// Follows a client's connection or request through the model.
pub fn explain(snapshot: &Snapshot, question: &Question<'_>) -> Explanation {
    let Question { source, dialled, sni: _, request } = question;
    let bound = request.as_ref().and_then(|request| Some((request, bind(snapshot, source, *dialled)?.into_bound())));
    let Some((request, bound)) = bound else { return explain_connection(snapshot, question) };
    match bound.address(snapshot, source, request.host) {
        Ok(addressed) => explain_request(snapshot, question, request, &bound, &addressed),
        Err(Unaddressed::Gone(_)) => explain_connection(snapshot, question),
        Err(Unaddressed::Refused(refusal)) => {
            let mut explanation = begin(source, *dialled, BoundTo::Refused { code: refusal.code() }, true);
            explanation.answer = Some(Answer::NotRegistered);
            explanation
        }
    }
}

fn explain_request(
    snapshot: &Snapshot,
    question: &Question<'_>,
    request: &Request<'_>,
    bound: &Bound,
    addressed: &Addressed<'_>,
) -> Explanation {
    let Question { source, dialled, .. } = *question;
    let Addressed { service, port, dialled: workload } = *addressed;
    let bound = match (workload, service) {
        (None, Some(service)) if bound.to == binding::BoundTo::Outside => {
            BoundTo::Entry { service: service.key().to_string(), port }
        }
        (Some(workload), service) => {
            BoundTo::Workload { workload: name_of(workload), service: service.map(|service| service.key().to_string()) }
        }
        (None, Some(service)) => BoundTo::Service { service: service.key().to_string(), port },
        (None, None) => BoundTo::Passthrough { service: None },
    };
    let mut explanation = begin(source, dialled, bound, true);
    let asked = Asked { snapshot, source, dialled, request: Some(request) };
    let itself = Place { service, port, subset: None, workload };
    let Some(routes) = addressed.routes(snapshot, source, request.host) else {
        explanation.treatment = is_captured(source).then(|| Treatment::of(&HttpAction::default(), &snapshot.http().retry));
        explanation.backends.push(asked.backend(&itself, 1, 1, None));
        return explanation;
    };
    let selected = routing::select(routes, source, request);
    explanation.route = route(routes, selected.as_ref(), source, request);
    let Some(Selected { rule, matched }) = selected else {
        explanation.answer = Some(Answer::NoRoute);
        return explanation;
    };
    explanation.treatment = Some(Treatment::of(&rule.action, &snapshot.http().retry));
    match &rule.action.target {
        Target::Redirect(redirect) => {
            let location = routing::location(redirect, matched, request, dialled.port());
            explanation.answer = Some(Answer::Redirect { status: redirect.status, location });
        }
        Target::Respond(response) => explanation.answer = Some(Answer::Respond { status: response.status }),
        Target::Forward(backends) => {
            let total = backends.iter().map(|backend| u64::from(backend.weight)).sum();
            if total == 0 {
                explanation.answer = Some(Answer::NoBackend);
            }
            for backend in backends {
                let change = Change { action: &rule.action, backend, matched };
                explanation.backends.push(asked.routed(&itself, backend, total, Some(&change)));
            }
        }
    }
    explanation
}

/// What a rule makes of a request on its way to one backend.
struct Change<'a> {
    action: &'a HttpAction,
    backend: &'a crate::model::Backend,
    matched: Option<&'a HttpMatch>,
}

impl Change<'_> {
    fn rewrite(&self) -> Option<&Rewrite> {
        self.backend.rewrite.as_ref().or(self.action.rewrite.as_ref())
    }
}

fn route(routes: &Routes, selected: Option<&Selected<'_>>, source: &Workload, request: &Request<'_>) -> Route {
    let is_selected = |rule: &HttpRule| selected.is_some_and(|selected| std::ptr::eq(selected.rule, rule));
    let before = routes.http.iter().take_while(|rule| !is_selected(rule));
    let passed_over = before.map(|rule| {
        let failed = rule.matches.iter().filter_map(|one| routing::judge(one, source, request).err());
        let failed = failed.map(|condition| condition.to_string()).collect();
        PassedOver { origin: rule.origin.clone(), name: rule.name.clone(), failed }
    });
    let (passed_over, name) = (passed_over.collect(), routes.key.to_string());
    match selected {
        None => Route::NoRule { routes: name, passed_over },
        Some(Selected { rule, matched }) => Route::Rule {
            routes: name,
            origin: rule.origin.clone(),
            name: rule.name.clone(),
            matched: matched.and_then(|matched| rule.matches.iter().position(|one| std::ptr::eq(one, matched))),
            passed_over,
        },
    }
}

fn explain_connection(snapshot: &Snapshot, question: &Question<'_>) -> Explanation {
    let Question { source, dialled, sni, request: _ } = *question;
    let refused = |refusal: Refusal| BoundTo::Refused { code: refusal.code() };
    let asked = Asked { snapshot, source, dialled, request: None };
    let planned = match plan(snapshot, source, dialled) {
        Plan::Unnamed { address } => plan_named(snapshot, source, address, sni, &|_, _, _| Standing::default()),
        planned => planned,
    };
    let by_name = service_by_address(snapshot, source, dialled).is_none();
    let service = match &planned {
        Plan::Passthrough { address: _, service: Some(service) } => Some(service.clone()),
        Plan::Passthrough { address: _, service: None } => {
            return begin(source, dialled, BoundTo::Passthrough { service: None }, false);
        }
        Plan::Wait { refusal } => return begin(source, dialled, BoundTo::Unknown { code: refusal.code() }, false),
        // A service whose endpoints all fail is explained with what it has.
        Plan::Refused { refusal, service } => match service {
            Some(service) if service.port(dialled.port()).is_some() => Some(service.clone()),
            Some(_) | None => return begin(source, dialled, refused(*refusal), false),
        },
        Plan::Connect(candidates) => candidates.service().cloned(),
        Plan::Unnamed { .. } => unreachable!("a plan by name is final"),
    };
    let workload = snapshot.workload_at(dialled.ip());
    let Some(service) = service else {
        let Some(workload) = workload else { return begin(source, dialled, refused(Refusal::UnknownAddress), false) };
        let bound = BoundTo::Workload { workload: name_of(workload), service: None };
        let mut explanation = begin(source, dialled, bound, false);
        let itself = Place { service: None, port: dialled.port(), subset: None, workload: Some(workload) };
        explanation.backends.push(asked.backend(&itself, 1, 1, None));
        return explanation;
    };
    let (key, port) = (service.key().to_string(), dialled.port());
    let bound = match (by_name, service.load_balancing.mode) {
        (true, _) => BoundTo::Entry { service: key, port },
        (false, RoutingMode::Passthrough) => BoundTo::Passthrough { service: Some(key) },
        (false, _) => BoundTo::Service { service: key, port },
    };
    let mut explanation = begin(source, dialled, bound, false);
    let itself = Place { service: Some(&service), port: dialled.port(), subset: None, workload: None };
    let source_ip = source.addresses.first().copied().unwrap_or(dialled.ip());
    let routes = snapshot.routes_for(&service, dialled.port(), &source.namespace, sni);
    let followed = routes.and_then(|routes| {
        let by_tls = sni.and_then(|_| routing::select_tls_rule(routes, source, sni, source_ip, dialled.ip()));
        let by_tls = by_tls.map(|rule| (&rule.origin, &rule.backends));
        let by_tcp = || routing::select_tcp_rule(routes, source, source_ip, dialled.ip());
        let (origin, backends) = by_tls.or_else(|| by_tcp().map(|rule| (&rule.origin, &rule.backends)))?;
        Some((routes, origin, backends))
    });
    let Some((routes, origin, backends)) = followed else {
        explanation.backends.push(asked.backend(&itself, 1, 1, None));
        return explanation;
    };
    explanation.route = Route::Rule {
        routes: routes.key.to_string(),
        origin: origin.clone(),
        name: "".into(),
        matched: None,
        passed_over: Vec::new(),
    };
    let total = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    for backend in backends {
        explanation.backends.push(asked.routed(&itself, backend, total, None));
    }
    explanation
}

fn service_by_address<'a>(snapshot: &'a Snapshot, source: &Workload, dialled: SocketAddr) -> Option<&'a std::sync::Arc<Service>> {
    snapshot.service_at(dialled.ip()).filter(|service| service.exports.include(&source.namespace))
}

fn begin(source: &Workload, dialled: SocketAddr, bound: BoundTo, http: bool) -> Explanation {
    Explanation {
        source: name_of(source),
        source_identity: is_captured(source).then(|| source.identity().to_string()),
        dialled,
        bound,
        http,
        route: Route::None,
        answer: None,
        treatment: None,
        backends: Vec::new(),
    }
}

fn name_of(workload: &Workload) -> String {
    format!("{}/{}", workload.namespace, workload.name)
}

/// Whether a node has taken charge of a workload: it speaks HBONE for it.
fn is_captured(workload: &Workload) -> bool {
    workload.tunnel == TunnelProtocol::Hbone
}

/// A backend's service, as a route names it.
fn named(to: &BackendRef) -> Result<(&ServiceKey, u16, Option<&std::sync::Arc<str>>), &str> {
    match to {
        BackendRef::Service { service, port, subset } => Ok((service, *port, subset.as_ref())),
        BackendRef::Invalid { reason } => Err(reason),
    }
}
