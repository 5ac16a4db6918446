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
    /// Requests that a server or the mesh answered with 5xx, or nobody answered.
    pub(super) failed: u64,
    /// Requests and answers together.
    pub(super) bytes: u64,
    /// Requests that have ended, and how long all of them took.
    pub(super) timed: u64,
    pub(super) milliseconds: u64,
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
    /// The mesh has answered itself.
    NotAtAll,
}

impl Carried {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual TLS",
            Self::SameNode => "same node",
            Self::Plaintext => "plaintext",
            Self::NotAtAll => "by the mesh",
        }
    }
}

/// The name of who is not in the mesh.
pub(super) const OUTSIDE: &str = "(outside)";

/// All edges of the lab at this moment.
pub(super) fn read(lab: &LabStatus) -> Result<BTreeMap<Ends, Edge>> {
    let mut edges = BTreeMap::new();
    for page in pages(lab)? {
        page.lines().filter_map(Sample::parse).for_each(|sample| sample.add_to(&mut edges));
    }
    edges.retain(|_, edge| *edge != Edge::default());
    Ok(edges)
}

/// The sum over all nodes of a counter's samples that have these labels.
pub(super) fn total(lab: &LabStatus, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
    let of_page = |page: &String| {
        let samples = page.lines().filter_map(Sample::parse);
        let matching =
            samples.filter(|sample| sample.name == name && labels.iter().all(|(key, value)| sample.label(key) == *value));
        matching.map(|sample| sample.count()).sum::<u64>()
    };
    Ok(pages(lab)?.iter().map(of_page).sum())
}

/// The metrics of every node.
fn pages(lab: &LabStatus) -> Result<Vec<String>> {
    let mut pages = Vec::new();
    for (name, node) in &lab.nodes {
        let socket = node.runtime.join("admin.sock");
        let answer = http::get_unix(&socket, "/metrics", Duration::from_secs(5)).with_context(|| format!("metrics of {name}"))?;
        if answer.status != 200 {
            bail!("metrics of {name}: status {}", answer.status);
        }
        pages.push(answer.body);
    }
    Ok(pages)
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

    #[expect(clippy::cast_sign_loss, reason = "a counter is not below zero")]
    fn count(&self) -> u64 {
        self.value as u64
    }

    fn add_to(&self, edges: &mut BTreeMap<Ends, Edge>) {
        let outside = self.label("source_principal") == "unknown";
        // Both halves count; the client's half counts here unless it does not exist.
        if (self.label("reporter") == "source") == outside {
            return;
        }
        let unsent = !outside && self.label("destination_workload") == "unknown" && self.label("response_flags") != "-";
        let carried = match (self.label("connection_security_policy"), outside, self.label("destination_principal")) {
            ("mutual_tls", ..) => Carried::MutualTls,
            ("none", false, destination) if destination != "unknown" => Carried::SameNode,
            _ if unsent => Carried::NotAtAll,
            _ => Carried::Plaintext,
        };
        let named = |name: &str, stranger: &str| if name == "unknown" { stranger.to_owned() } else { name.to_owned() };
        let ends = Ends {
            source: named(self.label("source_workload"), OUTSIDE),
            destination: match carried {
                Carried::NotAtAll => named(self.label("destination_service_name"), OUTSIDE),
                _ => named(self.label("destination_workload"), OUTSIDE),
            },
            carried,
        };
        let edge = edges.entry(ends).or_default();
        let value = self.count();
        match self.name {
            "istio_requests_total" if self.label("response_code") == "403" => edge.refused += value,
            "istio_requests_total" => {
                edge.opened += value;
                if matches!(self.label("response_code").as_bytes(), [b'5', ..] | b"0") {
                    edge.failed += value;
                }
            }
            "istio_tcp_connections_opened_total" => edge.opened += value,
            "istio_tcp_connections_failed_total" => edge.refused += value,
            "istio_tcp_sent_bytes_total"
            | "istio_tcp_received_bytes_total"
            | "istio_request_bytes_sum"
            | "istio_response_bytes_sum" => edge.bytes += value,
            "istio_request_duration_milliseconds_sum" => edge.milliseconds += value,
            "istio_request_duration_milliseconds_count" => edge.timed += value,
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

    #[test]
    fn what_the_mesh_answers_itself_goes_nowhere() {
        let fault = r#"reporter="source",source_workload="client",source_principal="spiffe://a",destination_workload="unknown",destination_principal="unknown",destination_service_name="ratings",connection_security_policy="unknown",response_flags="FI",response_code="500"} 4"#;
        let found = edges(&[&format!("istio_requests_total{{{fault}")]);
        let ends = Ends { source: "client".into(), destination: "ratings".into(), carried: Carried::NotAtAll };
        assert_eq!(found[&ends], Edge { opened: 4, failed: 4, ..Edge::default() });
    }
}
