//! The destination half: every request is judged before the application sees a byte of it.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use http::{
    HeaderValue, Version,
    header::{CONNECTION, CONTENT_TYPE},
    request::Parts,
};
use hyper::{Request, Response, body::Incoming};
use mesh_policy::{
    authz,
    model::{Identity, Snapshot},
};

use super::{
    Exchange, Io,
    body::Body,
    client::content_type,
    convert::{self, Upgrade},
    error::ExchangeError,
    facts::Facts,
    headers::{self, Sender},
    replay::Replay,
    request_id, trace, upgrade,
    upstream::{self, Lease, Pool, SendErrorKind, Terms},
};
use crate::{
    enrol::{Pod, pod::Counted},
    inbound::Inbound,
    metered::Charged,
    reason::{Failure, Reason},
    telemetry::{Cluster, Flow, RequestRecord, Side, Tracked},
    worker::WorkerId,
};

/// One connection to an application of this node's.
pub struct Server {
    node: Arc<Inbound>,
    pod: Arc<Pod>,
    worker: WorkerId,
    /// Proved by a certificate. None: the connection is plaintext.
    source: Option<Identity>,
    peer: SocketAddr,
    target: SocketAddr,
    /// The application's connections of this one: nobody else's requests go there.
    upstreams: Pool<()>,
    /// Lists the connection for as long as it, or what it was upgraded to, is open.
    tracked: Tracked,
    _counted: Option<Counted>,
}

impl Server {
    /// For a connection of which `tracked` says who makes it, and to where.
    pub fn new(node: Arc<Inbound>, pod: Arc<Pod>, worker: WorkerId, tracked: Tracked, counted: Option<Counted>) -> Self {
        let upstreams = Pool::new(pod.lane(worker).cost.clone(), upstream::Settings::default());
        let Flow { source_address: peer, original_destination: target, ref source, .. } = *tracked.flow();
        let source = source.identity.clone();
        Self { node, pod, worker, source, peer, target, upstreams, tracked, _counted: counted }
    }

    async fn forward(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        mut head: Parts,
        upgrade: Option<Upgrade>,
        body: Body,
    ) -> Result<Response<Body>, ExchangeError> {
        headers::refuse_ambiguous(&head.method, head.version, &head.headers).map_err(ExchangeError::Ambiguous)?;
        convert::arrived(&mut head.headers);
        let sender = if self.source.is_some() { Sender::Mesh } else { Sender::Plaintext };
        headers::sanitize(&mut head.headers, sender);
        // For a request of HTTP/1.0 that names no host.
        let default_host = self.target.to_string();
        let facts =
            Facts::normalize(&mut head, snapshot.http().normalization, &default_host).map_err(ExchangeError::BadRequest)?;
        self.judge(snapshot, &facts, &head)?;
        headers::set_client_cert(&mut head.headers, &self.pod.identity(snapshot), self.source.as_ref());
        headers::set_forwarded_proto(&mut head.headers, "http");
        request_id::ensure(&mut head.headers, &mut fastrand::Rng::new());
        let version = if head.version == Version::HTTP_2 { upstream::Version::Http2 } else { upstream::Version::Http1 };
        let replay = Replay::new(body);
        let begun = Instant::now();
        let (mut response, lease) = self.send(&head, upgrade.as_ref(), &replay, version).await?;
        let took = begun.elapsed();
        let granted = upgrade.and_then(|upgrade| upgrade.granted(response.status()));
        let on_server = granted.is_some().then(|| hyper::upgrade::on(&mut response));
        let (mut head, body) = convert::answered(&head.method, response);
        headers::set_service_time(&mut head.headers, took);
        let body = match (granted, on_server) {
            (Some(on_client), Some(on_server)) => {
                let server = self.clone();
                Charged::new(self.pod.lane(self.worker).cost.clone()).spawn(async move {
                    let _held = (server, lease);
                    // Either end's break has broken the other one.
                    let _ = upgrade::join(on_client, on_server).await;
                });
                Body::empty()
            }
            _ => body.holding(lease),
        };
        Ok(Response::from_parts(head, body))
    }

