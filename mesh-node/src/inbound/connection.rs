//! One connection to a captured pod: in a tunnel, or in plaintext.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_policy::{
    authz,
    model::{AppProtocol, Identity, Snapshot, Workload},
};
use tokio::{net::TcpStream, sync::watch};
use tracing::debug;

use super::deliver::{Delivered, Deliverer};
use crate::{
    authz::{catch_up, denied},
    copy::{self, Meter},
    enrol::{Pod, pod::Counted},
    hbone::{self, ConnectInfo, H2Stream, Handler, Refusal, Spawner, Target},
    http,
    identity::Certificates,
    metered::Metered,
    outbound::broken,
    reason::{Failure, Reason},
    state::{Store, client::chain},
    telemetry::{Direction, Flow, Party, Security, Telemetry, Tracked, Transport},
    worker::{WorkerId, Workers},
};

/// Everything that an inbound connection needs.
pub struct Inbound {
    pub workers: Arc<Workers>,
    pub deliverer: Deliverer,
    pub store: Arc<Store>,
    pub certificates: Arc<Certificates>,
    pub telemetry: Arc<Telemetry>,
    pub hbone: hbone::Settings,
    pub http: http::Limits,
    /// For the pod itself to become known, and for its certificate.
    pub patience: Duration,
    /// True once the node drains: tunnels open no more streams.
    pub draining: watch::Receiver<bool>,
}

