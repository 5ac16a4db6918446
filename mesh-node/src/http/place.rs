//! Where upstream connections lead, and what they may be used for.

use std::net::SocketAddr;

use mesh_policy::{
    destination::Hop,
    model::{ServiceKey, TrafficPolicy, WorkloadUid},
};

use super::{destination::Forward, upstream::Terms};

/// What upstream connections are told apart by, beside the pod that they belong to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// None: nobody's.
    workload: Option<WorkloadUid>,
    pub(super) address: Option<SocketAddr>,
    via: Via,
    /// The far half is told which service its connection is for.
    pub(super) service: Option<ServiceKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Via {
    Direct,
    SameNode,
    Hbone,
}

/// What a policy lets one upstream connection be used for.
pub(super) fn terms(policy: &TrafficPolicy) -> Terms {
    let limits = &policy.limits;
    Terms {
        requests: limits.max_requests_per_connection,
        streams: limits.max_concurrent_streams,
        idle: limits.http_idle_timeout,
        age: limits.max_connection_duration,
    }
}

pub(super) fn place(hop: &Hop, forward: &Forward<'_>) -> Place {
    let (address, via) = match hop {
        Hop::Direct { address, .. } | Hop::Outside { address } => (Some(*address), Via::Direct),
        Hop::DirectByName { .. } => (None, Via::Direct),
        Hop::SameNode { address, .. } => (Some(*address), Via::SameNode),
        Hop::Hbone { address, .. } => (Some(*address), Via::Hbone),
    };
    let workload = hop.workload().map(|workload| workload.uid.clone());
    Place { workload, address, via, service: forward.service.map(|service| service.key()) }
}
