//! One level of a DestinationRule to a policy, completed by the mesh's defaults.

use std::time::Duration;

use mesh_policy::model::{
    Balance, ConnectionLimits, H2Upgrade, HashAlgorithm, HashCookie, HashKey, OutlierDetection, RetryBudget, RoutingMode,
    TcpKeepalive, TrafficPolicy, Warmup, header::Name,
};

use super::{level::Level, locality};
use crate::kinds::{
    Span,
    destination_rule::{
        self as written, ConnectionPoolSettings, ConsistentHashLb, H2UpgradePolicy, LoadBalancerSettings, LocalityLbSetting,
        SimpleLb,
    },
};

const RING: u32 = 1024;
/// Kubernetes' `sessionAffinity: ClientIP`.
const STICKY: Balance = Balance::Hash { key: HashKey::SourceAddress, algorithm: HashAlgorithm::RingHash { minimum_size: RING } };
/// A timeout that is turned off: no connection lives so long.
const NEVER: Duration = Duration::from_hours(24 * 3650);

/// What MeshConfig says where no rule does.
#[derive(Debug, Default)]
pub(in crate::translate) struct Defaults {
    pub(in crate::translate) locality: Option<LocalityLbSetting>,
    pub(in crate::translate) pool: Option<ConnectionPoolSettings>,
    pub(in crate::translate) outlier: Option<written::OutlierDetection>,
    pub(in crate::translate) connect_timeout: Option<Span>,
    pub(in crate::translate) keepalive: Option<written::TcpKeepalive>,
    pub(in crate::translate) upgrade: H2UpgradePolicy,
}

/// `sticky`: the Service wants a client to stay at one endpoint, which counts where no rule says how to balance.
pub(super) fn policy(level: Level<'_>, defaults: &Defaults, mode: RoutingMode, sticky: bool) -> TrafficPolicy {
    let Level { balancer, pool, outlier, budget } = level;
    let outlier = outlier.or(defaults.outlier.as_ref());
    let setting = balancer.and_then(|balancer| balancer.locality_lb_setting.as_ref());
    let balance = balancer.and_then(balance).unwrap_or(if sticky { STICKY } else { Balance::LeastRequest });
    TrafficPolicy {
        locality: locality::policy(setting, defaults.locality.as_ref(), outlier.is_some(), mode),
        warmup: balancer.filter(|_| warms_up(&balance)).and_then(warmup),
        balance,
        limits: limits(pool.or(defaults.pool.as_ref()), defaults),
        outlier: outlier.map(outlier_detection),
        retry_budget: budget.map(retry_budget),
    }
}

/// None: it does not say.
fn balance(found: &LoadBalancerSettings) -> Option<Balance> {
    if let Some(hash) = &found.consistent_hash
        && let Some(key) = hash_key(hash)
    {
        return Some(Balance::Hash { key, algorithm: algorithm(hash) });
    }
    match found.simple {
        None | Some(SimpleLb::Unspecified) => None,
        Some(SimpleLb::LeastConn | SimpleLb::LeastRequest) => Some(Balance::LeastRequest),
        Some(SimpleLb::Random) => Some(Balance::Random),
        Some(SimpleLb::RoundRobin) => Some(Balance::RoundRobin),
        Some(SimpleLb::Passthrough) => Some(Balance::Passthrough),
    }
}

/// None: nothing is hashed (`useSourceIp: false`).
fn hash_key(found: &ConsistentHashLb) -> Option<HashKey> {
    if let Some(name) = &found.http_header_name {
        return name.parse().ok().map(|name| HashKey::Header(Name(name)));
    }
    if let Some(cookie) = &found.http_cookie {
        return Some(HashKey::Cookie(HashCookie {
            name: cookie.name.as_str().into(),
            path: cookie.path.as_str().into(),
            ttl: cookie.ttl.map(|ttl| ttl.0),
        }));
    }
    if let Some(name) = &found.http_query_parameter_name {
        return Some(HashKey::Query(name.as_str().into()));
    }
    (found.use_source_ip == Some(true)).then_some(HashKey::SourceAddress)
}

fn algorithm(found: &ConsistentHashLb) -> HashAlgorithm {
    let size = |size: u64, default: u32| u32::try_from(size).ok().filter(|size| *size != 0).unwrap_or(default);
    match (&found.maglev, &found.ring_hash) {
        (Some(maglev), _) => HashAlgorithm::Maglev { table_size: size(maglev.table_size, 65537) },
        (None, Some(ring)) => HashAlgorithm::RingHash { minimum_size: size(ring.minimum_ring_size, RING) },
        (None, None) => HashAlgorithm::RingHash { minimum_size: size(found.minimum_ring_size, RING) },
    }
}

/// Slow start is part of these two alone (Envoy).
pub(super) fn warms_up(balance: &Balance) -> bool {
    matches!(balance, Balance::LeastRequest | Balance::RoundRobin)
}

