//! DestinationRule (istio's `ValidateDestinationRule`), and the parts of it that MeshConfig has too.

use std::collections::BTreeSet;

use http::HeaderName;

use super::{
    host::{HOST, export_to, is_host_pattern, is_label, labels, port},
    problem::{Cause, Problem},
    span::{duration, duration_or_off},
};
use crate::kinds::{
    DestinationRuleSpec,
    destination_rule::{
        ClientTlsSettings, ConnectionPoolSettings, ConsistentHashLb, Failover, H2UpgradePolicy, HttpSettings,
        LoadBalancerSettings, LocalityLbSetting, OutlierDetection, PortTrafficPolicy, TcpSettings, TlsMode, TrafficPolicy,
        ZoneAwareLbSetting,
    },
};

/// Maglev tables are smaller (Envoy).
const TABLE: u64 = 5_000_011;

pub(super) fn destination_rule(namespace: &str, spec: &DestinationRuleSpec) -> Vec<Problem> {
    let mut out = Vec::new();
    let DestinationRuleSpec { host, traffic_policy: policy, subsets, export_to: targets, workload_selector } = spec;
    if host.is_empty() {
        out.push(Problem::new("spec.host", Cause::Missing));
    } else if !is_host_pattern(host) {
        out.push(Problem::new("spec.host", Cause::form(host, HOST)));
    }
    if let Some(policy) = policy {
        traffic_policy("spec.trafficPolicy", policy, &mut out);
    }
    let mut names = BTreeSet::new();
    for (index, subset) in subsets.iter().enumerate() {
        let at = format!("spec.subsets[{index}]");
        if !is_label(&subset.name) {
            out.push(Problem::new(format!("{at}.name"), Cause::form(&subset.name, "the name of a subset (a-z, 0-9, '-')")));
        } else if !names.insert(&subset.name) {
            out.push(Problem::new(format!("{at}.name"), Cause::Duplicate { found: subset.name.clone() }));
        }
        labels(&format!("{at}.labels"), &subset.labels, &mut out);
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(&format!("{at}.trafficPolicy"), policy, &mut out);
        }
    }
    export_to(namespace, targets, &mut out);
    let elsewhere = |target: &String| target != "." && target != namespace;
    if workload_selector.is_some() && targets.iter().any(elsewhere) {
        out.push(Problem::new("spec.exportTo", Cause::Exclusive { other: "workloadSelector" }));
    }
    out
}

fn traffic_policy(at: &str, policy: &TrafficPolicy, out: &mut Vec<Problem>) {
    if *policy == TrafficPolicy::default() {
        out.push(Problem::new(at, Cause::Empty));
    }
    let TrafficPolicy {
        load_balancer: balancer,
        connection_pool: pool,
        outlier_detection: outlier,
        tls,
        port_level_settings,
        tunnel,
        proxy_protocol,
        retry_budget,
    } = policy;
    level(at, balancer.as_ref(), pool.as_ref(), outlier.as_ref(), tls.as_ref(), out);
    let mut numbers = BTreeSet::new();
    for (index, settings) in port_level_settings.iter().enumerate() {
        let at = format!("{at}.portLevelSettings[{index}]");
        let PortTrafficPolicy { port: selector, load_balancer, connection_pool, outlier_detection, tls } = settings;
        match selector {
            None => out.push(Problem::new(format!("{at}.port"), Cause::Missing)),
            Some(selector) => {
                port(&format!("{at}.port.number"), selector.number, out);
                if !numbers.insert(selector.number) {
                    let found = selector.number.to_string();
                    out.push(Problem::new(format!("{at}.port.number"), Cause::Duplicate { found }));
                }
            }
        }
        if load_balancer.is_none() && connection_pool.is_none() && outlier_detection.is_none() && tls.is_none() {
            out.push(Problem::new(&at, Cause::Empty));
        }
        level(&at, load_balancer.as_ref(), connection_pool.as_ref(), outlier_detection.as_ref(), tls.as_ref(), out);
    }
    if let Some(tunnel) = tunnel {
        let at = format!("{at}.tunnel");
        if proxy_protocol.is_some() {
            out.push(Problem::new(&at, Cause::Exclusive { other: "proxyProtocol" }));
        }
        if !matches!(tunnel.protocol.as_str(), "" | "CONNECT" | "POST") {
            out.push(Problem::new(format!("{at}.protocol"), Cause::form(&tunnel.protocol, "CONNECT or POST")));
        }
        if tunnel.target_host.starts_with('*') || !is_host_pattern(&tunnel.target_host) {
            out.push(Problem::new(format!("{at}.targetHost"), Cause::form(&tunnel.target_host, "a host name or address")));
        }
        port(&format!("{at}.targetPort"), tunnel.target_port, out);
    }
    if let Some(percent) = retry_budget.as_ref().and_then(|budget| budget.percent).filter(|found| !(0.0..=100.0).contains(found))
    {
        out.push(Problem::new(format!("{at}.retryBudget.percent"), Cause::form(percent.to_string(), "a percentage")));
    }
}

