//! The source half: what is done with one request of a captured pod before and after its destination.
//!
//! [`Client::forward`] is the whole of it in order: route, CORS and faults, the route's own answers, rewrite and headers,
//! mirrors, attempts, the answer's headers. Every request acts on one snapshot.

use std::{net::SocketAddr, sync::Arc};

use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_TYPE, HOST, SET_COOKIE},
    request::Parts,
};
use hyper::{Request, Response, body::Incoming};
use mesh_policy::{
    model::{Backend, HeaderOps, HttpAction, Identity, Rewrite, Snapshot, Target},
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
    destination::Forward,
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
    telemetry::{Cluster, RequestFacts, RequestRecord, ResponseFlags, Side, Tracked},
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
        let body = Body::from(body).counted(record.tallies(), Side::Request, asked.get(CONTENT_TYPE));
        let done = match facts {
            Ok(facts) => self.forward(&snapshot, facts, head, upgrade, body, &mut record).await,
            Err(error) => Err(error),
        };
        let response = done.unwrap_or_else(|error| {
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
        let source = snapshot.workload(&self.pod.uid).ok_or_else(|| ExchangeError::Gone(self.pod.uid.to_string()))?;
        let addressed = self.bound.address(snapshot, source, &facts)?;
        let selected = addressed.route(snapshot, source, &facts.request(&head))?;
        let default = HttpAction::default();
        let action = selected.as_ref().map_or(&default, |selected| &*selected.rule.action);
        let route = selected.as_ref().map_or_else(Arc::default, |selected| selected.rule.name.clone());
        record.route(route.clone());

        let allowed_origin = match action.cors.as_ref().map(|cors| (cors, cors::decide(cors, &head.method, &head.headers))) {
            None | Some((_, cors::Decision::Pass)) => None,
            Some((cors, cors::Decision::Allow(origin))) => Some((cors, origin)),
            Some((_, cors::Decision::Answer(response))) => {
                record.details(cors::DETAILS);
                return Ok(response);
            }
        };
        self.fault(action, record, &mut rng).await?;
        let backend = own_answer_or_backend(action, selected.as_ref(), &facts, &head, self.bound.dialled.port(), &mut rng)?;

        let as_came = head.headers.clone();
        let rewrite = backend.and_then(|backend| backend.rewrite.as_ref()).or(action.rewrite.as_ref());
        if let Some(rewrite) = rewrite {
            facts = rewritten(&mut head, &facts, rewrite, selected.as_ref(), snapshot)?;
        }
        for ops in [Some(&action.request_headers), backend.map(|backend| &backend.request_headers)].into_iter().flatten() {
            facts = self.change(ops, &mut head, facts, &as_came, &route, snapshot)?;
        }

        let mut forward = Forward::new(snapshot, source, &addressed, backend.map(|backend| &backend.to), &self.pod)?;
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
        let mut response = self.answer(answer, upgrade, &forward);

        let status = response.status().as_u16();
        let values = |code| Substitutions { upstream, response_code: code, ..self.values(&as_came, &head, &facts, &route, None) };
        for ops in [Some(&action.response_headers), backend.map(|backend| &backend.response_headers)].into_iter().flatten() {
            if !ops.is_empty() {
                header_ops::apply_to_response(ops, response.headers_mut(), &values(Some(status)));
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

    async fn fault(&self, action: &HttpAction, record: &mut RequestRecord, rng: &mut fastrand::Rng) -> Result<(), ExchangeError> {
        let drawn = fault::draw(&action.fault, rng);
        if let Some(delay) = drawn.delay {
            record.flag(ResponseFlags::DELAY_INJECTED);
            sleep(delay).await;
        }
        drawn.abort.map_or(Ok(()), |with| Err(ExchangeError::Answered(Box::new(LocalReply::fault(with)))))
    }

    /// The head of the answer in the client's form; its body holds what the request took.
    fn answer(self: &Arc<Self>, answer: Answer, upgrade: Option<Upgrade>, forward: &Forward<'_>) -> Response<Body> {
        let Answer { mut response, lease, in_flight, permit, took, address: _, inbound } = answer;
        let held = (lease, in_flight, permit);
        let granted = upgrade.and_then(|upgrade| upgrade.granted(response.status()));
        let on_server = granted.is_some().then(|| hyper::upgrade::on(&mut response));
        let (mut head, body) = convert::answered(response);
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
            _ => Body::from(body).within(None, forward.deadline.map(|(deadline, _)| deadline)).holding(held),
        };
        if let Some(mut inbound) = inbound {
            inbound.answered(head.status, &head.headers);
            body = body.counted(inbound.tallies(), Side::Response, head.headers.get(CONTENT_TYPE));
            body = body.on_end(move |ended| inbound.end(ended.how, ended.trailers));
        }
        Response::from_parts(head, body)
    }

    /// Applies the route's operations; what they make of the host is brought into form.
    fn change(
        &self,
        ops: &HeaderOps,
        head: &mut Parts,
        facts: Facts,
        as_came: &HeaderMap,
        route: &str,
        snapshot: &Snapshot,
    ) -> Result<Facts, ExchangeError> {
        if ops.is_empty() {
            return Ok(facts);
        }
        let identity = self.pod.identity(snapshot);
        let mut changed = std::mem::take(&mut head.headers);
        let authority =
            header_ops::apply_to_request(ops, &mut changed, &self.values(as_came, head, &facts, route, Some(&identity)));
        head.headers = changed;
        let Some(authority) = authority else { return Ok(facts) };
        head.headers.insert(HOST, authority);
        Facts::normalize(head, snapshot.http().normalization, facts.host()).map_err(ExchangeError::BadRequest)
    }

    fn values<'a>(
        &self,
        as_came: &'a HeaderMap,
        head: &'a Parts,
        facts: &'a Facts,
        route: &'a str,
        client: Option<&'a Identity>,
    ) -> Substitutions<'a> {
        Substitutions {
            request: as_came,
            method: &head.method,
            path_and_query: head.uri.path_and_query().map_or("/", |target| target.as_str()),
            authority: facts.host(),
            version: head.version,
            remote: self.peer,
            local: self.bound.dialled,
            client,
            upstream: None,
            response_code: None,
            route,
        }
    }

    fn record(&self, head: &Parts) -> RequestRecord {
        let telemetry = &self.node.telemetry;
        telemetry.request(telemetry.path(self.tracked.flow().clone(), Cluster::None), RequestFacts::of(head))
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
