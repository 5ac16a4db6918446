//! One captured connection, from the application's `connect()` to the other application.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_policy::{
    authz,
    balance::{self, outlier::Outcome},
    binding,
    destination::{self, Hop, Plan, Refusal},
    model::{BackendRef, Identity, OutboundPolicy, Service, Snapshot, Workload},
};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tracing::debug;

use super::{dial::Dialer, names::Names, routes::server_name};
use crate::{
    authz::denied,
    balance::{Overflow, Permit},
    copy::{self, End},
    ebpf::{Exempt, SocketMarks},
    enrol::{LocalPods, Pod, pod::InFlightGuard},
    hbone::{self, Baggage, ConnectRequest, H2Stream, PoolKey},
    http,
    identity::Certificates,
    reason::{Failure, Reason, Retry},
    state::{Store, client::chain},
    telemetry::{Direction, Flow, Party, Security, Telemetry, Tracked, Transport},
    worker::{WorkerId, Workers},
};

/// How long a connection may wait for what is not there yet.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the pod itself, or an address inside the mesh, to become known.
    pub configuration: Duration,
    /// For the pod's certificate.
    pub certificate: Duration,
}

/// Of the addresses of a name so many are tried.
const MOST_ADDRESSES: usize = 4;

/// How often a connection is planned anew when configuration overtakes it.
const REPLANS: usize = 2;

/// Everything that an outbound connection needs.
pub struct Outbound {
    pub workers: Arc<Workers>,
    pub marks: SocketMarks,
    pub dialer: Dialer,
    pub store: Arc<Store>,
    pub pods: Arc<LocalPods>,
    pub certificates: Arc<Certificates>,
    pub telemetry: Arc<Telemetry>,
    pub limits: Limits,
    pub http: http::Limits,
    pub mirrors: Arc<http::mirror::Mirrors>,
    /// Endpoints that have a name only.
    pub names: Arc<Names>,
    /// True once the node drains: connections that speak HTTP end with the request at hand.
    pub draining: watch::Receiver<bool>,
}

/// The connection that was asked for.
pub(super) struct Wanted {
    pub(super) pod: Arc<Pod>,
    worker: WorkerId,
    pub(super) source: Arc<Workload>,
    /// Whoever asks.
    pub(super) app: SocketAddr,
    pub(super) original: SocketAddr,
    since: Instant,
}

impl Wanted {
    /// In the form that the model knows addresses in.
    pub(super) fn dialled(&self) -> SocketAddr {
        SocketAddr::new(self.original.ip().to_canonical(), self.original.port())
    }
}

/// What counts for as long as a connection is carried.
struct Held {
    _in_flight: Option<InFlightGuard>,
    _permit: Option<Permit>,
}

/// A connection to the destination, described and counted.
enum Upstream {
    Tcp(TcpStream, Tracked),
    /// Both halves are served here.
    SameNode(TcpStream, (Tracked, Tracked)),
    Hbone(H2Stream, Tracked),
}

impl Outbound {
    /// Serves one accepted connection to its end. Whatever fails, the application sees a reset, never an empty answer.
    pub async fn serve(self: Arc<Self>, pod: Arc<Pod>, worker: WorkerId, mut app: TcpStream, peer: SocketAddr) {
        let since = Instant::now();
        let wanted = match self.wanted(pod, worker, &app, peer, since).await {
            Ok(wanted) => wanted,
            Err((flow, failure)) => {
                return self.telemetry.refuse(&flow, since, &failure);
            }
        };
        let planned = self.plan(&wanted).await;
        if let Some((_, snapshot)) = &planned
            && let Some(binding) = binding::bind(snapshot, &wanted.source, wanted.original)
        {
            let patience = snapshot.http().detection_timeout;
            let bound = match binding {
                http::Binding::Declared(bound) => Some(bound),
                http::Binding::Undeclared(bound) => http::shows_request(&app, patience).await.then_some(bound),
            };
            if let Some(bound) = bound {
                drop(planned);
                return Box::pin(self.requests(wanted, app, bound)).await;
            }
        }
        // In boxes: a connection that is carried keeps no room for what led to it.
        match Box::pin(self.connect_in_force(&wanted, planned, &app)).await {
            Ok((upstream, _held)) => carry(&mut app, upstream).await,
            Err((flow, failure)) => self.telemetry.refuse(&flow, since, &failure),
        }
    }