fn level(
    at: &str,
    balancer: Option<&LoadBalancerSettings>,
    pool: Option<&ConnectionPoolSettings>,
    outlier: Option<&OutlierDetection>,
    tls: Option<&ClientTlsSettings>,
    out: &mut Vec<Problem>,
) {
    if let Some(balancer) = balancer {
        load_balancer(&format!("{at}.loadBalancer"), balancer, out);
    }
    if let Some(pool) = pool {
        connection_pool(&format!("{at}.connectionPool"), pool, out);
    }
    if let Some(outlier) = outlier {
        outlier_detection(&format!("{at}.outlierDetection"), outlier, out);
    }
    if let Some(tls) = tls {
        client_tls(&format!("{at}.tls"), tls, out);
    }
}

fn load_balancer(at: &str, found: &LoadBalancerSettings, out: &mut Vec<Problem>) {
    let LoadBalancerSettings {
        simple,
        consistent_hash: hash,
        locality_lb_setting,
        zone_aware_lb_setting,
        warmup_duration_secs,
        warmup,
    } = found;
    if let Some(hash) = hash {
        if simple.is_some() {
            out.push(Problem::new(format!("{at}.consistentHash"), Cause::Exclusive { other: "simple" }));
        }
        consistent_hash(&format!("{at}.consistentHash"), hash, out);
    }
    if let Some(setting) = locality_lb_setting {
        if zone_aware_lb_setting.is_some() {
            out.push(Problem::new(format!("{at}.zoneAwareLbSetting"), Cause::Exclusive { other: "localityLbSetting" }));
        }
        locality(&format!("{at}.localityLbSetting"), setting, out);
    }
    if let Some(ZoneAwareLbSetting { enabled: _, failover, failover_priority, min_cluster_size: _ }) = zone_aware_lb_setting {
        let at = format!("{at}.zoneAwareLbSetting");
        failovers(&at, failover, out);
        topology_alone(&at, failover_priority, "zoneAwareLbSetting, which follows it anyway", out);
    }
    duration(format!("{at}.warmupDurationSecs"), *warmup_duration_secs, out);
    if let Some(warmup) = warmup {
        let at = format!("{at}.warmup");
        if warmup.duration.is_none() {
            out.push(Problem::new(format!("{at}.duration"), Cause::Missing));
        }
        duration(format!("{at}.duration"), warmup.duration, out);
        if let Some(percent) = warmup.minimum_percent.filter(|percent| !(0.0..=100.0).contains(percent)) {
            out.push(Problem::new(format!("{at}.minimumPercent"), Cause::form(percent.to_string(), "a percentage")));
        }
        if let Some(aggression) = warmup.aggression.filter(|aggression| !(*aggression > 0.0 && *aggression <= 1e6)) {
            out.push(Problem::new(format!("{at}.aggression"), Cause::form(aggression.to_string(), "more than zero")));
        }
    }
}

fn consistent_hash(at: &str, found: &ConsistentHashLb, out: &mut Vec<Problem>) {
    let ConsistentHashLb {
        http_header_name,
        http_cookie,
        use_source_ip,
        http_query_parameter_name,
        ring_hash,
        maglev,
        minimum_ring_size,
    } = found;
    let keys = [http_header_name.is_some(), http_cookie.is_some(), use_source_ip.is_some(), http_query_parameter_name.is_some()];
    if keys.into_iter().filter(|there| *there).count() > 1 {
        out.push(Problem::new(at, Cause::Exclusive { other: "another key to hash" }));
    }
    let sizes = [ring_hash.is_some(), maglev.is_some(), *minimum_ring_size != 0];
    if sizes.into_iter().filter(|there| *there).count() > 1 {
        out.push(Problem::new(at, Cause::Exclusive { other: "another algorithm (ringHash, maglev, minimumRingSize)" }));
    }
    if let Some(name) = http_header_name.as_ref().filter(|name| HeaderName::try_from(*name).is_err()) {
        out.push(Problem::new(format!("{at}.httpHeaderName"), Cause::form(name, "the name of a header")));
    }
    if http_query_parameter_name.as_ref().is_some_and(String::is_empty) {
        out.push(Problem::new(format!("{at}.httpQueryParameterName"), Cause::Empty));
    }
    if let Some(cookie) = http_cookie {
        if cookie.name.is_empty() {
            out.push(Problem::new(format!("{at}.httpCookie.name"), Cause::Missing));
        }
        let mut names = BTreeSet::new();
        for (index, attribute) in cookie.attributes.iter().enumerate() {
            let at = format!("{at}.httpCookie.attributes[{index}].name");
            if attribute.name.is_empty() {
                out.push(Problem::new(at, Cause::Missing));
            } else if !names.insert(&attribute.name) {
                out.push(Problem::new(at, Cause::Duplicate { found: attribute.name.clone() }));
            }
        }
    }
    let ring = ring_hash.as_ref().map_or(*minimum_ring_size, |ring| ring.minimum_ring_size);
    // Envoy's upper bound.
    if ring > 8 << 20 {
        out.push(Problem::new(format!("{at}.ringHash.minimumRingSize"), Cause::form(ring.to_string(), "at most 8388608")));
    }
    if let Some(maglev) = maglev.as_ref().filter(|maglev| maglev.table_size >= TABLE || !is_prime(maglev.table_size)) {
        let cause = Cause::form(maglev.table_size.to_string(), "a prime below 5000011");
        out.push(Problem::new(format!("{at}.maglev.tableSize"), cause));
    }
}