impl Inbound {
    /// Serves a tunnel to its end.
    pub async fn tunnel(self: Arc<Self>, pod: Arc<Pod>, worker: WorkerId, stream: TcpStream, peer: SocketAddr) {
        let since = Instant::now();
        // HTTP/2 tells an end from a break by itself, and its last words must arrive.
        copy::end_on_close(&stream);
        let refuse = |failure: &Failure| {
            let mut flow = self.described(&pod, None, peer, SocketAddr::new(pod.addresses[0], mesh_common::ports::HBONE));
            flow.transport = Transport::Hbone;
            self.telemetry.refuse(&flow, since, failure);
        };
        let identity = pod.identity(&self.store.load());
        let deadline = tokio::time::Instant::now() + self.patience;
        let tls = match self.certificates.wait(&identity, deadline).await {
            Ok(tls) => tls,
            Err(error) => {
                return refuse(&Failure::new(Reason::CertificatePending, error.to_string()));
            }
        };
        let cost = pod.lane(worker).cost.clone();
        let spawner = Spawner::new(move |task| drop(tokio::spawn(Metered::new(cost.clone(), task))));
        let settings = hbone::Settings { spawner, ..self.hbone.clone() };
        let mut draining = self.draining.clone();
        let drain = async move {
            if draining.wait_for(|draining| *draining).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let handler = Arc::new(PodHandler { inbound: self.clone(), pod: pod.clone(), worker, peer });
        let served = hbone::serve(stream, tls.server_config(), handler, &settings, pod.budget.clone(), drain).await;
        if let Err(error) = served {
            match error.reason() {
                // An established tunnel's end is no refused connection: its streams have said what they lost.
                Reason::TunnelClosed | Reason::Draining => debug!(%peer, error = %chain(&error), "tunnel ended"),
                reason => refuse(&Failure::new(reason, chain(&error))),
            }
        }
    }

    /// Serves a connection that came in plaintext: nobody has proved anything, and policy knows it.
    pub async fn plaintext(self: Arc<Self>, pod: Arc<Pod>, worker: WorkerId, mut client: TcpStream, peer: SocketAddr) {
        let since = Instant::now();
        let target = match client.local_addr() {
            Ok(local) => SocketAddr::new(local.ip().to_canonical(), local.port()),
            // Gone already.
            Err(_) => return,
        };
        match Box::pin(self.accept(&pod, None, peer, target, Transport::Tcp, since)).await {
            Err((flow, failure)) => self.telemetry.refuse(&flow, since, &failure),
            Ok(Accepted::Requests(flow)) => Box::pin(self.requests(pod, worker, http::Io::downstream(client), *flow, None)).await,
            Ok(Accepted::Unsure(flow)) => Box::pin(self.unsure(pod, worker, http::Io::downstream(client), *flow, None)).await,
            Ok(Accepted::Bytes(Delivered { stream: mut app, lease }, tracked)) => {
                let failure = tokio::select! {
                    // First: what is denied already carries nothing.
                    biased;
                    () = tracked.revoked() => Some(Reason::PolicyRevoked.into()),
                    result = copy::bidirectional(&mut client, &mut app, &tracked) => result.err().map(|error| broken(&error)),
                };
                tracked.close(failure.as_ref());
                drop(lease);
            }
        }
    }

    /// Serves a connection that speaks HTTP, request by request.
    async fn requests(self: Arc<Self>, pod: Arc<Pod>, worker: WorkerId, io: http::Io, flow: Flow, counted: Option<Counted>) {
        let (cost, draining, limits) = (pod.lane(worker).cost.clone(), self.draining.clone(), self.http.clone());
        let peer = flow.source_address;
        let tracked = self.telemetry.open_requests(flow);
        let server = http::Server::new(self, pod, worker, tracked, counted);
        if let Err(error) = http::serve(io, Arc::new(server), &limits, cost, draining).await {
            debug!(%peer, error = %chain(&error), "connection ended");
        }
    }

    /// Finds out whether a connection speaks HTTP. One that does not is judged as what it is: what a policy says of requests
    /// can not be met.
    async fn unsure(self: Arc<Self>, pod: Arc<Pod>, worker: WorkerId, mut io: http::Io, flow: Flow, counted: Option<Counted>) {
        let since = Instant::now();
        let patience = self.store.load().http().detection_timeout;
        if http::begins_with_request(&mut io, patience).await {
            return Box::pin(self.requests(pod, worker, io, flow, counted)).await;
        }
        let (peer, target) = (flow.source_address.ip(), flow.original_destination);
        let judged = self.outcome(&pod, flow.source.identity.as_ref(), peer, target);
        let delivered = match denied(&judged) {
            Some(failure) => Err(failure),
            None => self.deliverer.deliver(&pod, peer, target).await,
        };
        let Delivered { stream: mut app, lease } = match delivered {
            Ok(delivered) => delivered,
            Err(failure) => return self.telemetry.refuse(&flow, since, &failure),
        };
        let (tracked, mut client) = (self.telemetry.open(flow), io.upgraded(bytes::Bytes::new()));
        catch_up(&self.store, &tracked);
        let failure = tokio::select! {
            // First: what is denied already carries nothing.
            biased;
            () = tracked.revoked() => Some(Reason::PolicyRevoked.into()),
            copied = tokio::io::copy_bidirectional(&mut client, &mut app) => match copied {
                Ok((sent, received)) => {
                    copy::end_on_close(&app);
                    tracked.sent(sent);
                    tracked.received(received);
                    None
                }
                Err(error) => Some(Failure::new(Reason::ServerReset, error.to_string())),
            },
        };
        tracked.close(failure.as_ref());
        drop((lease, counted));
    }

    /// What policy says of a connection at this moment, whatever it carries.
    fn outcome(&self, pod: &Pod, source: Option<&Identity>, source_ip: IpAddr, target: SocketAddr) -> authz::Outcome {
        let snapshot = self.store.load();
        let Some(workload) = pod.workload(&snapshot) else {
            return authz::Outcome::Deny { reason: authz::DenyReason::PolicyNotLoaded, by: None };
        };
        let connection = authz::Connection {
            source_identity: source,
            source_ip,
            destination_ip: target.ip(),
            destination_port: target.port(),
        };
        authz::decide(&snapshot, &workload, &connection).outcome
    }

    /// Judges, then delivers; where requests are told apart, each of them is judged and delivered by itself later.
    async fn accept(
        &self,
        pod: &Arc<Pod>,
        source: Option<&Identity>,
        peer: SocketAddr,
        target: SocketAddr,
        transport: Transport,
        since: Instant,
    ) -> Result<Accepted, (Box<Flow>, Failure)> {
        let mut flow = self.described(pod, source, peer, target);
        flow.transport = transport;
        flow.security = if source.is_some() { Security::MutualTls } else { Security::None };
        if !pod.addresses.contains(&target.ip()) {
            let detail = format!("{} is not an address of {}", target.ip(), pod.uid);
            return Err((Box::new(flow), Failure::new(Reason::BadTarget, detail)));
        }
        if target.port() == 0 || pod.own_ports.contains(&target.port()) {
            let detail = format!("port {} of {} is none of the application's", target.port(), pod.uid);
            return Err((Box::new(flow), Failure::new(Reason::BadTarget, detail)));
        }
        let passes = source.is_none() && pod.lets_plaintext_pass();
        let judged = if passes {
            Ok(Judged::unasked(&self.store.load(), pod, target.port()))
        } else {
            self.judge(pod, source, peer.ip(), target).await
        };
        match judged {
            Ok(Judged { workload, speech }) => {
                flow.destination.workload = workload.or(flow.destination.workload);
                match speech {
                    Speech::Bytes => {}
                    Speech::Requests => return Ok(Accepted::Requests(Box::new(flow))),
                    Speech::Unsure => return Ok(Accepted::Unsure(Box::new(flow))),
                }
            }
            Err(failure) => return Err((Box::new(flow), failure)),
        }
        debug!(%peer, %target, waited = ?since.elapsed(), "delivering");
        match self.deliverer.deliver(pod, peer.ip(), target).await {
            Ok(delivered) => {
                if passes {
                    return Ok(Accepted::Bytes(delivered, self.telemetry.open_unjudged(flow)));
                }
                let tracked = self.telemetry.open(flow);
                catch_up(&self.store, &tracked);
                Ok(Accepted::Bytes(delivered, tracked))
            }
            Err(failure) => Err((Box::new(flow), failure)),
        }
    }

    /// Applies the pod's policies. Without knowing the pod, and so its policies, nothing is allowed.
    async fn judge(
        &self,
        pod: &Pod,
        source: Option<&Identity>,
        source_ip: IpAddr,
        target: SocketAddr,
    ) -> Result<Judged, Failure> {
        let known = self.store.wait_for(self.patience, |snapshot| {
            let workload = pod.workload(snapshot)?;
            Some((workload, snapshot.clone()))
        });
        let Some((workload, snapshot)) = known.await else {
            return Err(Failure::new(Reason::SourceUnknown, format!("{} is not known to the controller", pod.uid)));
        };
        let connection = authz::Connection {
            source_identity: source,
            source_ip,
            destination_ip: target.ip(),
            destination_port: target.port(),
        };
        let verdict = authz::decide(&snapshot, &workload, &connection);
        let speech = Speech::at(&snapshot, &workload, target.port());
        // Requests are counted one by one.
        if speech == Speech::Bytes {
            self.telemetry.metrics.rehearsed(&verdict, &workload);
        }
        let outcome = verdict.outcome;
        match denied(&outcome) {
            // Without an identity where one is demanded, nobody is told anything.
            Some(failure) if speech == Speech::Bytes || (source.is_none() && demands_identity(&outcome)) => Err(failure),
            _ => Ok(Judged { workload: Some(workload), speech }),
        }
    }

    fn described(&self, pod: &Pod, source: Option<&Identity>, peer: SocketAddr, target: SocketAddr) -> Flow {
        let snapshot = self.store.load();
        let client = snapshot.workload_at(peer.ip());
        // An address alone names nobody: the workload must also be whom the certificate proves.
        let client = client.filter(|workload| source.is_none_or(|identity| workload.identity() == *identity));
        Flow {
            direction: Direction::Inbound,
            transport: Transport::Tcp,
            security: Security::None,
            source_address: peer,
            original_destination: target,
            destination_address: Some(target),
            source: Party { workload: client.cloned(), identity: source.cloned() },
            destination: Party { workload: pod.workload(&snapshot), identity: Some(pod.identity(&snapshot)) },
            service: None,
        }
    }
}

/// What is known of a connection's target once it is known whether it may be reached.
struct Judged {
    workload: Option<Arc<Workload>>,
    speech: Speech,
}

impl Judged {
    /// Of a connection that policy is not asked about.
    fn unasked(snapshot: &Snapshot, pod: &Pod, port: u16) -> Self {
        let workload = pod.workload(snapshot);
        let requests = workload.as_ref().is_some_and(|workload| Speech::at(snapshot, workload, port) == Speech::Requests);
        Self { workload, speech: if requests { Speech::Requests } else { Speech::Bytes } }
    }
}

/// What a port carries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speech {
    /// Judged as a whole.
    Bytes,
    /// Told apart, and each judged when it comes.
    Requests,
    /// Nobody has declared it, and a policy speaks of requests: its first bytes tell.
    Unsure,
}

