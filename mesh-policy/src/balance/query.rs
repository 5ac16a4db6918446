//! What is asked of a pool, and what the asking client knows of the endpoints.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use crate::model::{Subset, TrafficPolicy, Workload, WorkloadUid};

/// Who asks for endpoints of which port, and how they are to be treated.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    pub source: &'a Workload,
    /// The service's port.
    pub port: u16,
    /// Only endpoints with its labels.
    pub subset: Option<&'a Subset>,
    /// That of the port and subset ([`TrafficRule::policy`](crate::model::TrafficRule::policy)).
    pub policy: &'a TrafficPolicy,
    /// [`hash`](super::hash()) of the request's key, for [`Balance::Hash`](crate::model::Balance::Hash). None, because
    /// the request has no key: any endpoint.
    pub hash: Option<u64>,
    /// The address that the client dialled, for [`Balance::Passthrough`](crate::model::Balance::Passthrough).
    pub dialled: Option<IpAddr>,
}

static PLAIN: LazyLock<TrafficPolicy> = LazyLock::new(TrafficPolicy::default);

impl<'a> Query<'a> {
    /// Without a DestinationRule.
    pub fn plain(source: &'a Workload, port: u16) -> Self {
        Self { source, port, subset: None, policy: &PLAIN, hash: None, dialled: None }
    }
}

/// What one client knows of the endpoints of a service's port and subset at one moment. The default is a client that
/// knows nothing.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Endpoints that are ejected now; never empty.
    pub out: Option<Arc<HashSet<WorkloadUid>>>,
    /// When endpoints that may still be warming up were first seen, on the clock of `now`; never empty.
    pub since: Option<Arc<HashMap<WorkloadUid, Duration>>>,
    pub now: Duration,
    /// How many choices were made before this one, for round robin.
    pub turn: u64,
}