fn is_prime(number: u64) -> bool {
    number > 1 && (2..=number.isqrt()).all(|factor| !number.is_multiple_of(factor))
}

pub(super) fn locality(at: &str, found: &LocalityLbSetting, out: &mut Vec<Problem>) {
    let LocalityLbSetting { distribute, failover, failover_priority, enabled: _ } = found;
    if !distribute.is_empty() && !failover.is_empty() {
        out.push(Problem::new(format!("{at}.distribute"), Cause::Exclusive { other: "failover" }));
    }
    if !failover.is_empty() {
        topology_alone(at, failover_priority, "failover", out);
    }
    let from: Vec<&str> = distribute.iter().map(|share| share.from.as_str()).collect();
    localities(&format!("{at}.distribute"), &from, out);
    for (index, share) in distribute.iter().enumerate() {
        let at = format!("{at}.distribute[{index}].to");
        let to: Vec<&str> = share.to.keys().map(String::as_str).collect();
        localities(&at, &to, out);
        let sum: u64 = share.to.values().map(|weight| u64::from(*weight)).sum();
        if sum != 100 || share.to.values().any(|weight| *weight == 0) {
            out.push(Problem::new(at, Cause::form(sum.to_string(), "100, the sum of weights that are 1 or more")));
        }
    }
    failovers(at, failover, out);
    for (index, label) in failover_priority.iter().enumerate().filter(|(_, label)| label.is_empty() || label.starts_with('=')) {
        out.push(Problem::new(format!("{at}.failoverPriority[{index}]"), Cause::form(label, "the name of a label")));
    }
}

/// Labels of region, zone and subzone may not stand beside what orders these by itself.
fn topology_alone(at: &str, priority: &[String], other: &'static str, out: &mut Vec<Problem>) {
    let topology = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];
    for (index, _) in priority.iter().enumerate().filter(|(_, label)| topology.contains(&label.as_str())) {
        out.push(Problem::new(format!("{at}.failoverPriority[{index}]"), Cause::Exclusive { other }));
    }
}

fn failovers(at: &str, failovers: &[Failover], out: &mut Vec<Problem>) {
    for (index, Failover { from, to }) in failovers.iter().enumerate() {
        let is_region = |text: &str| !text.is_empty() && !text.contains(['/', '*']);
        if from == to || !is_region(from) || !is_region(to) {
            let cause = Cause::form(format!("{from} to {to}"), "from one region to another");
            out.push(Problem::new(format!("{at}.failover[{index}]"), cause));
        }
    }
}

/// `region/zone/subzone`, where a `*` may come last; none within another.
fn localities(at: &str, localities: &[&str], out: &mut Vec<Problem>) {
    let shape = |text: &str| {
        let parts: Vec<&str> = text.split('/').collect();
        parts.len() <= 3 && parts.iter().all(|part| !part.is_empty()) && !text[..text.len() - 1].contains('*')
    };
    let stem = |text: &str| text.strip_suffix('*').map_or_else(|| format!("{text}/"), str::to_owned);
    for (index, locality) in localities.iter().enumerate() {
        if locality.is_empty() || !shape(locality) {
            out.push(Problem::new(at, Cause::form(*locality, "region/zone/subzone, or a beginning of it and `*`")));
        } else if localities[..index].iter().any(|before| {
            let (before, this) = (stem(before), stem(locality));
            before.starts_with(&this) || this.starts_with(&before)
        }) {
            out.push(Problem::new(at, Cause::Duplicate { found: (*locality).to_owned() }));
        }
    }
}

