//! How a client's proxy treats the endpoints of a service: balancing, limits, ejection (Istio's DestinationRule).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{ServiceKey, Workload, header::Name};

/// Whose treatment it is: everybody's, or that of one namespace's clients, which comes in place of everybody's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficKey {
    pub service: ServiceKey,
    pub consumer: Option<Arc<str>>,
}

impl std::fmt::Display for TrafficKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.service)?;
        self.consumer.as_ref().map_or(Ok(()), |consumer| write!(f, "@{consumer}"))
    }
}

/// A service's policies, each whole: what a level leaves unsaid has been filled in from the one above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficRule {
    pub key: TrafficKey,
    /// The DestinationRule, `namespace/name`.
    pub origin: Arc<str>,
    pub policy: Arc<TrafficPolicy>,
    pub ports: BTreeMap<u16, Arc<TrafficPolicy>>,
    pub subsets: BTreeMap<Arc<str>, Subset>,
}

impl TrafficRule {
    /// The policy for a port, of a subset if one is named; None: there is no such subset.
    pub fn policy(&self, port: u16, subset: Option<&str>) -> Option<&Arc<TrafficPolicy>> {
        let (policy, ports) = match subset {
            None => (&self.policy, &self.ports),
            Some(name) => self.subsets.get(name).map(|subset| (&subset.policy, &subset.ports))?,
        };
        Some(ports.get(&port).unwrap_or(policy))
    }
}

/// The endpoints that have all these labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subset {
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    pub policy: Arc<TrafficPolicy>,
    pub ports: BTreeMap<u16, Arc<TrafficPolicy>>,
}

impl Subset {
    pub fn selects(&self, workload: &Workload) -> bool {
        self.labels.iter().all(|(name, value)| workload.labels.get(name) == Some(value))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrafficPolicy {
    pub balance: Balance,
    pub locality: LocalityPolicy,
    pub warmup: Option<Warmup>,
    pub limits: ConnectionLimits,
    pub outlier: Option<OutlierDetection>,
    pub retry_budget: Option<RetryBudget>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Balance {
    /// The less loaded of two drawn by weight.
    #[default]
    LeastRequest,
    RoundRobin,
    Random,
    /// To the address that the client dialled.
    Passthrough,
    Hash {
        key: HashKey,
        algorithm: HashAlgorithm,
    },
}

/// What requests that belong together have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum HashKey {
    Header(Name),
    Cookie(HashCookie),
    SourceAddress,
    Query(Arc<str>),
}

/// Issued by the proxy where it is missing and has a lifetime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashCookie {
    pub name: Arc<str>,
    pub path: Arc<str>,
    /// None: only cookies that are there count. Zero: a session cookie.
    pub ttl: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum HashAlgorithm {
    /// Consistent hashing on a ring of at least so many points (Istio's default: 1024).
    RingHash { minimum_size: u32 },
    /// Google's Maglev (NSDI 2016, §3.4); the size is a prime (default 65537).
    Maglev { table_size: u32 },
}

/// Which endpoints come first by where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum LocalityPolicy {
    /// As the service says ([`LoadBalancing`](super::LoadBalancing)).
    #[default]
    OfService,
    /// All alike, whatever the service prefers; what it insists on (`internalTrafficPolicy: Local`) stays.
    Off,
    /// Nearest first; the next only as the nearer are not healthy. `to` names the region to go to from a region.
    Failover { to: BTreeMap<Arc<str>, Arc<str>> },
    /// Nearest first by these labels in turn: the more of them from the first on are equal, the nearer. A pair of name
    /// and value stands for a value other than the client's.
    Priority { labels: Vec<(Arc<str>, Option<Arc<str>>)> },
    /// By fixed shares.
    Distribute { from: Vec<Distribution> },
}

/// `from` and the keys of `to` are `region/zone/subzone`, where a `*` ends what counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    pub from: Arc<str>,
    /// Percent; the sum is 100.
    pub to: BTreeMap<Arc<str>, u32>,
}

/// A new endpoint's share grows to the whole over a time (Envoy's slow start).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    pub duration: Duration,
    /// Percent of its weight that it has at once; default 10.
    pub minimum_percent: u32,
    /// In thousandths: 1000 grows linearly, more grows faster at the start.
    pub aggression_milli: u32,
}

/// Bounds for one client pod to one service; None is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionLimits {
    pub max_connections: Option<u32>,
    /// None: ten seconds.
    pub connect_timeout: Option<Duration>,
    /// Of TCP connections: without a byte for so long. None: an hour.
    pub tcp_idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub keepalive: Option<TcpKeepalive>,
    pub max_pending_requests: Option<u32>,
    pub max_requests: Option<u32>,
    pub max_requests_per_connection: Option<u32>,
    pub max_retries: Option<u32>,
    /// Of upstream HTTP connections without a request. None: an hour.
    pub http_idle_timeout: Option<Duration>,
    pub upgrade: H2Upgrade,
    pub max_concurrent_streams: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// Which HTTP version upstream connections speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum H2Upgrade {
    /// As the port is declared.
    #[default]
    OfPort,
    Upgrade,
    DoNotUpgrade,
    /// What the client spoke.
    ClientProtocol,
}

/// When an endpoint is left out for a time; state belongs to the client pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutlierDetection {
    /// Zero: off.
    pub consecutive_5xx: u32,
    /// 502, 503, 504; zero: off.
    pub consecutive_gateway_errors: u32,
    /// Count failures to connect apart from answers.
    pub split_local_errors: bool,
    pub consecutive_local_failures: u32,
    pub interval: Duration,
    /// Times the number of ejections so far.
    pub base_ejection: Duration,
    pub max_ejection_percent: u32,
    /// Below this share of healthy endpoints nothing is left out.
    pub min_health_percent: u32,
    /// Statuses that count as errors in place of the 5xx.
    pub error_statuses: Vec<u16>,
}

/// Istio's defaults.
impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway_errors: 0,
            split_local_errors: false,
            consecutive_local_failures: 5,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection_percent: 10,
            min_health_percent: 0,
            error_statuses: Vec::new(),
        }
    }
}

/// How many retries may run beside the requests that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryBudget {
    /// In hundredths of a percent, default 2000 (20 %).
    pub percent_centi: u32,
    /// So many always may; default 3.
    pub min_concurrency: u32,
    pub interval: Duration,
}
