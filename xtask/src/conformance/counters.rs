//! What the node proxies counted: whether the tests' traffic passed through them, and how it was secured.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::in_netns;

use super::command::Placement;
use crate::{cluster::Cluster, report};

/// The metrics' port on a node's loopback device.
const METRICS: u16 = 15020;
const PATIENCE: Duration = Duration::from_secs(10);

/// Requests and connections whose destination is a pod of the tests, as the destination's proxy counted them, by how they were secured.
#[derive(Debug, Default)]
pub(super) struct Counters(BTreeMap<Key, f64>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    metric: String,
    security: String,
}

const REQUESTS: &str = "istio_requests_total";
const CONNECTIONS: &str = "istio_tcp_connections_opened_total";
const NAMESPACE: &str = "destination_workload_namespace=\"gateway-conformance-mesh";

impl Counters {
    /// Of all nodes together.
    pub(super) fn of(cluster: &Cluster) -> Result<Self> {
        let mut all = Self::default();
        for node in &cluster.nodes {
            let text = in_netns(&node.netns, metrics)?.with_context(|| format!("the metrics of {}", node.name))?;
            all.add(&text);
        }
        Ok(all)
    }

    fn add(&mut self, text: &str) {
        for line in text.lines() {
            let Some((metric, rest)) = line.split_once('{') else { continue };
            let counted = [REQUESTS, CONNECTIONS].contains(&metric);
            if !counted || !rest.contains(NAMESPACE) || !rest.contains("reporter=\"destination\"") {
                continue;
            }
            let security = label(rest, "connection_security_policy").unwrap_or("unknown").to_owned();
            let value: f64 = rest.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or(0.0);
            *self.0.entry(Key { metric: metric.to_owned(), security }).or_default() += value;
        }
    }

    fn since(&self, before: &Self, metric: &str, security: &str) -> f64 {
        let key = Key { metric: metric.to_owned(), security: security.to_owned() };
        let of = |counters: &Self| counters.0.get(&key).copied().unwrap_or(0.0);
        of(self) - of(before)
    }
}

/// The value of a label in `a="x",b="y"} 1`.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split_once(&format!("{name}=\""))?.1.split_once('"').map(|(value, _)| value)
}

/// Called in the node's network namespace.
fn metrics() -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, METRICS)).context("nobody serves metrics")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: node\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Fails unless the destination's proxies saw the tests' requests, and between nodes every one of them under mutual TLS.
pub(super) fn prove(placement: Placement, before: &Counters, after: &Counters) -> Result<()> {
    let since = |metric, security| after.since(before, metric, security);
    let (mutual, none) = (since(REQUESTS, "mutual_tls"), since(REQUESTS, "none"));
    let unknown = since(REQUESTS, "unknown");
    report::note(format_args!(
        "requests at their destinations' proxies: {mutual} under mutual TLS, {none} without, {unknown} unknown; connections: {} and {}",
        since(CONNECTIONS, "mutual_tls"),
        since(CONNECTIONS, "none"),
    ));
    ensure!(mutual + none + unknown > 0.0, "no request of the tests passed through a proxy");
    if placement == Placement::Two {
        ensure!(mutual > 0.0, "no request of the tests came under mutual TLS");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tests_traffic_at_its_destination_counts() {
        let line = |metric: &str, reporter: &str, namespace: &str, security: &str, value: u32| {
            format!(
                "{metric}{{reporter=\"{reporter}\",destination_workload_namespace=\"{namespace}\",connection_security_policy=\"{security}\"}} {value}\n"
            )
        };
        let tests = "gateway-conformance-mesh";
        let mut counters = Counters::default();
        counters.add(&line(REQUESTS, "destination", tests, "mutual_tls", 3));
        counters.add(&line(REQUESTS, "destination", "gateway-conformance-mesh-consumer", "mutual_tls", 2));
        counters.add(&line(REQUESTS, "source", tests, "mutual_tls", 7));
        counters.add(&line(REQUESTS, "destination", "shop", "mutual_tls", 7));
        counters.add(&line("other", "destination", tests, "mutual_tls", 7));
        assert!((counters.since(&Counters::default(), REQUESTS, "mutual_tls") - 5.0).abs() < 0.5);
    }
}