pub(super) fn connection_pool(at: &str, found: &ConnectionPoolSettings, out: &mut Vec<Problem>) {
    let ConnectionPoolSettings { tcp, http } = found;
    if tcp.is_none() && http.is_none() {
        out.push(Problem::new(at, Cause::Empty));
    }
    let not_negative = |field: &str, value: i32, out: &mut Vec<Problem>| {
        if value < 0 {
            out.push(Problem::new(format!("{at}.{field}"), Cause::form(value.to_string(), "zero or more")));
        }
    };
    if let Some(TcpSettings { max_connections, connect_timeout, tcp_keepalive, max_connection_duration, idle_timeout }) = tcp {
        not_negative("tcp.maxConnections", *max_connections, out);
        duration(format!("{at}.tcp.connectTimeout"), *connect_timeout, out);
        duration(format!("{at}.tcp.maxConnectionDuration"), *max_connection_duration, out);
        duration_or_off(format!("{at}.tcp.idleTimeout"), *idle_timeout, out);
        if let Some(keepalive) = tcp_keepalive {
            duration(format!("{at}.tcp.tcpKeepalive.time"), keepalive.time, out);
            duration(format!("{at}.tcp.tcpKeepalive.interval"), keepalive.interval, out);
        }
    }
    if let Some(http) = http {
        let HttpSettings {
            http1_max_pending_requests,
            http2_max_requests,
            max_requests_per_connection,
            max_retries,
            idle_timeout,
            h2_upgrade_policy,
            use_client_protocol,
            max_concurrent_streams,
            http2_keep_alive,
        } = http;
        not_negative("http.http1MaxPendingRequests", *http1_max_pending_requests, out);
        not_negative("http.http2MaxRequests", *http2_max_requests, out);
        not_negative("http.maxRequestsPerConnection", *max_requests_per_connection, out);
        not_negative("http.maxRetries", *max_retries, out);
        not_negative("http.maxConcurrentStreams", *max_concurrent_streams, out);
        duration(format!("{at}.http.idleTimeout"), *idle_timeout, out);
        if *use_client_protocol && *h2_upgrade_policy == H2UpgradePolicy::Upgrade {
            out.push(Problem::new(
                format!("{at}.http.useClientProtocol"),
                Cause::Exclusive { other: "h2UpgradePolicy: UPGRADE" },
            ));
        }
        if let Some(keepalive) = http2_keep_alive {
            for (field, span) in [("interval", keepalive.interval), ("timeout", keepalive.timeout)] {
                let at = format!("{at}.http.http2KeepAlive.{field}");
                if span.is_none() {
                    out.push(Problem::new(&at, Cause::Missing));
                }
                duration(at, span, out);
            }
        }
    }
}

pub(super) fn outlier_detection(at: &str, found: &OutlierDetection, out: &mut Vec<Problem>) {
    duration(format!("{at}.interval"), found.interval, out);
    duration(format!("{at}.baseEjectionTime"), found.base_ejection_time, out);
    for (field, percent) in [("maxEjectionPercent", found.max_ejection_percent), ("minHealthPercent", found.min_health_percent)] {
        if !(0..=100).contains(&percent) {
            out.push(Problem::new(format!("{at}.{field}"), Cause::form(percent.to_string(), "a percentage")));
        }
    }
    if !found.split_external_local_origin_errors && found.consecutive_local_origin_failures.is_some_and(|count| count > 0) {
        let reason = "splitExternalLocalOriginErrors is not set";
        out.push(Problem::new(format!("{at}.consecutiveLocalOriginFailures"), Cause::Ineffective { reason }));
    }
    for (index, code) in
        found.outlier_detection_http_error_codes.iter().enumerate().filter(|(_, code)| !(100..=599).contains(*code))
    {
        let at = format!("{at}.outlierDetectionHttpErrorCodes[{index}]");
        out.push(Problem::new(at, Cause::form(code.to_string(), "an HTTP status")));
    }
}

/// The rules of istio's `ValidateTLS` on what a mode needs.
fn client_tls(at: &str, found: &ClientTlsSettings, out: &mut Vec<Problem>) {
    let files = [
        ("clientCertificate", &found.client_certificate),
        ("privateKey", &found.private_key),
        ("caCertificates", &found.ca_certificates),
    ];
    if found.mode == TlsMode::Mutual && found.credential_name.is_empty() {
        for (field, _) in files.iter().take(2).filter(|(_, value)| value.is_empty()) {
            out.push(Problem::new(format!("{at}.{field}"), Cause::Missing));
        }
    }
    if !found.credential_name.is_empty() {
        for (field, _) in files.iter().filter(|(_, value)| !value.is_empty()) {
            out.push(Problem::new(format!("{at}.{field}"), Cause::Exclusive { other: "credentialName" }));
        }
    }
}