    /// Where the application wanted to go, and who it is.
    async fn wanted(
        &self,
        pod: Arc<Pod>,
        worker: WorkerId,
        app: &TcpStream,
        peer: SocketAddr,
        since: Instant,
    ) -> Result<Wanted, (Box<Flow>, Failure)> {
        let refused =
            |original: SocketAddr, failure| (Box::new(described(&self.store.load(), &pod, None, peer, original)), failure);
        let own = app.local_addr().unwrap_or(peer);
        let original = match self.marks.original_dst(app) {
            Ok(Some(original)) => original,
            Ok(None) => return Err(refused(own, Failure::new(Reason::NotCaptured, format!("{peer} dialled the proxy itself")))),
            Err(error) => return Err(refused(own, Failure::new(Reason::Internal, format!("original destination: {error}")))),
        };
        let known = self.store.wait_for(self.limits.configuration, |snapshot| snapshot.workload(&pod.uid).cloned()).await;
        match known {
            Some(source) => Ok(Wanted { pod, worker, source, app: peer, original, since }),
            None => {
                Err(refused(original, Failure::new(Reason::SourceUnknown, format!("{} is not known to the controller", pod.uid))))
            }
        }
    }

    /// Serves a connection that speaks HTTP, request by request.
    async fn requests(self: Arc<Self>, wanted: Wanted, app: TcpStream, bound: http::Bound) {
        let Wanted { pod, worker, source, app: peer, original, since: _ } = wanted;
        let snapshot = Arc::clone(&self.store.load());
        let mut flow = described(&snapshot, &pod, Some(&source), peer, original);
        if let http::BoundTo::Service(key) = &bound.to {
            flow.service = snapshot.service(key).cloned();
        }
        drop(snapshot);
        let cost = pod.lane(worker).cost.clone();
        let (limits, draining, tracked) = (self.http.clone(), self.draining.clone(), self.telemetry.open_requests(flow));
        let client = http::Client { node: self, pod, worker, peer, bound, tracked };
        let served = http::serve(http::Io::downstream(app), Arc::new(client), &limits, cost, draining).await;
        if let Err(error) = served {
            debug!(%peer, error = %chain(&error), "connection ended");
        }
    }

    /// Plans, and waits while the plan says so. None: it waited in vain.
    async fn plan(&self, wanted: &Wanted) -> Option<(Plan, Arc<Snapshot>)> {
        let planned = |snapshot: &Arc<Snapshot>| match destination::plan(snapshot, &wanted.source, wanted.original) {
            Plan::Wait { .. } => None,
            settled => Some((settled, snapshot.clone())),
        };
        self.store.wait_for(self.limits.configuration, planned).await
    }

    /// Connects as planned, and by a new plan where the one that failed was overtaken: what has left the mesh meanwhile is
    /// reached otherwise, which is no reason for the application to see a failure.
    async fn connect_in_force(
        &self,
        wanted: &Wanted,
        mut plan: Option<(Plan, Arc<Snapshot>)>,
        app: &TcpStream,
    ) -> Result<(Upstream, Held), (Box<Flow>, Failure)> {
        for _ in 0..REPLANS {
            let planned_on = plan.as_ref().map(|(_, snapshot)| snapshot.clone());
            let overtaken = || planned_on.is_some_and(|snapshot| !Arc::ptr_eq(&snapshot, &self.store.load()));
            match self.connect(wanted, plan, app).await {
                Err((_, failure)) if failure.reason.retry() == Retry::OtherEndpoint && overtaken() => {
                    plan = self.plan(wanted).await;
                }
                settled => return settled,
            }
        }
        self.connect(wanted, plan, app).await
    }

