//! A DestinationRule's policy.

use mesh_policy::model::{
    Balance, ConnectionLimits, H2Upgrade, HashAlgorithm, HashKey, LocalityPolicy, OutlierDetection, TrafficPolicy,
};

use super::{percent, time};

/// What differs from the defaults, beside the balancing, which is always said.
pub(crate) fn policy(policy: &TrafficPolicy) -> Vec<String> {
    let TrafficPolicy { balance, locality, warmup, limits: bounds, outlier: ejection, retry_budget } = policy;
    let mut parts = vec![self::balance(balance)];
    parts.extend(self::locality(locality));
    parts.extend(warmup.as_ref().map(|warmup| format!("new endpoints warm up for {}", time(warmup.duration))));
    let limits = limits(bounds);
    if !limits.is_empty() {
        parts.push(format!("limits: {}", limits.join(", ")));
    }
    parts.extend(ejection.as_ref().map(outlier));
    parts.extend(retry_budget.map(|budget| {
        let share = percent(f64::from(budget.percent_centi) / 100.0);
        format!("retry budget: {share} of the open requests, at least {}", budget.min_concurrency)
    }));
    parts
}

fn balance(balance: &Balance) -> String {
    match balance {
        Balance::LeastRequest => "least request".to_owned(),
        Balance::RoundRobin => "round robin".to_owned(),
        Balance::Random => "random".to_owned(),
        Balance::Passthrough => "the address dialled".to_owned(),
        Balance::Hash { key, algorithm } => {
            let key = match key {
                HashKey::Header(name) => format!("header {name}"),
                HashKey::Cookie(cookie) => format!("cookie {}", cookie.name),
                HashKey::SourceAddress => "source address".to_owned(),
                HashKey::Query(name) => format!("query parameter {name}"),
            };
            let algorithm = match algorithm {
                HashAlgorithm::RingHash { .. } => "ring",
                HashAlgorithm::Maglev { .. } => "maglev",
            };
            format!("{algorithm} hash of {key}")
        }
    }
}

fn locality(locality: &LocalityPolicy) -> Option<String> {
    match locality {
        LocalityPolicy::OfService => None,
        LocalityPolicy::Off => Some("all localities alike".to_owned()),
        LocalityPolicy::Failover { .. } => Some("nearest locality first".to_owned()),
        LocalityPolicy::Priority { labels } => {
            let labels: Vec<_> = labels.iter().map(|(name, _)| &**name).collect();
            Some(format!("first those with the same {}", labels.join(", ")))
        }
        LocalityPolicy::Distribute { .. } => Some("shares by locality".to_owned()),
    }
}

fn limits(limits: &ConnectionLimits) -> Vec<String> {
    let ConnectionLimits {
        max_connections,
        connect_timeout,
        tcp_idle_timeout,
        max_connection_duration,
        keepalive,
        max_pending_requests,
        max_requests,
        max_requests_per_connection,
        max_retries,
        http_idle_timeout,
        upgrade,
        max_concurrent_streams,
    } = limits;
    let count = |name: &str, value: &Option<u32>| value.map(|value| format!("{name} {value}"));
    let duration = |name: &str, value: &Option<std::time::Duration>| value.map(|value| format!("{name} {}", time(value)));
    let upgrade = match upgrade {
        H2Upgrade::OfPort => None,
        H2Upgrade::Upgrade => Some("HTTP/2 upstream"),
        H2Upgrade::DoNotUpgrade => Some("HTTP/1.1 upstream"),
        H2Upgrade::ClientProtocol => Some("the client's HTTP version upstream"),
    };
    [
        count("connections", max_connections),
        duration("connect timeout", connect_timeout),
        duration("TCP idle timeout", tcp_idle_timeout),
        duration("connection duration", max_connection_duration),
        keepalive.map(|_| "TCP keepalive".to_owned()),
        count("pending requests", max_pending_requests),
        count("requests", max_requests),
        count("requests a connection", max_requests_per_connection),
        count("open retries", max_retries),
        duration("HTTP idle timeout", http_idle_timeout),
        upgrade.map(str::to_owned),
        count("concurrent streams", max_concurrent_streams),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn outlier(outlier: &OutlierDetection) -> String {
    let OutlierDetection {
        consecutive_5xx,
        consecutive_gateway_errors,
        split_local_errors,
        consecutive_local_failures,
        interval,
        base_ejection,
        max_ejection_percent,
        min_health_percent: _,
        error_statuses: _,
    } = outlier;
    let after = [
        (*consecutive_5xx > 0).then(|| format!("{consecutive_5xx} errors")),
        (*consecutive_gateway_errors > 0).then(|| format!("{consecutive_gateway_errors} gateway errors")),
        (*split_local_errors && *consecutive_local_failures > 0)
            .then(|| format!("{consecutive_local_failures} failures to connect")),
    ];
    let after: Vec<_> = after.into_iter().flatten().collect();
    let after = if after.is_empty() { "nothing".to_owned() } else { after.join(" or ") };
    format!(
        "outliers: out for {} after {after} in a row, looked at every {}, at most {max_ejection_percent} %",
        time(*base_ejection),
        time(*interval)
    )
}
