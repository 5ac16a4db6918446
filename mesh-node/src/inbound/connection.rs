//! One connection to a captured pod: in a tunnel, or in plaintext.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use mesh_policy::{
    authz,
    model::{Identity, Workload},
};
use tokio::{net::TcpStream, sync::watch};
use tracing::debug;

use super::deliver::{Delivered, Deliverer};
use crate::{
    authz::denied,
    copy,
    enrol::Pod,
    hbone::{self, ConnectInfo, H2Stream, Handler, Refusal, Spawner, Target},
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
        let handler = Arc::new(PodHandler { inbound: self.clone(), pod: pod.clone(), peer });
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
    pub async fn plaintext(self: Arc<Self>, pod: Arc<Pod>, mut client: TcpStream, peer: SocketAddr) {
        let since = Instant::now();
        let target = match client.local_addr() {
            Ok(local) => SocketAddr::new(local.ip().to_canonical(), local.port()),
            // Gone already.
            Err(_) => return,
        };
        match self.accept(&pod, None, peer, target, Transport::Tcp, since).await {
            Err((flow, failure)) => self.telemetry.refuse(&flow, since, &failure),
            Ok(accepted) => {
                let Accepted { mut delivered, tracked } = accepted;
                let failure = tokio::select! {
                    result = copy::bidirectional(&mut client, &mut delivered.stream, &tracked) => result.err().map(|error| broken(&error)),
                    () = tracked.revoked() => Some(Reason::PolicyRevoked.into()),
                };
                tracked.close(failure.as_ref());
            }
        }
    }

    /// Judges, then delivers.
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
        let passes = source.is_none() && (pod.plaintext_passes.load(Relaxed) || pod.leaving.load(Relaxed));
        let judged = if passes { Ok(None) } else { self.judge(pod, source, peer.ip(), target).await.map(Some) };
        match judged {
            Ok(workload) => flow.destination.workload = workload.or(flow.destination.workload),
            Err(failure) => return Err((Box::new(flow), failure)),
        }
        debug!(%peer, %target, waited = ?since.elapsed(), "delivering");
        match self.deliverer.deliver(pod, peer.ip(), target).await {
            Ok(delivered) => {
                let tracked = if passes { self.telemetry.open_unjudged(flow) } else { self.telemetry.open(flow) };
                Ok(Accepted { delivered, tracked })
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
    ) -> Result<Arc<Workload>, Failure> {
        let known = self.store.wait_for(self.patience, |snapshot| {
            let workload = snapshot.workload(&pod.uid)?;
            Some((workload.clone(), snapshot.clone()))
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
        match denied(&authz::decide(&snapshot, &workload, &connection).outcome) {
            Some(failure) => Err(failure),
            None => Ok(workload),
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
            destination: Party { workload: snapshot.workload(&pod.uid).cloned(), identity: Some(pod.identity(&snapshot)) },
            service: None,
        }
    }
}

/// A connection that was allowed and reaches the application.
struct Accepted {
    delivered: Delivered,
    tracked: Tracked,
}

/// One tunnel's streams.
struct PodHandler {
    inbound: Arc<Inbound>,
    pod: Arc<Pod>,
    /// The other end of the tunnel: the client pod's own address.
    peer: SocketAddr,
}

impl Handler for PodHandler {
    type Upstream = (Accepted, crate::enrol::pod::Counted);

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

    async fn relay(&self, _: ConnectInfo, (accepted, _counted): Self::Upstream, stream: H2Stream) {
        let Accepted { delivered: Delivered { stream: mut app, lease }, tracked } = accepted;
        let failure = tokio::select! {
            result = hbone::copy_bidirectional(&mut app, stream, &tracked) => result.err().map(|error| broken(&error)),
            () = tracked.revoked() => Some(Reason::PolicyRevoked.into()),
        };
        tracked.close(failure.as_ref());
        drop(lease);
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