impl Speech {
    fn at(snapshot: &Snapshot, workload: &Workload, port: u16) -> Self {
        if !snapshot.http().enabled {
            return Self::Bytes;
        }
        match snapshot.protocol_at(workload, port) {
            AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => Self::Requests,
            AppProtocol::Unknown if authz::needs_request(snapshot, workload) => Self::Unsure,
            AppProtocol::Unknown | AppProtocol::Tcp | AppProtocol::Tls => Self::Bytes,
        }
    }
}

/// Whether a PeerAuthentication denies: it is about connections, whatever they carry.
fn demands_identity(outcome: &authz::Outcome) -> bool {
    let authz::Outcome::Deny { by: Some(by), .. } = outcome else { return false };
    let policy = &by.policy;
    policy.name.starts_with("istio_converted_static_") || policy.name.starts_with("converted_peer_authentication_")
}

/// A connection that may go on.
enum Accepted {
    /// It reaches the application.
    Bytes(Delivered, Tracked),
    Requests(Box<Flow>),
    Unsure(Box<Flow>),
}

/// One tunnel's streams.
struct PodHandler {
    inbound: Arc<Inbound>,
    pod: Arc<Pod>,
    worker: WorkerId,
    /// The other end of the tunnel: the client pod's own address.
    peer: SocketAddr,
}

