//! The source half: what is done with one request of a captured pod before and after its destination.
//!
//! [`Client::forward`] is the whole of it in order: route, CORS and faults, the route's own answers, rewrite and headers,
//! mirrors, attempts, the answer's headers. Every request acts on one snapshot.

use std::{net::SocketAddr, sync::Arc};

use http::{
    HeaderMap, HeaderValue, Method,
    header::{CONTENT_TYPE, HOST, SET_COOKIE},
    request::Parts,
};
use hyper::{Request, Response, body::Incoming};
use mesh_policy::{
    binding::{Addressed, BoundTo, Unaddressed},
    model::{Backend, HttpAction, Identity, Rewrite, Snapshot, Target, Workload},
    routing::{self, Selected},
};
use tokio::time::{Instant, sleep};

use super::{
    Bound, Exchange,
    affinity::Affinity,
    attempt::{Answer, Attempts},
    body::Body,
    convert::{self, Upgrade},
    cors,
    destination::{self, Forward},
    error::ExchangeError,
    facts::{BadRequest, Facts},
    fault,
    header_ops::{self, Substitutions},
    headers::{self, Sender},
    replay::Replay,
    reply::LocalReply,
    request_id, trace, upgrade,
};
use crate::{
    enrol::Pod,
    metered::Charged,
    outbound::Outbound,
    reason::Reason,
    telemetry::{Cluster, RequestRecord, ResponseFlags, Side, Tracked},
    worker::WorkerId,
};

/// One connection of a captured application.
pub struct Client {
    pub node: Arc<Outbound>,
    pub pod: Arc<Pod>,
    pub worker: WorkerId,
    pub peer: SocketAddr,
    pub bound: Bound,
    /// Lists the connection for as long as it, or what it was upgraded to, is open.
    pub tracked: Tracked,
}

impl Exchange for Client {
    async fn exchange(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let (mut head, body) = request.into_parts();
        let snapshot = Arc::clone(&self.node.store.load());
        let upgrade = Upgrade::take(&mut head);
        let facts = self.arrive(&snapshot, &mut head);
        let mut record = self.record(&head);
        trace::follow(&mut head.headers, &mut record, &mut fastrand::Rng::new());
        let (method, asked) = (head.method.clone(), content_type(&head.headers));
        let (body, stall) = Body::received(body, head.version).of_request(&asked, self.node.http.body);
        let body = body.counted(record.tallies(), Side::Request, asked.get(CONTENT_TYPE));
        let done = match facts {
            Ok(facts) => self.forward(&snapshot, facts, head, upgrade, body, &mut record).await,
            Err(error) => Err(error),
        };
        let response = done.unwrap_or_else(|error| {
            let error = stall.after().map_or(error, ExchangeError::Slow);
            if let Some(reason) = error.reason() {
                self.node.telemetry.note_failure(self.tracked.flow(), reason);
            }
            let closes = matches!(error, ExchangeError::Ambiguous(_));
            let reply = error.reply();
            reply.note(&mut record);
            let mut response = reply.into_response(&method, &asked);
            if closes {
                response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        });
        let (head, body) = response.into_parts();
        record.answered(head.status, &head.headers);
        let body = body.counted(record.tallies(), Side::Response, head.headers.get(CONTENT_TYPE));
        Response::from_parts(head, body.on_end(move |ended| record.end(ended.how, ended.trailers)))
    }

    fn refused(&self, reason: Reason) {
        self.node.telemetry.note_failure(self.tracked.flow(), reason);
    }
}

/// Of a request's headers the one that decides the form of an answer of our own.
pub(super) fn content_type(headers: &HeaderMap) -> HeaderMap {
    headers.get(CONTENT_TYPE).map(|value| (CONTENT_TYPE, value.clone())).into_iter().collect()
}

impl Client {
    /// Brings the head into form, and takes out what an application may not say.
    fn arrive(&self, snapshot: &Snapshot, head: &mut Parts) -> Result<Facts, ExchangeError> {
        let clear = headers::refuse_ambiguous(&head.method, head.version, &head.headers);
        convert::arrived(&mut head.headers);
        headers::sanitize(&mut head.headers, Sender::Application);
        headers::set_forwarded_proto(&mut head.headers, "http");
        request_id::ensure(&mut head.headers, &mut fastrand::Rng::new());
        clear.map_err(ExchangeError::Ambiguous)?;
        // For a request of HTTP/1.0 that names no host: the address dialled.
        let default_host = self.bound.dialled.to_string();
        Facts::normalize(head, snapshot.http().normalization, &default_host).map_err(ExchangeError::BadRequest)
    }

