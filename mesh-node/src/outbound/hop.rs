//! A connection to one endpoint, by whichever way it is reached.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use mesh_policy::{
    authz,
    destination::Hop,
    model::{Identity, Workload},
};
use tokio::net::TcpStream;

use super::{Outbound, carry::Upstream, connection::Wanted};
use crate::{
    authz::{catch_up, denied},
    ebpf::Exempt,
    enrol::Pod,
    hbone::{self, Baggage, ConnectRequest, H2Stream, PoolKey},
    http,
    reason::{Failure, Reason},
    state::client::chain,
    telemetry::{Direction, Flow, Security, Transport},
    worker::WorkerId,
};

/// Of the addresses of a name so many are tried.
const MOST_ADDRESSES: usize = 4;

impl Outbound {
    /// Connects, and counts the connection.
    pub(super) async fn hop(&self, wanted: &Wanted, hop: Hop, mut flow: Flow) -> Result<Upstream, (Box<Flow>, Failure)> {
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
        // The plan may be older than the policies.
        let workload = snapshot.workload(&workload.uid).unwrap_or(workload);
        let verdict = authz::decide(&snapshot, workload, &connection);
        self.telemetry.metrics.rehearsed(&verdict, workload);
        drop(snapshot);
        let inbound = Flow { direction: Direction::Inbound, ..flow.clone() };
        if let Some(failure) = denied(&verdict.outcome) {
            self.telemetry.refuse(&inbound, wanted.since, &failure);
            return Err((Box::new(flow), failure));
        }
        match self.dialer.dial_app(&wanted.pod.netns, address, Exempt::ProxyToken).await {
            Ok(stream) => {
                let halves = (self.telemetry.open(flow), self.telemetry.open(inbound));
                catch_up(&self.store, &halves.1);
                Ok(Upstream::SameNode(stream, halves))
            }
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
