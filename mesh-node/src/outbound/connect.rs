//! From the address that was dialled to an endpoint that answers: the plan, the routes of connections, and one candidate
//! after the other.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_policy::{
    balance::{self, outlier::Outcome},
    destination::{self, Hop, Plan, Refusal},
    model::{BackendRef, OutboundPolicy, Service, Snapshot, Workload},
};
use tokio::{net::TcpStream, time::timeout};

use super::{
    Outbound,
    carry::{Connected, Lifetime, Upstream},
    connection::{Wanted, described},
    routes::server_name,
};
use crate::{
    balance::Overflow,
    http,
    reason::{Failure, Reason, Retry},
    telemetry::{Flow, Party},
};

/// How often a connection is planned anew when configuration overtakes it.
const REPLANS: usize = 2;

impl Outbound {
    /// Plans, and waits while the plan says so. None: it waited in vain.
    pub(super) async fn plan(&self, wanted: &Wanted) -> Option<(Plan, Arc<Snapshot>)> {
        let planned = |snapshot: &Arc<Snapshot>| match destination::plan(snapshot, &wanted.source, wanted.original) {
            Plan::Wait { .. } => None,
            settled => Some((settled, snapshot.clone())),
        };
        self.store.wait_for(self.limits.configuration, planned).await
    }

    /// Connects as planned, and by a new plan where the one that failed was overtaken: what has left the mesh meanwhile is
    /// reached otherwise, which is no reason for the application to see a failure.
    pub(super) async fn connect_in_force(
        &self,
        wanted: &Wanted,
        mut plan: Option<(Plan, Arc<Snapshot>)>,
        app: &TcpStream,
    ) -> Result<Connected, (Box<Flow>, Failure)> {
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
    ) -> Result<Connected, (Box<Flow>, Failure)> {
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
    ) -> Result<Connected, (Box<Flow>, Failure)> {
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
                    let lifetime = Lifetime::of(&policy.limits);
                    return Ok(Connected { upstream, lifetime, _in_flight: in_flight, _permit: permit });
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