    async fn forward(
        self: &Arc<Self>,
        snapshot: &Arc<Snapshot>,
        mut facts: Facts,
        mut head: Parts,
        upgrade: Option<Upgrade>,
        body: Body,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, ExchangeError> {
        let begun = Instant::now();
        let mut rng = fastrand::Rng::new();
        let source = self.pod.workload(snapshot).ok_or_else(|| ExchangeError::Gone(self.pod.uid.to_string()))?;
        let source = &source;
        let addressed = self.address(snapshot, source, &facts, record)?;
        let selected = destination::route(&addressed, snapshot, source, &facts.request(&head))?;
        let default = HttpAction::default();
        let action = selected.as_ref().map_or(&default, |selected| &*selected.rule.action);
        let route = selected.as_ref().map_or_else(Arc::default, |selected| selected.rule.name.clone());
        if selected.is_some() {
            record.route(route.clone());
        }

        let allowed_origin = match action.cors.as_ref().map(|cors| (cors, cors::decide(cors, &head.method, &head.headers))) {
            None | Some((_, cors::Decision::Pass)) => None,
            Some((cors, cors::Decision::Allow(origin))) => Some((cors, origin)),
            Some((_, cors::Decision::Answer(response))) => {
                record.details(cors::DETAILS);
                return Ok(response);
            }
        };
        self.fault(action, record, &mut rng).await?;
        let backend = own_answer_or_backend(action, selected.as_ref(), &facts, &head, self.bound.dialled.port(), &mut rng);
        let kind = selected.as_ref().map_or("", |selected| &*selected.rule.origin.kind);
        let backend = backend.map_err(|error| error.of_route(kind))?;

        let as_came = head.headers.clone();
        let identity = self.pod.identity(snapshot);
        let ends = Ends { remote: self.peer, local: self.bound.dialled, client: Some(&identity) };
        facts = changed(&mut head, facts, &as_came, action, backend, selected.as_ref(), &ends, snapshot)?;

        let forward = Forward::new(snapshot, source, &addressed, backend.map(|backend| &backend.to), &self.pod.balance);
        let mut forward = forward.map_err(|error| error.of_route(kind))?;
        forward.retry = action.retry.as_ref().unwrap_or(&snapshot.http().retry);
        forward.deadline = action.timeout.map(|timeout| (begun + timeout, timeout));
        forward.speak(head.version, upgrade.is_some());
        let affinity = Affinity::of(&forward.policy.balance, &facts.request(&head), self.peer.ip(), &mut rng);
        forward.hash = affinity.hash;

        let replay = Replay::new(body);
        for mirror in action.mirrors.iter().chain(backend.iter().flat_map(|backend| &backend.mirrors)) {
            if mirror.share.hits(&mut rng) {
                self.mirror(snapshot, source, &mirror.to, &head, &replay);
            }
        }
        let attempts = Attempts {
            client: self,
            snapshot,
            source,
            facts: &facts,
            head: &head,
            upgrade: upgrade.as_ref(),
            replay: &replay,
            forward: &forward,
        };
        let answer = attempts.run(record).await?;
        let upstream = answer.address;
        let mut response = self.answer(&head.method, answer, upgrade, &forward);

        let status = response.status().as_u16();
        let ends = Ends { client: None, ..ends };
        let values = |code| Substitutions { upstream, response_code: code, ..ends.values(&as_came, &head, &facts, &route) };
        for ops in [Some(&action.response_headers), backend.map(|backend| &backend.response_headers)].into_iter().flatten() {
            if !ops.is_empty() {
                header_ops::apply(ops, response.headers_mut(), &values(Some(status)));
            }
        }
        if let Some((cors, origin)) = allowed_origin {
            cors::allow(cors, origin, response.headers_mut());
        }
        if let Some(cookie) = affinity.cookie {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
        Ok(response)
    }

    /// What the request is for. Of what leaves the mesh to nobody that it knows, the record says so in Istio's words.
    fn address<'a>(
        &self,
        snapshot: &'a Snapshot,
        source: &'a Workload,
        facts: &Facts,
        record: &mut RequestRecord,
    ) -> Result<Addressed<'a>, ExchangeError> {
        let addressed = self.bound.address(snapshot, source, facts.host());
        match (&self.bound.to, &addressed) {
            (BoundTo::Outside, Ok(Addressed { service: None, .. })) => record.route("allow_any".into()),
            (BoundTo::Outside, Err(Unaddressed::Refused(_))) => record.route("block_all".into()),
            (BoundTo::Outside | BoundTo::Service(_) | BoundTo::Workload { .. }, _) => {}
        }
        addressed.map_err(|error| match error {
            Unaddressed::Gone(what) => ExchangeError::Gone(what),
            Unaddressed::Refused(refusal) => ExchangeError::NotRegistered { refusal, host: facts.host().to_owned() },
        })
    }

