//! What happened to the choice of endpoints, as metrics of each source pod.
//!
//! The names are Envoy's behind a prefix of ours. They are told by pod and not by backend: their number is that of the pods on
//! the node.

use std::sync::Arc;

use mesh_policy::balance::outlier::Cause;

use super::{Counts, Limited, PodBalance};
use crate::{
    enrol::LocalPods,
    telemetry::{Metrics, Sample, Samples},
};

/// Shows the state of balancing of all pods.
pub fn show(pods: Arc<LocalPods>, metrics: &Metrics) {
    metrics.watch_pods(Box::new(move || {
        let pods = pods.all();
        let mut all: Vec<_> = pods.values().map(|pod| (pod.uid.clone(), &pod.balance)).collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all.into_iter().flat_map(|(uid, balance)| samples(&uid.0, balance)).collect()
    }));
}

fn samples(pod: &Arc<str>, balance: &PodBalance) -> Samples {
    let Counts { ejections, spared, overflows } = balance.counts();
    // `<cluster>//Pod/<namespace>/<name>`
    let mut parts = pod.rsplit('/');
    let (name, namespace): (Arc<str>, Arc<str>) =
        (parts.next().unwrap_or_default().into(), parts.next().unwrap_or_default().into());
    let sample = |family, help, label: &'static str, value: &'static str, count: u64, is_gauge| Sample {
        name: family,
        help,
        is_gauge,
        labels: [("namespace", namespace.clone()), ("pod", name.clone()), (label, value.into())],
        count,
    };
    let mut out = Vec::new();
    for (cause, count) in ejections {
        let (family, help) = ("keelson_outlier_detection_ejections", "Endpoints ejected, by why");
        out.push(sample(family, help, "type", of_cause(cause), count, false));
    }
    let (family, help) = ("keelson_outlier_detection_ejections_overflow", "Endpoints not ejected because of maxEjectionPercent");
    out.push(sample(family, help, "type", "all", spared, false));
    for (limited, count) in overflows {
        let (family, help) = ("keelson_upstream_overflow", "Connections and requests refused by circuit breakers and budgets");
        out.push(sample(family, help, "resource", limited.as_str(), count, false));
    }
    let report = balance.report();
    let ejected = report.iter().map(|backend| backend.ejected.len() as u64).sum();
    let (family, help) = ("keelson_outlier_detection_ejections_active", "Endpoints that are ejected");
    out.push(sample(family, help, "type", "all", ejected, true));
    for (at, limited) in Limited::ALL.into_iter().enumerate() {
        let open = report.iter().map(|backend| u64::from(backend.open[at].1)).sum();
        let (family, help) = ("keelson_upstream_active", "What is open to backends, of what circuit breakers bound");
        out.push(sample(family, help, "resource", limited.as_str(), open, true));
    }
    // A pod that has asked nobody has nothing to tell.
    if report.is_empty() && out.iter().all(|sample| sample.count == 0) {
        out.clear();
    }
    out
}

/// As in Envoy's `outlier_detection.ejections_enforced_…`.
fn of_cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Consecutive5xx => "consecutive_5xx",
        Cause::ConsecutiveGatewayErrors => "consecutive_gateway_failure",
        Cause::ConsecutiveLocalFailures => "consecutive_local_origin_failure",
    }
}