impl Handler for PodHandler {
    type Upstream = (Accepted, Counted);

    async fn connect(&self, info: &ConnectInfo) -> Result<Self::Upstream, Refusal> {
        let since = Instant::now();
        let refuse = |flow: &Flow, failure: &Failure| {
            self.inbound.telemetry.refuse(flow, since, failure);
            match failure.reason {
                Reason::BadTarget => Refusal::BadTarget,
                Reason::PolicyDeny | Reason::NoAllowMatched | Reason::PolicyNotLoaded => Refusal::Denied,
                _ => Refusal::Unavailable,
            }
        };
        let Target::Address(target) = &info.authority else {
            let own = SocketAddr::new(self.pod.addresses[0], info.authority.port());
            let flow = self.inbound.described(&self.pod, Some(&info.peer), self.peer, own);
            return Err(refuse(&flow, &Failure::new(Reason::BadTarget, "a name is no target of a pod")));
        };
        let client = self.client(info);
        let Some(counted) = self.pod.connections.take() else {
            let flow = self.inbound.described(&self.pod, Some(&info.peer), client, *target);
            return Err(refuse(&flow, &Reason::Overload.into()));
        };
        let accepted = self.inbound.accept(&self.pod, Some(&info.peer), client, *target, Transport::Hbone, since).await;
        match accepted {
            Ok(accepted) => Ok((accepted, counted)),
            Err((flow, failure)) => Err(refuse(&flow, &failure)),
        }
    }

    async fn relay(&self, info: ConnectInfo, (accepted, counted): Self::Upstream, stream: H2Stream) {
        // A connection that is carried does not keep its headers.
        drop(info);
        let (Delivered { stream: mut app, lease }, tracked) = match accepted {
            Accepted::Bytes(delivered, tracked) => (delivered, tracked),
            Accepted::Requests(flow) => {
                let (inbound, pod) = (self.inbound.clone(), self.pod.clone());
                return Box::pin(inbound.requests(pod, self.worker, http::Io::downstream(stream), *flow, Some(counted))).await;
            }
            Accepted::Unsure(flow) => {
                let (inbound, pod) = (self.inbound.clone(), self.pod.clone());
                return Box::pin(inbound.unsure(pod, self.worker, http::Io::downstream(stream), *flow, Some(counted))).await;
            }
        };
        let failure = tokio::select! {
            // First: what is denied already carries nothing.
            biased;
            () = tracked.revoked() => Some(Reason::PolicyRevoked.into()),
            result = hbone::copy_bidirectional(&mut app, stream, &tracked) => result.err().map(|error| broken(&error)),
        };
        tracked.close(failure.as_ref());
        drop((lease, counted));
    }
}

impl PodHandler {
    /// The address is the tunnel's own, which its packets come from; the port is for the log only, as the peer tells it.
    fn client(&self, info: &ConnectInfo) -> SocketAddr {
        let told = info.forwarded.as_ref().and_then(|forwarded| forwarded.by_for);
        let port = told.filter(|by| by.address == self.peer.ip()).and_then(|by| by.port);
        SocketAddr::new(self.peer.ip(), port.unwrap_or(self.peer.port()))
    }
}
