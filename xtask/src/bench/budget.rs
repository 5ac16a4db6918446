//! What the figures are held to. A budget is set before the thing is built; one that is missed stays, and stays visible.

use std::collections::BTreeMap;

use super::{sample::Metric, setup::Variant};

/// A bound on Keelson's figure. Ratios are to figures of the same run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Budget {
    Most(f64),
    Least(f64),
    LeastOfNoMesh(f64),
    MostOfNoMesh(f64),
    MostOfEnvoy(f64),
    /// So much more than without a mesh.
    MostAdded(f64),
}

/// The bound for one figure, if there is one.
pub(super) fn of(row: &str, metric: Metric) -> Option<Budget> {
    Some(match (row, metric) {
        ("bulk, same node", Metric::GigabitsPerSecond) => Budget::LeastOfNoMesh(1.0),
        ("1 B, same node" | "1 KiB, same node", Metric::P50) => Budget::MostOfNoMesh(1.0),
        ("bulk, other node", Metric::CpuPerGigabyte) => Budget::MostOfEnvoy(0.9),
        ("1 B, other node", Metric::P50) => Budget::MostAdded(90.0),
        ("HTTP × 64, other node", Metric::PerSecond) => Budget::LeastOfNoMesh(0.40),
        ("HTTP × 64, other node" | "HTTP/1.1 × 64, one hop" | "HTTP/2 × 64, one hop", Metric::CpuPerRequest) => {
            Budget::Most(35.0)
        }
        ("connect, other node", Metric::PerSecond) => Budget::Least(1500.0),
        ("connect, other node", Metric::CpuPerConnection) => Budget::Most(0.25),
        (super::handshakes::ROW, Metric::OfRustls) => Budget::Least(0.75),
        (super::memory::ROW | super::l7::ONE_HOP | super::l7::TWO_HOPS, Metric::Idle) => Budget::Most(15.0),
        (super::memory::ROW, Metric::Client1k | Metric::Server1k | Metric::Client10k | Metric::Server10k) => Budget::Most(5.0),
        (super::memory::ROW, Metric::BurstOverIdle) => Budget::Most(1.5),
        ("HTTP/1.1 × 64, two hops" | "HTTP/2 × 64, two hops", Metric::CpuPerRequest) => Budget::Most(90.0),
        ("HTTP/1.1 × 64, two hops" | "HTTP/2 × 64, two hops", Metric::PerSecond) => Budget::LeastOfNoMesh(0.20),
        (super::l7::ONE_HOP | super::l7::TWO_HOPS, Metric::Client10k | Metric::Server10k) => Budget::Most(12.0),
        _ => return None,
    })
}

impl Budget {
    /// None if what it is measured by was not measured.
    pub(super) fn met(self, figures: &BTreeMap<Variant, f64>) -> Option<bool> {
        let figure = |variant| figures.get(&variant).copied();
        let ours = figure(Variant::Keelson)?;
        Some(match self {
            Self::Most(most) => ours <= most,
            Self::Least(least) => ours >= least,
            Self::LeastOfNoMesh(least) => ours >= least * figure(Variant::None)?,
            Self::MostOfNoMesh(most) => ours <= most * figure(Variant::None)?,
            Self::MostOfEnvoy(most) => ours <= most * figure(Variant::Envoy)?,
            Self::MostAdded(most) => ours - figure(Variant::None)? <= most,
        })
    }

    pub(super) fn text(self) -> String {
        match self {
            Self::Most(most) => format!("≤ {most}"),
            Self::Least(least) => format!("≥ {least}"),
            Self::LeastOfNoMesh(least) => format!("≥ {least} × no mesh"),
            Self::MostOfNoMesh(most) => format!("≤ {most} × no mesh"),
            Self::MostOfEnvoy(most) => format!("≤ {most} × Envoy"),
            Self::MostAdded(most) => format!("≤ no mesh + {most}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_met_or_missed_or_open() {
        let all = BTreeMap::from([(Variant::None, 100.0), (Variant::Keelson, 80.0), (Variant::Envoy, 90.0)]);
        let alone = BTreeMap::from([(Variant::Keelson, 80.0)]);
        for (budget, in_all, in_alone) in [
            (Budget::Most(80.0), Some(true), Some(true)),
            (Budget::Least(81.0), Some(false), Some(false)),
            (Budget::LeastOfNoMesh(0.8), Some(true), None),
            (Budget::LeastOfNoMesh(0.9), Some(false), None),
            (Budget::MostOfNoMesh(0.7), Some(false), None),
            (Budget::MostOfEnvoy(0.9), Some(true), None),
            (Budget::MostAdded(-20.0), Some(true), None),
            (Budget::MostAdded(-21.0), Some(false), None),
        ] {
            assert_eq!(budget.met(&all), in_all, "{budget:?}");
            assert_eq!(budget.met(&alone), in_alone, "{budget:?}");
        }
    }

    #[test]
    fn every_budget_belongs_to_a_row() {
        let metrics = [Metric::GigabitsPerSecond, Metric::P50, Metric::CpuPerGigabyte, Metric::PerSecond, Metric::CpuPerRequest];
        let held = |name: &&'static str| metrics.iter().any(|metric| of(name, *metric).is_some());
        let rows = super::super::rows::ROWS.iter().map(|row| row.name).filter(held).count();
        // All but the rows whose cost is shown only: HTTP and connections on the same node, 1 KiB to the other.
        assert_eq!(rows, 7);
        // Of requests, those at 64 connections: two protocols, one hop and two.
        assert_eq!(super::super::l7::names().filter(held).count(), 4);
    }
}
