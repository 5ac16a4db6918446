//! Who calls whom, read from the metrics of every node proxy.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use harness::{LabStatus, http};

/// From one workload to another, as its client's node counted it, or its server's when the client is outside the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Edge {
    /// Connections and requests.
    pub(super) opened: u64,
    pub(super) refused: u64,
    /// Requests and answers together.
    pub(super) bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ends {
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) carried: Carried,
}

/// How the bytes get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Carried {
    MutualTls,
    /// Both pods are on one node: identities are known, nothing is on a wire.
    SameNode,
    Plaintext,
}

impl Carried {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual TLS",
            Self::SameNode => "same node",
            Self::Plaintext => "plaintext",
        }
    }
}

/// The name of who is not in the mesh.
pub(super) const OUTSIDE: &str = "(outside)";

/// All edges of the lab at this moment.
pub(super) fn read(lab: &LabStatus) -> Result<BTreeMap<Ends, Edge>> {
    let mut edges = BTreeMap::new();
    for (name, node) in &lab.nodes {
        let socket = node.runtime.join("admin.sock");
        let answer = http::get_unix(&socket, "/metrics", Duration::from_secs(5)).with_context(|| format!("metrics of {name}"))?;
        if answer.status != 200 {
            bail!("metrics of {name}: status {}", answer.status);
        }
        for sample in answer.body.lines().filter_map(Sample::parse) {
            sample.add_to(&mut edges);
        }
    }
    edges.retain(|_, edge| *edge != Edge::default());
    Ok(edges)
}

/// One line of the text format.
struct Sample<'a> {
    name: &'a str,
    labels: BTreeMap<&'a str, &'a str>,
    value: f64,
}

impl<'a> Sample<'a> {
    /// None for comments, and for what has no labels.
    fn parse(line: &'a str) -> Option<Self> {
        let (name, rest) = line.split_once('{')?;
        let (labels, value) = rest.rsplit_once("} ")?;
        // Values of ours are names, identities and numbers: none contains a quote.
        let labels = labels.split("\",").filter_map(|label| label.split_once("=\""));
        let labels = labels.map(|(key, value)| (key, value.trim_end_matches('"'))).collect();
        Some(Self { name, labels, value: value.trim().parse().ok()? })
    }

    fn label(&self, name: &str) -> &'a str {
        self.labels.get(name).copied().unwrap_or("unknown")
    }

    fn add_to(&self, edges: &mut BTreeMap<Ends, Edge>) {
        let outside = self.label("source_principal") == "unknown";
        // Both halves count; the client's half counts here unless it does not exist.
        if (self.label("reporter") == "source") == outside {
            return;
        }
        let carried = match (self.label("connection_security_policy"), outside, self.label("destination_principal")) {
            ("mutual_tls", ..) => Carried::MutualTls,
            ("none", false, destination) if destination != "unknown" => Carried::SameNode,
            _ => Carried::Plaintext,
        };
        let named = |name: &str, stranger: &str| if name == "unknown" { stranger.to_owned() } else { name.to_owned() };
        let ends = Ends {
            source: named(self.label("source_workload"), OUTSIDE),
            destination: named(self.label("destination_workload"), OUTSIDE),
            carried,
        };
        let edge = edges.entry(ends).or_default();
        #[expect(clippy::cast_sign_loss, reason = "a counter is not below zero")]
        let value = self.value as u64;
        match self.name {
            "istio_requests_total" if self.label("response_code") == "403" => edge.refused += value,
            "istio_tcp_connections_opened_total" | "istio_requests_total" => edge.opened += value,
            "istio_tcp_connections_failed_total" => edge.refused += value,
            "istio_tcp_sent_bytes_total"
            | "istio_tcp_received_bytes_total"
            | "istio_request_bytes_sum"
            | "istio_response_bytes_sum" => edge.bytes += value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(lines: &[&str]) -> BTreeMap<Ends, Edge> {
        let mut edges = BTreeMap::new();
        lines.iter().filter_map(|line| Sample::parse(line)).for_each(|sample| sample.add_to(&mut edges));
        edges
    }

    #[test]
    fn each_connection_counts_once_by_its_client_or_else_its_server() {
        let mesh = r#"source_workload="page",source_principal="spiffe://a",destination_workload="reviews",destination_principal="spiffe://b",connection_security_policy="mutual_tls"} 3"#;
        let stranger = r#"source_workload="unknown",source_principal="unknown",destination_workload="page",destination_principal="spiffe://b",connection_security_policy="none"} 2"#;
        let found = edges(&[
            "# HELP x y",
            &format!(r#"istio_tcp_connections_opened_total{{reporter="source",{mesh}"#),
            &format!(r#"istio_tcp_connections_opened_total{{reporter="destination",{mesh}"#),
            &format!(r#"istio_requests_total{{reporter="source",response_code="200",{mesh}"#),
            &format!(r#"istio_requests_total{{reporter="destination",response_code="403",{stranger}"#),
        ]);
        let ends =
            |source: &str, destination: &str, carried| Ends { source: source.into(), destination: destination.into(), carried };
        assert_eq!(found[&ends("page", "reviews", Carried::MutualTls)].opened, 6);
        assert_eq!(found[&ends(OUTSIDE, "page", Carried::Plaintext)].refused, 2);
        assert_eq!(found.len(), 2);
    }
}
