//! One captured connection, from the application's `connect()` to the other application.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_policy::{
    binding,
    model::{Snapshot, Workload},
};
use tokio::{net::TcpStream, sync::watch};
use tracing::debug;

use super::{dial::Dialer, names::Names};
use crate::{
    ebpf::SocketMarks,
    enrol::{LocalPods, Pod},
    http,
    identity::Certificates,
    reason::{Failure, Reason},
    state::{Store, client::chain},
    telemetry::{Direction, Flow, Party, Security, Telemetry, Transport},
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
    pub(super) worker: WorkerId,
    pub(super) source: Arc<Workload>,
    /// Whoever asks.
    pub(super) app: SocketAddr,
    pub(super) original: SocketAddr,
    pub(super) since: Instant,
}

impl Wanted {
    /// In the form that the model knows addresses in.
    pub(super) fn dialled(&self) -> SocketAddr {
        SocketAddr::new(self.original.ip().to_canonical(), self.original.port())
    }
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
            Ok(connected) => connected.carry(&mut app).await,
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
        let known = self.store.wait_for(self.limits.configuration, |snapshot| pod.workload(snapshot)).await;
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
}

/// What is known of a connection before anything is decided about it.
pub(super) fn described(
    snapshot: &Snapshot,
    pod: &Pod,
    source: Option<&Arc<Workload>>,
    app: SocketAddr,
    original: SocketAddr,
) -> Flow {
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