    /// Connects to the first candidate that answers.
    async fn connect(
        &self,
        wanted: &Wanted,
        plan: Option<(Plan, Arc<Snapshot>)>,
        app: &TcpStream,
    ) -> Result<(Upstream, Held), (Box<Flow>, Failure)> {
        let flow = |service: Option<&Arc<Service>>| {
            let mut flow = described(&self.store.load(), &wanted.pod, Some(&wanted.source), wanted.app, wanted.original);
            flow.service = service.cloned();
            flow
        };
        let unknown = || (Box::new(flow(None)), refused(Refusal::UnknownAddress, wanted.original));
        let (plan, snapshot) = plan.ok_or_else(unknown)?;
        let (plan, server_name) = match plan {
            Plan::Unnamed { address } => self.planned_by_name(wanted, &snapshot, address, app).await,
            plan => (plan, None),
        };
        let service = match &plan {
            Plan::Connect(candidates) => candidates.service(),
            Plan::Passthrough { service, .. } | Plan::Refused { service, .. } => service.as_ref(),
            Plan::Wait { .. } | Plan::Unnamed { .. } => None,
        };
        let service = service.cloned();
        let failed = |failure| (Box::new(flow(service.as_ref())), failure);
        if let Some(service) = &service {
            let routed = self.routed(wanted, &snapshot, service, server_name, app).await;
            if let Some(endpoints) = routed.map_err(failed)? {
                return self.try_each(wanted, endpoints, flow).await;
            }
        }
        let itself = |service: &Arc<Service>| {
            let port = wanted.original.port();
            let to = BackendRef::Service { service: service.key(), port, subset: None };
            http::endpoints(&snapshot, &wanted.source, &to, &wanted.pod, wanted.dialled())
        };
        let endpoints = match plan {
            Plan::Wait { .. } | Plan::Unnamed { .. } => return Err(unknown()),
            Plan::Refused { refusal, .. } => return Err(failed(refused(refusal, wanted.original))),
            Plan::Passthrough { address, service: None } => http::Endpoints::of(destination::to_dialled_address(address, None)),
            Plan::Connect(candidates) if candidates.is_dialled() => http::Endpoints::of(candidates),
            Plan::Passthrough { service: Some(service), .. } => itself(&service).map_err(failed)?,
            Plan::Connect(candidates) => match candidates.service() {
                Some(service) => itself(service).map_err(failed)?,
                None => http::Endpoints::of(candidates),
            },
        };
        self.try_each(wanted, endpoints, flow).await
    }

    /// The plan by what the connection begins with. Where nothing goes out that is not named, a name is waited for longer:
    /// there is nothing else to be done with the connection.
    async fn planned_by_name(
        &self,
        wanted: &Wanted,
        snapshot: &Arc<Snapshot>,
        address: SocketAddr,
        app: &TcpStream,
    ) -> (Plan, Option<String>) {
        let patience = match snapshot.mesh().outbound_policy {
            OutboundPolicy::AllowAny => snapshot.http().detection_timeout,
            OutboundPolicy::RegistryOnly => self.limits.configuration.max(snapshot.http().detection_timeout),
        };
        let name = server_name(app, patience).await;
        let source = &wanted.source;
        let plan = destination::plan_named(snapshot, source, address, name.as_deref(), &|_, _, _| balance::Standing::default());
        (plan, name)
    }

