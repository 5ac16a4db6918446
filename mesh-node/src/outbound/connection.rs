//! One captured connection, from the application's `connect()` to the other application.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_policy::{
    authz,
    destination::{self, Candidates, Hop, Plan, Refusal},
    model::{Identity, Service, Snapshot, Workload},
};
use tokio::{net::TcpStream, sync::watch};
use tracing::debug;

use super::dial::Dialer;
use crate::{
    authz::denied,
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
            && let Some(binding) = http::bind(snapshot, &wanted.source, wanted.original)
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
            Ok((upstream, _in_flight)) => carry(&mut app, upstream).await,
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
    ) -> Result<(Upstream, Option<InFlightGuard>), (Box<Flow>, Failure)> {
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
    ) -> Result<(Upstream, Option<InFlightGuard>), (Box<Flow>, Failure)> {
        let flow = |service: Option<&Arc<Service>>| {
            let mut flow = described(&self.store.load(), &wanted.pod, Some(&wanted.source), wanted.app, wanted.original);
            flow.service = service.cloned();
            flow
        };
        let service = match &plan {
            Some((Plan::Connect(candidates), snapshot)) => candidates.service().zip(Some(snapshot)),
            Some((Plan::Refused { .. }, snapshot)) => snapshot.service_at(wanted.original.ip()).zip(Some(snapshot)),
            None | Some((Plan::Wait { .. } | Plan::Passthrough { .. }, _)) => None,
        };
        if let Some((service, snapshot)) = service {
            match self.routed(wanted, snapshot, service, app).await {
                Ok(None) => {}
                Ok(Some(candidates)) => return self.try_each(wanted, candidates, flow).await,
                Err(failure) => return Err((Box::new(flow(Some(service))), failure)),
            }
        }
        match plan {
            None | Some((Plan::Wait { .. }, _)) => Err((Box::new(flow(None)), refused(Refusal::UnknownAddress, wanted.original))),
            Some((Plan::Refused { refusal }, snapshot)) => {
                let service = snapshot.service_at(wanted.original.ip());
                Err((Box::new(flow(service)), refused(refusal, wanted.original)))
            }
            Some((Plan::Passthrough { address, service }, _)) => {
                let mut flow = flow(service.as_ref());
                flow.destination_address = Some(address);
                match self.dialer.dial_app(&wanted.pod.netns, address, Exempt::Proxy).await {
                    Ok(stream) => Ok((Upstream::Tcp(stream, self.telemetry.open(flow)), None)),
                    Err(failure) => Err((Box::new(flow), failure)),
                }
            }
            Some((Plan::Connect(candidates), _)) => self.try_each(wanted, candidates, flow).await,
        }
    }

    /// Another endpoint is tried before the application sees a failure, as long as the failure is the endpoint's.
    async fn try_each(
        &self,
        wanted: &Wanted,
        mut candidates: Candidates,
        flow: impl Fn(Option<&Arc<Service>>) -> Flow,
    ) -> Result<(Upstream, Option<InFlightGuard>), (Box<Flow>, Failure)> {
        let mut last = (Box::new(flow(candidates.service())), refused(Refusal::NoEndpoints, wanted.original));
        let mut rng = fastrand::Rng::new();
        while let Some(hop) = candidates.next_hop(&|uid| self.pods.contains(uid), &wanted.pod.in_flight, &mut rng) {
            let mut flow = flow(candidates.service());
            flow.destination = Party { workload: Some(hop.workload().clone()), identity: None };
            let in_flight = wanted.pod.in_flight.enter(&hop.workload().uid);
            match self.hop(wanted, hop, flow).await {
                Ok(upstream) => return Ok((upstream, Some(in_flight))),
                Err(failed) => {
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

    async fn hop(&self, wanted: &Wanted, hop: Hop, mut flow: Flow) -> Result<Upstream, (Box<Flow>, Failure)> {
        match hop {
            Hop::Direct { address, .. } => {
                flow.destination_address = Some(address);
                match self.dialer.dial_app(&wanted.pod.netns, address, Exempt::Proxy).await {
                    Ok(stream) => Ok(Upstream::Tcp(stream, self.telemetry.open(flow))),
                    Err(failure) => Err((Box::new(flow), failure)),
                }
            }
            Hop::DirectByName { hostname, .. } => Err((Box::new(flow), nameless(&hostname))),
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
            Hop::Direct { address, .. } => Ok(self.dialer.dial_app(&pod.netns, *address, Exempt::Proxy).await?.into()),
            Hop::SameNode { address, .. } => Ok(self.dialer.dial_app(&pod.netns, *address, Exempt::ProxyToken).await?.into()),
            Hop::DirectByName { hostname, .. } => Err(nameless(hostname)),
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

fn nameless(hostname: &str) -> Failure {
    Failure::new(Reason::ConnectFailed, format!("{hostname} has no address and names are not resolved here"))
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
