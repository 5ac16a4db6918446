//! Tries of one request, until one is answered or the policy wants no more.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, header::CONTENT_TYPE, request::Parts};
use hyper::{Request, Response, body::Incoming};
use mesh_policy::{
    authz,
    balance::{self, outlier::Outcome as Seen},
    destination::{Candidates, Hop},
    model::{RetryPolicy, Snapshot, Workload, WorkloadUid},
};
use tokio::time::{sleep, timeout, timeout_at};

use super::{
    Io,
    body::Body,
    client::Client,
    convert::{self, Upgrade},
    destination::{Forward, NO_UPSTREAM},
    error::ExchangeError,
    facts::Facts,
    headers,
    place::{Place, place, terms},
    replay::Replay,
    retry::{self, Outcome},
    trace,
    upstream::{Lease, SendErrorKind, Version},
};
use crate::{
    balance::Permit,
    enrol::pod::InFlightGuard,
    outbound::seen_of,
    reason::{Failure, Reason},
    telemetry::{Cluster, Direction, Flow, Party, RequestRecord, ResponseFlags, Security, Side, Transport},
};

/// Connections that one try may find closed under it, none of which has seen a byte of the request.
const MAX_STALE: usize = 3;

/// Between two looks for a connection that may be made, where nobody here gives one back.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Any,
    /// None that the server may have closed meanwhile.
    Fresh,
}

/// An answer's head has come.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) lease: Lease<Place>,
    pub(super) in_flight: Option<InFlightGuard>,
    pub(super) permit: Option<Permit>,
    /// From the sending of the request to the answer's head.
    pub(super) took: Duration,
    pub(super) address: Option<SocketAddr>,
    /// The destination half's, where it is here too.
    pub(super) inbound: Option<RequestRecord>,
}

/// Everything that is the same for all tries.
pub(super) struct Attempts<'a> {
    pub(super) client: &'a Arc<Client>,
    pub(super) snapshot: &'a Arc<Snapshot>,
    pub(super) source: &'a Arc<Workload>,
    pub(super) facts: &'a Facts,
    pub(super) head: &'a Parts,
    pub(super) upgrade: Option<&'a Upgrade>,
    pub(super) replay: &'a Replay,
    pub(super) forward: &'a Forward<'a>,
}