    async fn fault(&self, action: &HttpAction, record: &mut RequestRecord, rng: &mut fastrand::Rng) -> Result<(), ExchangeError> {
        let drawn = fault::draw(&action.fault, rng);
        if let Some(delay) = drawn.delay {
            record.flag(ResponseFlags::DELAY_INJECTED);
            sleep(delay).await;
        }
        drawn.abort.map_or(Ok(()), |with| Err(ExchangeError::Answered(Box::new(LocalReply::fault(with)))))
    }

    /// The head of the answer in the client's form; its body holds what the request took.
    fn answer(
        self: &Arc<Self>,
        method: &Method,
        answer: Answer,
        upgrade: Option<Upgrade>,
        forward: &Forward<'_>,
    ) -> Response<Body> {
        let Answer { mut response, lease, in_flight, permit, took, address: _, inbound } = answer;
        let held = (lease, in_flight, permit);
        let granted = upgrade.and_then(|upgrade| upgrade.granted(response.status()));
        let on_server = granted.is_some().then(|| hyper::upgrade::on(&mut response));
        let (mut head, body) = convert::answered(method, response);
        headers::set_service_time(&mut head.headers, took);
        let mut body = match (granted, on_server) {
            (Some(on_client), Some(on_server)) => {
                let client = self.clone();
                Charged::new(self.pod.lane(self.worker).cost.clone()).spawn(async move {
                    let _held = (client, held);
                    // Either end's break has broken the other one.
                    let _ = upgrade::join(on_client, on_server).await;
                });
                Body::empty()
            }
            _ => body.within(None, forward.deadline.map(|(deadline, _)| deadline)).holding(held),
        };
        if let Some(mut inbound) = inbound {
            inbound.answered(head.status, &head.headers);
            body = body.counted(inbound.tallies(), Side::Response, head.headers.get(CONTENT_TYPE));
            body = body.on_end(move |ended| inbound.end(ended.how, ended.trailers));
        }
        Response::from_parts(head, body)
    }