    /// Another endpoint is tried before the application sees a failure, as long as the failure is the endpoint's. What becomes
    /// of each try is remembered for the pod.
    async fn try_each(
        &self,
        wanted: &Wanted,
        endpoints: http::Endpoints,
        flow: impl Fn(Option<&Arc<Service>>) -> Flow,
    ) -> Result<(Upstream, Held), (Box<Flow>, Failure)> {
        let http::Endpoints { mut candidates, backend, policy } = endpoints;
        let overflow = |overflow: Overflow| {
            (Box::new(flow(candidates.service())), Failure::new(Reason::UpstreamOverflow, overflow.to_string()))
        };
        let permit = backend.as_ref().map(|backend| backend.try_connection(&policy)).transpose().map_err(overflow)?;
        let judge = |workload: Option<&Arc<Workload>>, outcome: Option<Outcome>| {
            if let (Some(backend), Some(workload), Some(outcome)) = (&backend, workload, outcome) {
                backend.record(&policy, &workload.uid, outcome, Instant::now());
            }
        };
        let mut last = (Box::new(flow(candidates.service())), refused(Refusal::NoEndpoints, wanted.original));
        let mut rng = fastrand::Rng::new();
        while let Some(hop) = candidates.next_hop(&|uid| self.pods.contains(uid), &wanted.pod.in_flight, &mut rng) {
            let workload = hop.workload().cloned();
            let mut flow = flow(candidates.service());
            flow.destination = Party { workload: workload.clone(), identity: None };
            let in_flight = workload.as_ref().map(|workload| wanted.pod.in_flight.enter(&workload.uid));
            match self.hop_within(wanted, hop, flow, policy.limits.connect_timeout).await {
                Ok(upstream) => {
                    judge(workload.as_ref(), Some(Outcome::Opened));
                    return Ok((upstream, Held { _in_flight: in_flight, _permit: permit }));
                }
                Err(failed) => {
                    judge(workload.as_ref(), seen_of(failed.1.reason));
                    let retry = failed.1.reason.retry();
                    last = failed;
                    if retry != Retry::OtherEndpoint {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    /// Within the time that a DestinationRule gives a connection.
    async fn hop_within(
        &self,
        wanted: &Wanted,
        hop: Hop,
        flow: Flow,
        patience: Option<Duration>,
    ) -> Result<Upstream, (Box<Flow>, Failure)> {
        let Some(patience) = patience else { return self.hop(wanted, hop, flow).await };
        let described = flow.clone();
        match timeout(patience, self.hop(wanted, hop, flow)).await {
            Ok(connected) => connected,
            Err(_elapsed) => {
                let failure = Failure::new(Reason::ConnectTimeout, format!("no connection in {patience:?}"));
                Err((Box::new(described), failure))
            }
        }
    }

    async fn hop(&self, wanted: &Wanted, hop: Hop, mut flow: Flow) -> Result<Upstream, (Box<Flow>, Failure)> {
        match hop {
            Hop::Direct { address, .. } | Hop::Outside { address } => {
                flow.destination_address = Some(address);
                match self.dialer.dial_app(&wanted.pod.netns, address, Exempt::Proxy).await {
                    Ok(stream) => Ok(Upstream::Tcp(stream, self.telemetry.open(flow))),
                    Err(failure) => Err((Box::new(flow), failure)),
                }
            }
            Hop::DirectByName { hostname, port, .. } => {
                match self.dial_by_name(&wanted.pod, &hostname, port, wanted.app.ip()).await {
                    Ok(stream) => {
                        flow.destination_address = stream.peer_addr().ok();
                        Ok(Upstream::Tcp(stream, self.telemetry.open(flow)))
                    }
                    Err(failure) => Err((Box::new(flow), failure)),
                }
            }
            Hop::SameNode { address, workload } => self.same_node(wanted, address, &workload, flow).await,
            Hop::Hbone { address, gateway, expected, .. } => {
                flow.destination_address = Some(address);
                flow.transport = Transport::Hbone;
                flow.security = Security::MutualTls;
                match self.tunnel(wanted, address, gateway, expected, &mut flow).await {
                    Ok(stream) => Ok(Upstream::Hbone(stream, self.telemetry.open(flow))),
                    Err(failure) => Err((Box::new(flow), failure)),
                }
            }
        }
    }

    /// To the first address of a name that answers; those of the family of `like`, which the pod has, come first.
    async fn dial_by_name(&self, pod: &Pod, hostname: &Arc<str>, port: u16, like: IpAddr) -> Result<TcpStream, Failure> {
        let addresses = self.names.addresses(hostname, like).await?;
        let addresses: Vec<_> = addresses.into_iter().take(MOST_ADDRESSES).map(|ip| SocketAddr::new(ip, port)).collect();
        self.dialer.dial_first(&pod.netns, &addresses, Exempt::Proxy).await
    }

    /// The destination's policy is judged here, then the connection goes over the veth like any of the pod's own, so that
    /// a NetworkPolicy sees it. The token lets it pass the destination's inbound capture.
    async fn same_node(
        &self,
        wanted: &Wanted,
        address: SocketAddr,
        workload: &Arc<Workload>,
        mut flow: Flow,
    ) -> Result<Upstream, (Box<Flow>, Failure)> {
        flow.destination_address = Some(address);
        let snapshot = self.store.load();
        flow.destination.identity = Some(workload.identity());
        let identity = wanted.pod.identity(&snapshot);
        let connection = authz::Connection {
            source_identity: Some(&identity),
            source_ip: wanted.app.ip(),
            destination_ip: address.ip(),
            destination_port: address.port(),
        };
        let verdict = authz::decide(&snapshot, workload, &connection);
        self.telemetry.metrics.rehearsed(&verdict, workload);
        drop(snapshot);
        let inbound = Flow { direction: Direction::Inbound, ..flow.clone() };
        if let Some(failure) = denied(&verdict.outcome) {
            self.telemetry.refuse(&inbound, wanted.since, &failure);
            return Err((Box::new(flow), failure));
        }
        match self.dialer.dial_app(&wanted.pod.netns, address, Exempt::ProxyToken).await {
            Ok(stream) => Ok(Upstream::SameNode(stream, (self.telemetry.open(flow), self.telemetry.open(inbound)))),
            Err(failure) => Err((Box::new(flow), failure)),
        }
    }

    async fn tunnel(
        &self,
        wanted: &Wanted,
        address: SocketAddr,
        gateway: SocketAddr,
        expected: Vec<Identity>,
        flow: &mut Flow,
    ) -> Result<H2Stream, Failure> {
        flow.destination.identity = expected.first().cloned();
        let service = flow.service.as_ref().map(|service| service.hostname.clone());
        let Wanted { pod, worker, source, app, .. } = wanted;
        self.open(pod, *worker, source, *app, address, gateway, expected, service).await
    }

    /// A stream to `address` in a tunnel of the pod's to `gateway`.
    #[allow(clippy::too_many_arguments, reason = "each is a fact of its own about one stream")]
    async fn open(
        &self,
        pod: &Pod,
        worker: WorkerId,
        source: &Workload,
        app: SocketAddr,
        address: SocketAddr,
        gateway: SocketAddr,
        expected: Vec<Identity>,
        service: Option<Arc<str>>,
    ) -> Result<H2Stream, Failure> {
        let identity = pod.identity(&self.store.load());
        let deadline = tokio::time::Instant::now() + self.limits.certificate;
        let tls = self.certificates.wait(&identity, deadline).await;
        let tls = tls.map_err(|error| Failure::new(Reason::CertificatePending, error.to_string()))?;
        let key = PoolKey { source: identity, destination: expected.into(), address: gateway };
        let request = ConnectRequest {
            authority: address.into(),
            baggage: baggage(source),
            forwarded: Some(hbone::Forwarded {
                by_for: Some(hbone::ForwardedFor { address: app.ip(), port: Some(app.port()) }),
                host: service.as_deref().unwrap_or_default().to_owned(),
            }),
            traceparent: None,
        };
        let opened = pod.lane(worker).tunnels.open(&key, &tls, &request).await;
        opened.map_err(|error| Failure::new(error.reason(), chain(&error)))
    }

    /// A connection for requests of the pod's to the hop's application. The destination's policy is judged for each of them,
    /// by whoever sends them.
    pub(crate) async fn transport(
        &self,
        pod: &Pod,
        worker: WorkerId,
        source: &Workload,
        app: SocketAddr,
        hop: &Hop,
        service: Option<Arc<str>>,
    ) -> Result<http::Transport, Failure> {
        match hop {
            Hop::Direct { address, .. } | Hop::Outside { address } => {
                Ok(self.dialer.dial_app(&pod.netns, *address, Exempt::Proxy).await?.into())
            }
            Hop::SameNode { address, .. } => Ok(self.dialer.dial_app(&pod.netns, *address, Exempt::ProxyToken).await?.into()),
            Hop::DirectByName { hostname, port, .. } => Ok(self.dial_by_name(pod, hostname, *port, app.ip()).await?.into()),
            Hop::Hbone { address, gateway, expected, .. } => {
                Ok(self.open(pod, worker, source, app, *address, *gateway, expected.clone(), service).await?.into())
            }
        }
    }
}

/// Copies until both directions have ended or a policy change ends the connection.
async fn carry(app: &mut TcpStream, upstream: Upstream) {
    match upstream {
        Upstream::Tcp(mut stream, tracked) => {
            let result = copy::bidirectional(app, &mut stream, &tracked).await;
            tracked.close(result.err().map(|error| broken(&error)).as_ref());
        }
        Upstream::SameNode(mut stream, halves) => {
            let failure = tokio::select! {
                result = copy::bidirectional(app, &mut stream, &halves) => result.err().map(|error| broken(&error)),
                () = halves.1.revoked() => Some(Reason::PolicyRevoked.into()),
            };
            halves.0.close(failure.as_ref());
            halves.1.close(failure.as_ref());
        }
        Upstream::Hbone(stream, tracked) => {
            let result = hbone::copy_bidirectional(app, stream, &tracked).await;
            tracked.close(result.err().map(|error| broken(&error)).as_ref());
        }
    }
}

/// How a copy error is reported.
pub(crate) fn broken(error: &copy::CopyError) -> Failure {
    let reason = match error.end {
        End::Downstream => Reason::ClientReset,
        End::Upstream => Reason::ServerReset,
    };
    Failure::new(reason, error.source.to_string())
}

/// What a failure to connect says of its endpoint; None: nothing, as what policy or this side's own limits refuse.
pub(crate) fn seen_of(reason: Reason) -> Option<Outcome> {
    match reason {
        Reason::ConnectDenied
        | Reason::PolicyDeny
        | Reason::NoAllowMatched
        | Reason::PolicyNotLoaded
        | Reason::Overload
        | Reason::CertificatePending
        | Reason::UpstreamOverflow
        | Reason::Internal => None,
        Reason::ConnectTimeout => Some(Outcome::TimedOut),
        _ => Some(Outcome::ConnectFailed),
    }
}

fn refused(refusal: Refusal, original: SocketAddr) -> Failure {
    Failure::new(reason_of(refusal), original.to_string())
}

pub(crate) fn reason_of(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::UnknownAddress => Reason::UnknownAddress,
        Refusal::NoServicePort => Reason::NoServicePort,
        Refusal::NoEndpoints => Reason::NoEndpoints,
        Refusal::NoEndpointInSubset => Reason::NoEndpointInSubset,
        Refusal::NoHealthyEndpoint => Reason::NoHealthyEndpoint,
        Refusal::NoEndpointInScope => Reason::NoEndpointInScope,
        Refusal::EndpointsEjected => Reason::EndpointsEjected,
        Refusal::RegistryOnly => Reason::RegistryOnly,
    }
}

fn described(snapshot: &Snapshot, pod: &Pod, source: Option<&Arc<Workload>>, app: SocketAddr, original: SocketAddr) -> Flow {
    Flow {
        direction: Direction::Outbound,
        transport: Transport::Tcp,
        security: Security::None,
        source_address: app,
        original_destination: original,
        destination_address: None,
        source: Party { workload: source.cloned(), identity: Some(pod.identity(snapshot)) },
        destination: Party::default(),
        service: None,
    }
}

fn baggage(source: &Workload) -> Baggage {
    Baggage {
        cluster: source.cluster.to_string(),
        namespace: source.namespace.to_string(),
        workload_kind: source.kind,
        workload: source.workload_name.to_string(),
        service: source.canonical_name.to_string(),
        revision: source.canonical_revision.to_string(),
        region: source.locality.region.to_string(),
        zone: source.locality.zone.to_string(),
    }
}