fn warmup(found: &LoadBalancerSettings) -> Option<Warmup> {
    let warmup = found.warmup.as_ref();
    let duration = warmup.and_then(|warmup| warmup.duration).or(found.warmup_duration_secs)?;
    let percent = warmup.and_then(|warmup| warmup.minimum_percent).unwrap_or(10.0);
    let aggression = warmup.and_then(|warmup| warmup.aggression).unwrap_or(1.0);
    Some(Warmup { duration: duration.0, minimum_percent: whole(percent), aggression_milli: whole(aggression * 1000.0).max(1) })
}

/// The nearest whole number; validation keeps it small and not negative.
fn whole(value: f64) -> u32 {
    #[allow(clippy::cast_sign_loss, reason = "cut off at zero")]
    let value = value.round().clamp(0.0, f64::from(u32::MAX)) as u32;
    value
}

fn limits(pool: Option<&ConnectionPoolSettings>, defaults: &Defaults) -> ConnectionLimits {
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    let http = pool.and_then(|pool| pool.http.as_ref());
    // Zero is no limit, as in Istio.
    let limit = |value: i32| u32::try_from(value).ok().filter(|value| *value != 0);
    let timeout = |span: Option<Span>| span.map(|span| if span.0.is_zero() { NEVER } else { span.0 });
    let keepalive = tcp.and_then(|tcp| tcp.tcp_keepalive.as_ref()).or(defaults.keepalive.as_ref());
    let tcp_idle_timeout = tcp.and_then(|tcp| timeout(tcp.idle_timeout));
    ConnectionLimits {
        max_connections: tcp.and_then(|tcp| limit(tcp.max_connections)),
        connect_timeout: tcp.and_then(|tcp| tcp.connect_timeout).or(defaults.connect_timeout).map(|span| span.0),
        tcp_idle_timeout,
        max_connection_duration: tcp.and_then(|tcp| tcp.max_connection_duration).map(|span| span.0),
        keepalive: keepalive.map(|keepalive| TcpKeepalive {
            probes: Some(keepalive.probes).filter(|probes| *probes != 0),
            time: keepalive.time.map(|span| span.0),
            interval: keepalive.interval.map(|span| span.0),
        }),
        max_pending_requests: http.and_then(|http| limit(http.http1_max_pending_requests)),
        max_requests: http.and_then(|http| limit(http.http2_max_requests)),
        max_requests_per_connection: http.and_then(|http| limit(http.max_requests_per_connection)),
        max_retries: http.and_then(|http| limit(http.max_retries)),
        // Istio takes that of TCP where there is none of HTTP.
        http_idle_timeout: http.and_then(|http| timeout(http.idle_timeout)).or(tcp_idle_timeout),
        upgrade: upgrade(http, defaults.upgrade),
        max_concurrent_streams: http.and_then(|http| limit(http.max_concurrent_streams)),
    }
}

fn upgrade(http: Option<&written::HttpSettings>, of_mesh: H2UpgradePolicy) -> H2Upgrade {
    if http.is_some_and(|http| http.use_client_protocol) {
        return H2Upgrade::ClientProtocol;
    }
    let own = http.map(|http| http.h2_upgrade_policy).filter(|policy| *policy != H2UpgradePolicy::Default);
    match own.unwrap_or(of_mesh) {
        H2UpgradePolicy::Default => H2Upgrade::OfPort,
        H2UpgradePolicy::Upgrade => H2Upgrade::Upgrade,
        H2UpgradePolicy::DoNotUpgrade => H2Upgrade::DoNotUpgrade,
    }
}

fn outlier_detection(found: &written::OutlierDetection) -> OutlierDetection {
    let default = OutlierDetection::default();
    let percent = |value: i32| u32::try_from(value).unwrap_or(0);
    let split = found.split_external_local_origin_errors;
    let local = found.consecutive_local_origin_failures.filter(|count| split && *count != 0);
    OutlierDetection {
        consecutive_5xx: found.consecutive_5xx_errors.unwrap_or(default.consecutive_5xx),
        consecutive_gateway_errors: found.consecutive_gateway_errors.unwrap_or(default.consecutive_gateway_errors),
        split_local_errors: split,
        consecutive_local_failures: local.unwrap_or(default.consecutive_local_failures),
        interval: found.interval.map_or(default.interval, |span| span.0),
        base_ejection: found.base_ejection_time.map_or(default.base_ejection, |span| span.0),
        max_ejection_percent: match percent(found.max_ejection_percent) {
            0 => default.max_ejection_percent,
            percent => percent,
        },
        min_health_percent: percent(found.min_health_percent),
        error_statuses: found.outlier_detection_http_error_codes.iter().filter_map(|code| u16::try_from(*code).ok()).collect(),
    }
}

fn retry_budget(found: &written::RetryBudget) -> RetryBudget {
    RetryBudget {
        percent_centi: whole(found.percent.unwrap_or(20.0) * 100.0),
        min_concurrency: if found.min_retry_concurrency == 0 { 3 } else { found.min_retry_concurrency },
        interval: found.budget_interval.map_or(Duration::ZERO, |span| span.0),
    }
}