impl Attempts<'_> {
    pub(super) async fn run(&self, record: &mut RequestRecord) -> Result<Answer, ExchangeError> {
        let Forward { backend, policy, deadline, .. } = self.forward;
        let permit = backend.as_ref().map(|backend| backend.try_request(policy, Instant::now()));
        let permit = permit.transpose().map_err(ExchangeError::Overflow)?;
        let mut trying = None;
        let answer = match *deadline {
            None => self.each(record, &mut trying).await,
            Some((deadline, after)) => match timeout_at(deadline, self.each(record, &mut trying)).await {
                Ok(done) => done,
                Err(_elapsed) => {
                    if let Some(uid) = trying {
                        self.judge_endpoint(&uid, Seen::TimedOut);
                    }
                    Err(ExchangeError::Timeout(after))
                }
            },
        };
        answer.map(|answer| Answer { permit, ..answer })
    }

    async fn each(&self, record: &mut RequestRecord, trying: &mut Option<WorkloadUid>) -> Result<Answer, ExchangeError> {
        let policy = self.forward.retry;
        let mut rng = fastrand::Rng::new();
        let mut candidates = self.forward.candidates(self.snapshot, self.source, self.client.bound.dialled)?;
        let mut hop = self.first(&mut candidates, &mut rng).ok_or(NO_UPSTREAM)?;
        let mut retries = 0;
        // Counted until the attempt has its answer.
        let mut _retrying: Option<Permit> = None;
        loop {
            *trying = hop.workload().map(|workload| workload.uid.clone());
            let result = self.one(&hop, retries + 1, record).await;
            if let (Some(seen), Some(workload)) = (seen(&result), hop.workload()) {
                self.judge_endpoint(&workload.uid, seen);
            }
            if !self.is_worth_another(&result) {
                return result;
            }
            if retries >= policy.attempts {
                if policy.attempts > 0 {
                    record.flag(ResponseFlags::RETRY_LIMIT);
                }
                return result;
            }
            _retrying = None;
            if let Some(backend) = &self.forward.backend {
                let Ok(permit) = backend.try_retry(self.forward.policy, Instant::now()) else {
                    record.flag(ResponseFlags::UPSTREAM_OVERFLOW);
                    return result;
                };
                _retrying = Some(permit);
            }
            drop(result);
            retries += 1;
            sleep(retry::backoff(policy, retries, &mut rng)).await;
            // A workload that was dialled itself is tried again itself.
            hop = self.another(&mut candidates, &mut rng).unwrap_or(hop);
        }
    }

    fn is_worth_another(&self, result: &Result<Answer, ExchangeError>) -> bool {
        let outcome = match result {
            Ok(answer) => Outcome::Answered { status: answer.response.status().as_u16(), headers: answer.response.headers() },
            Err(error) => Outcome::Failed { error, sent_whole: self.replay.is_complete() },
        };
        retry::wants(&self.forward.retry.on, &outcome) && self.upgrade.is_none() && self.replay.can_repeat()
    }

    /// Within the time that the policy gives one try.
    async fn one(&self, hop: &Hop, number: u32, record: &mut RequestRecord) -> Result<Answer, ExchangeError> {
        let flow = self.flow(hop);
        record.routed(self.client.tracked.path(flow.clone(), self.cluster()));
        let mut inbound = match hop {
            Hop::SameNode { address, workload } => Some(self.arrive(*address, workload, flow)?),
            Hop::Direct { .. } | Hop::DirectByName { .. } | Hop::Hbone { .. } | Hop::Outside { .. } => None,
        };
        let RetryPolicy { per_try_timeout, .. } = self.forward.retry;
        let sending = self.send(hop, number, inbound.as_ref());
        let result = match *per_try_timeout {
            None => sending.await,
            Some(after) => timeout(after, sending).await.unwrap_or(Err(ExchangeError::PerTryTimeout(after))),
        };
        match result {
            Ok(answer) => Ok(Answer { inbound, ..answer }),
            Err(error) => {
                if let ExchangeError::Connect(failure) = &error {
                    record.upstream_failure(failure.reason.code());
                }
                if let Some(inbound) = &mut inbound {
                    inbound.flag(ResponseFlags::UPSTREAM_CONNECT_FAILURE);
                    inbound.answered(http::StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new());
                }
                Err(error)
            }
        }
    }

    async fn send(&self, hop: &Hop, number: u32, inbound: Option<&RequestRecord>) -> Result<Answer, ExchangeError> {
        let client = self.client;
        let in_flight = hop.workload().map(|workload| client.pod.in_flight.enter(&workload.uid));
        let (place, version) = (self.place(hop), self.forward.version);
        let mut lease = self.lease(&place, hop, Wanted::Any).await?;
        let gone = || ExchangeError::Gone("the request's body".into());
        let mut request = self.request(hop, number, self.replay.attempt().ok_or_else(gone)?, inbound);
        let mut stale = 0;
        loop {
            let begun = Instant::now();
            let (kind, unsent) = match lease.send(request).await {
                Ok(response) if convert::is_unasked_switch(&response, self.upgrade) => return Err(ExchangeError::UnaskedSwitch),
                Ok(response) => {
                    let (took, address) = (begun.elapsed(), place.address);
                    return Ok(Answer { response, lease, in_flight, permit: None, took, address, inbound: None });
                }
                Err(error) if stale >= MAX_STALE => return Err(ExchangeError::Send(error)),
                Err(mut error) => match error.unsent.take() {
                    Some(unsent) => (error, Some(unsent)),
                    None => (error, None),
                },
            };
            // The server closed a connection that it had kept, perhaps while the request was on its way there.
            let again = kind.kind == SendErrorKind::Closed
                && stale == 0
                && version == Version::Http1
                && lease.is_reused()
                && self.head.method.is_idempotent();
            request = match unsent {
                Some(unsent) => *unsent,
                None if again => match self.replay.attempt() {
                    Some(body) => self.request(hop, number, body, inbound),
                    None => return Err(ExchangeError::Send(kind)),
                },
                None => return Err(ExchangeError::Send(kind)),
            };
            stale += 1;
            lease = self.lease(&place, hop, Wanted::Fresh).await?;
        }
    }

    /// A connection. Where as many are open as may be, the request waits for one that becomes free, if so many may wait.
    async fn lease(&self, place: &Place, hop: &Hop, wanted: Wanted) -> Result<Lease<Place>, ExchangeError> {
        let Forward { policy, backend, version, .. } = self.forward;
        let upstreams = &self.client.pod.lane(self.client.worker).upstreams;
        let terms = terms(policy);
        let connect = || connect(self.client, self.source, hop, self.forward);
        let mut pending = None;
        loop {
            let freed = upstreams.freed();
            let leased = match (wanted, version) {
                (Wanted::Fresh, Version::Http1) => upstreams.lease_http1_fresh(place, terms, connect()).await,
                (Wanted::Fresh | Wanted::Any, _) => upstreams.lease(place, *version, terms, connect).await,
            };
            match (leased, backend) {
                (Err(failure), Some(backend)) if failure.reason == Reason::UpstreamOverflow => {
                    if pending.is_none() {
                        pending = Some(backend.try_pending(policy).map_err(ExchangeError::Overflow)?);
                    }
                    // What nobody uses elsewhere is in the way here.
                    upstreams.close_spare(|other| other.service == place.service && other != place);
                    // Other workers have connections of the pod too.
                    let _ = timeout(LOOK_AGAIN, freed).await;
                }
                (leased, _) => return leased.map_err(ExchangeError::Connect),
            }
        }
    }

    fn request(&self, hop: &Hop, number: u32, body: Body, inbound: Option<&RequestRecord>) -> Request<Body> {
        let body = match inbound {
            Some(inbound) => body.counted(inbound.tallies(), Side::Request, self.head.headers.get(CONTENT_TYPE)),
            None => body,
        };
        let mut request = convert::for_server(self.head, self.upgrade, body, self.forward.version);
        headers::set_attempt_count(request.headers_mut(), number);
        if let Some(inbound) = inbound {
            trace::tell(request.headers_mut(), inbound);
        }
        if let Hop::SameNode { workload, .. } = hop {
            let own = self.client.pod.identity(self.snapshot);
            headers::set_client_cert(request.headers_mut(), &workload.identity(), Some(&own));
        }
        request
    }

    /// The destination half, which is here too: its policy, on the request as it will arrive, and its record.
    fn arrive(&self, address: SocketAddr, workload: &Workload, flow: Flow) -> Result<RequestRecord, ExchangeError> {
        let client = self.client;
        let inbound = Flow { direction: Direction::Inbound, ..flow };
        let path = client.tracked.path(inbound, Cluster::Inbound { port: address.port() });
        let mut inbound = client.node.telemetry.begin(path, self.head);
        trace::adopt(&self.head.headers, &mut inbound, &mut fastrand::Rng::new());
        let request = self.facts.request(self.head);
        let Err(error) = judge(client, self.snapshot, address, workload, &request) else { return Ok(inbound) };
        let reply = error.reply();
        reply.note(&mut inbound);
        let answer = reply.into_response(&self.head.method, &self.head.headers);
        inbound.answered(answer.status(), answer.headers());
        inbound.end(crate::telemetry::Ending::Complete, None);
        Err(error)
    }

    fn judge_endpoint(&self, uid: &WorkloadUid, seen: Seen) {
        if let Some(backend) = &self.forward.backend {
            backend.record(self.forward.policy, uid, seen, Instant::now());
        }
    }

    fn first(&self, candidates: &mut Candidates, rng: &mut fastrand::Rng) -> Option<Hop> {
        let client = self.client;
        candidates.next_hop(&|uid| client.node.pods.contains(uid), &client.pod.in_flight, rng)
    }

    fn another(&self, candidates: &mut Candidates, rng: &mut fastrand::Rng) -> Option<Hop> {
        let client = self.client;
        let RetryPolicy { avoid_previous, remote_localities, .. } = *self.forward.retry;
        let retry = balance::Retry { avoid_previous, remote_localities };
        candidates.retry_hop(retry, &|uid| client.node.pods.contains(uid), &client.pod.in_flight, rng)
    }

    fn place(&self, hop: &Hop) -> Place {
        place(hop, self.forward)
    }

    fn cluster(&self) -> Cluster {
        let Forward { service, port, subset, .. } = self.forward;
        match service {
            Some(service) => {
                let subset = subset.map(|(name, _)| name.clone());
                Cluster::Outbound { port: *port, subset, host: service.hostname.clone() }
            }
            None => Cluster::Passthrough,
        }
    }

    /// What the connection is, with the service and endpoint that the request goes to.
    fn flow(&self, hop: &Hop) -> Flow {
        let mut flow = self.client.tracked.flow().clone();
        flow.service = self.forward.service.cloned();
        flow.destination = Party { workload: hop.workload().cloned(), identity: None };
        match hop {
            Hop::Hbone { address, expected, .. } => {
                flow.destination_address = Some(*address);
                flow.destination.identity = expected.first().cloned();
                flow.transport = Transport::Hbone;
                flow.security = Security::MutualTls;
            }
            Hop::SameNode { address, workload } => {
                flow.destination_address = Some(*address);
                flow.destination.identity = Some(workload.identity());
            }
            Hop::Direct { address, .. } | Hop::Outside { address } => flow.destination_address = Some(*address),
            Hop::DirectByName { .. } => {}
        }
        flow
    }
}