    /// By the policies of this moment: a change counts for the next request of an open connection.
    fn judge(&self, snapshot: &Snapshot, facts: &Facts, head: &Parts) -> Result<(), ExchangeError> {
        if self.source.is_none() && self.pod.lets_plaintext_pass() {
            return Ok(());
        }
        let unknown = || ExchangeError::Denied {
            failure: Failure::new(Reason::SourceUnknown, format!("{} is not known to the controller", self.pod.uid)),
            details: "rbac_access_denied_matched_policy[none]".into(),
        };
        let workload = self.pod.workload(snapshot).ok_or_else(unknown)?;
        let connection = authz::Connection {
            source_identity: self.source.as_ref(),
            source_ip: self.peer.ip(),
            destination_ip: self.target.ip(),
            destination_port: self.target.port(),
        };
        let verdict = authz::decide_request(snapshot, &workload, &connection, &facts.request(head));
        self.node.telemetry.metrics.rehearsed(&verdict, &workload);
        ExchangeError::judged(&verdict.outcome)
    }

    async fn send(
        &self,
        head: &Parts,
        upgrade: Option<&Upgrade>,
        replay: &Replay,
        version: upstream::Version,
    ) -> Result<(Response<Incoming>, Lease<()>), ExchangeError> {
        let connect = || {
            let (deliverer, pod) = (self.node.deliverer.clone(), self.pod.clone());
            let (client, target) = (self.peer.ip(), self.target);
            async move { Ok(Io::upstream(deliverer.deliver(&pod, client, target).await?)) }
        };
        let mut lease = self.upstreams.lease(&(), version, Terms::default(), connect).await.map_err(ExchangeError::Connect)?;
        let body = || replay.attempt().ok_or_else(|| ExchangeError::Gone("the request's body".into()));
        let mut request = convert::for_server(head, upgrade, body()?, version);
        loop {
            let reused = lease.is_reused();
            match lease.send(request).await {
                Ok(response) if convert::is_unasked_switch(&response, upgrade) => return Err(ExchangeError::UnaskedSwitch),
                Ok(response) => return Ok((response, lease)),
                Err(error) => match error.unsent {
                    Some(unsent) if reused => request = *unsent,
                    // The application closed a connection that it had kept, while the request was on its way there.
                    None if reused
                        && error.kind == SendErrorKind::Closed
                        && head.method.is_idempotent()
                        && replay.can_repeat() =>
                    {
                        request = convert::for_server(head, upgrade, body()?, version);
                    }
                    _ => return Err(ExchangeError::Send(error)),
                },
            }
            lease = match version {
                upstream::Version::Http1 => self.upstreams.lease_http1_fresh(&(), Terms::default(), connect()).await,
                upstream::Version::Http2 => self.upstreams.lease(&(), version, Terms::default(), connect).await,
            }
            .map_err(ExchangeError::Connect)?;
        }
    }

    fn record(&self, head: &Parts) -> RequestRecord {
        let telemetry = &self.node.telemetry;
        let path = self.tracked.path(self.tracked.flow().clone(), Cluster::Inbound { port: self.target.port() });
        telemetry.begin(path, head)
    }
}

impl Exchange for Server {
    async fn exchange(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let (mut head, body) = request.into_parts();
        let snapshot = Arc::clone(&self.node.store.load());
        let upgrade = Upgrade::take(&mut head);
        let mut record = self.record(&head);
        trace::follow(&mut head.headers, &mut record, &mut fastrand::Rng::new());
        let (method, asked) = (head.method.clone(), content_type(&head.headers));
        let (body, stall) = Body::received(body, head.version).of_request(&asked, self.node.http.body);
        let body = body.counted(record.tallies(), Side::Request, asked.get(CONTENT_TYPE));
        let done = self.forward(&snapshot, head, upgrade, body).await;
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
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
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