    fn record(&self, head: &Parts) -> RequestRecord {
        let telemetry = &self.node.telemetry;
        telemetry.begin(self.tracked.path(self.tracked.flow().clone(), Cluster::None), head)
    }
}

/// The route's own answer, or the backend that it has drawn; None: there is no route.
fn own_answer_or_backend<'a>(
    action: &'a HttpAction,
    selected: Option<&Selected<'_>>,
    facts: &Facts,
    head: &Parts,
    dialled_port: u16,
    rng: &mut fastrand::Rng,
) -> Result<Option<&'a Backend>, ExchangeError> {
    let Some(selected) = selected else { return Ok(None) };
    let reply = match &action.target {
        Target::Forward(backends) => {
            let none = || ExchangeError::InvalidBackend { detail: "no backend has a weight".into() };
            return routing::choose_backend(backends, rng).ok_or_else(none).map(Some);
        }
        Target::Redirect(redirect) => {
            let location = routing::location(redirect, selected.matched, &facts.request(head), dialled_port);
            LocalReply::redirect(redirect.status, &location)
        }
        Target::Respond(response) => LocalReply::direct(response),
    };
    Err(ExchangeError::Answered(Box::new(reply)))
}

/// The two ends of a connection, for those header values that speak of them.
#[derive(Clone, Copy)]
struct Ends<'a> {
    remote: SocketAddr,
    /// What the client dialled.
    local: SocketAddr,
    client: Option<&'a Identity>,
}

impl<'a> Ends<'a> {
    fn values(&self, as_came: &'a HeaderMap, head: &'a Parts, facts: &'a Facts, route: &'a str) -> Substitutions<'a> {
        let Self { remote, local, client } = *self;
        Substitutions {
            request: as_came,
            method: &head.method,
            path_and_query: head.uri.path_and_query().map_or("/", |target| target.as_str()),
            authority: facts.host(),
            version: head.version,
            remote,
            local,
            client,
            upstream: None,
            response_code: None,
            route,
        }
    }
}

/// What a rule makes of a request on its way to a backend: path and host are rewritten, then the rule's header operations
/// apply, then the backend's. `meshctl explain` says the same (`mesh_policy::explain`).
#[allow(clippy::too_many_arguments, reason = "each is a fact of its own about one request")]
fn changed(
    head: &mut Parts,
    mut facts: Facts,
    as_came: &HeaderMap,
    action: &HttpAction,
    backend: Option<&Backend>,
    selected: Option<&Selected<'_>>,
    ends: &Ends<'_>,
    snapshot: &Snapshot,
) -> Result<Facts, ExchangeError> {
    let rewrite = backend.and_then(|backend| backend.rewrite.as_ref()).or(action.rewrite.as_ref());
    if let Some(rewrite) = rewrite {
        facts = rewritten(head, &facts, rewrite, selected, snapshot)?;
    }
    let route = selected.map_or_else(Arc::default, |selected| selected.rule.name.clone());
    let all = [Some(&action.request_headers), backend.map(|backend| &backend.request_headers)];
    for ops in all.into_iter().flatten().filter(|ops| !ops.is_empty()) {
        let mut fields = std::mem::take(&mut head.headers);
        let authority = header_ops::apply(ops, &mut fields, &ends.values(as_came, head, &facts, &route));
        head.headers = fields;
        if let Some(authority) = authority {
            head.headers.insert(HOST, authority);
            facts = Facts::normalize(head, snapshot.http().normalization, facts.host()).map_err(ExchangeError::BadRequest)?;
        }
    }
    Ok(facts)
}

/// Changes path and host; what results is brought into form like what came in.
fn rewritten(
    head: &mut Parts,
    facts: &Facts,
    rewrite: &Rewrite,
    selected: Option<&Selected<'_>>,
    snapshot: &Snapshot,
) -> Result<Facts, ExchangeError> {
    let Rewrite { path, host } = rewrite;
    if let Some(change) = path {
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        headers::set_original_path(&mut head.headers, target);
        let changed = routing::change_path(change, selected.and_then(|selected| selected.matched), target);
        head.uri = changed.parse().map_err(|_| ExchangeError::BadRequest(BadRequest::Target))?;
    }
    if let Some(host) = host {
        let value = HeaderValue::from_str(host).map_err(|_| ExchangeError::BadRequest(BadRequest::HostEncoding))?;
        head.headers.insert(HOST, value);
    }
    Facts::normalize(head, snapshot.http().normalization, facts.host()).map_err(ExchangeError::BadRequest)
}

#[cfg(test)]
mod tests;