/// What an attempt says of its endpoint; None: nothing.
fn seen(result: &Result<Answer, ExchangeError>) -> Option<Seen> {
    match result {
        Ok(answer) => {
            let grpc = answer.response.headers().get("grpc-status").and_then(|value| value.to_str().ok()?.parse().ok());
            Some(grpc.map_or_else(|| Seen::Status(answer.response.status().as_u16()), Seen::Grpc))
        }
        Err(ExchangeError::Connect(failure)) => seen_of(failure.reason),
        Err(ExchangeError::Send(error)) => (error.kind != SendErrorKind::RequestBody).then_some(Seen::ConnectFailed),
        Err(ExchangeError::UnaskedSwitch) => Some(Seen::ConnectFailed),
        Err(ExchangeError::PerTryTimeout(_)) => Some(Seen::TimedOut),
        Err(_) => None,
    }
}

/// The destination's policy, on a request that both halves of which are here.
pub(super) fn judge(
    client: &Client,
    snapshot: &Snapshot,
    address: SocketAddr,
    workload: &Workload,
    request: &mesh_policy::http::Request<'_>,
) -> Result<(), ExchangeError> {
    let identity = client.pod.identity(snapshot);
    let connection = authz::Connection {
        source_identity: Some(&identity),
        source_ip: client.peer.ip(),
        destination_ip: address.ip(),
        destination_port: address.port(),
    };
    let verdict = authz::decide_request(snapshot, workload, &connection, request);
    client.node.telemetry.metrics.rehearsed(&verdict, workload);
    ExchangeError::judged(&verdict.outcome)
}

/// A new connection, counted for as long as it stands.
pub(super) fn connect(
    client: &Arc<Client>,
    source: &Arc<Workload>,
    hop: &Hop,
    forward: &Forward<'_>,
) -> impl Future<Output = Result<Io, Failure>> + Send + 'static {
    let (client, source, hop) = (client.clone(), source.clone(), hop.clone());
    let host = forward.service.map(|service| service.hostname.clone());
    let permit = forward.backend.as_ref().map(|backend| backend.try_connection(forward.policy)).transpose();
    let patience = forward.policy.limits.connect_timeout;
    async move {
        let permit = permit.map_err(|overflow| Failure::new(Reason::UpstreamOverflow, overflow.to_string()))?;
        let connecting = client.node.transport(&client.pod, client.worker, &source, client.peer, &hop, host);
        let transport = match patience {
            None => connecting.await?,
            Some(patience) => timeout(patience, connecting)
                .await
                .unwrap_or_else(|_| Err(Failure::new(Reason::ConnectTimeout, format!("no connection in {patience:?}"))))?,
        };
        Ok(Io::upstream(transport).holding(permit))
    }
}
