//! Numbers: what was measured when, and the middle of several.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::setup::Variant;

/// What a number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Metric {
    GigabitsPerSecond,
    /// Requests, connections or handshakes.
    PerSecond,
    P50,
    P99,
    /// CPU seconds of the proxies for a gigabyte.
    CpuPerGigabyte,
    /// CPU microseconds of the proxies for a request.
    CpuPerRequest,
    /// CPU milliseconds of the proxies for a connection.
    CpuPerConnection,
    /// CPU milliseconds of both ends for a handshake.
    CpuPerHandshake,
    /// CPU time of rustls alone for a handshake, over that of both ends.
    OfRustls,
    /// Resident MB of the larger proxy.
    Idle,
    /// KiB a connection: of the client's proxy, of the server's.
    Client1k,
    Server1k,
    Client10k,
    Server10k,
    /// Resident MB of the larger proxy.
    AfterBurst,
    /// The same over the idle one.
    BurstOverIdle,
}

impl Metric {
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::GigabitsPerSecond => "Gbit/s",
            Self::PerSecond => "/s",
            Self::P50 => "µs p50",
            Self::P99 => "µs p99",
            Self::CpuPerGigabyte => "CPU s/GB",
            Self::CpuPerRequest => "CPU µs/request",
            Self::CpuPerConnection => "CPU ms/connection",
            Self::CpuPerHandshake => "CPU ms/handshake",
            Self::OfRustls => "of rustls alone",
            Self::Idle => "MB idle",
            Self::Client1k => "KiB/connection at 1 k, client's end",
            Self::Server1k => "KiB/connection at 1 k, server's end",
            Self::Client10k => "KiB/connection at 10 k, client's end",
            Self::Server10k => "KiB/connection at 10 k, server's end",
            Self::AfterBurst => "MB after a burst of 10 k",
            Self::BurstOverIdle => "× idle after a burst of 10 k",
        }
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.unit())
    }
}

/// One number of one measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) metric: Metric,
    pub(super) value: f64,
}

/// A number, and what it was measured of.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    round: u32,
    row: &'static str,
    variant: Variant,
    metric: Metric,
    value: f64,
}

impl Sample {
    pub(super) fn new(round: u32, row: &'static str, variant: Variant, reading: Reading) -> Self {
        let Reading { metric, value } = reading;
        Self { round, row, variant, metric, value }
    }
}

/// All of a run, in the order of measuring.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Samples(Vec<Sample>);

impl Samples {
    pub(super) fn extend(&mut self, samples: impl IntoIterator<Item = Sample>) {
        self.0.extend(samples);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The median of each row, metric and variant; rows and metrics in the order of their first sample.
    pub(super) fn medians(&self) -> Vec<(&'static str, Metric, BTreeMap<Variant, f64>)> {
        let mut order: Vec<(&'static str, Metric)> = Vec::new();
        for sample in &self.0 {
            if !order.contains(&(sample.row, sample.metric)) {
                order.push((sample.row, sample.metric));
            }
        }
        // A row's metrics together, whichever variant had them first.
        let rows: Vec<&str> = order.iter().map(|(row, _)| *row).collect();
        order.sort_by_key(|(row, metric)| (rows.iter().position(|other| other == row), *metric));
        let of = |row, metric, variant| {
            let values = self.0.iter().filter(|s| (s.row, s.metric, s.variant) == (row, metric, variant)).map(|s| s.value);
            Some((variant, median(values.collect())?))
        };
        let medians = order.into_iter().map(|(row, metric)| {
            (row, metric, Variant::ALL.into_iter().filter_map(|variant| of(row, metric, variant)).collect())
        });
        medians.collect()
    }
}

/// None of nothing.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// Three digits that mean something.
pub(super) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        for (values, expected) in
            [(vec![], None), (vec![3.0], Some(3.0)), (vec![9.0, 1.0, 2.0], Some(2.0)), (vec![4.0, 1.0], Some(2.5))]
        {
            assert_eq!(median(values.clone()), expected, "{values:?}");
        }
    }

    #[test]
    fn rows_stay_together_in_the_order_of_measuring() {
        let sample = |round, row, variant, metric, value| Sample::new(round, row, variant, Reading { metric, value });
        let mut samples = Samples::default();
        samples.extend([
            sample(1, "bulk", Variant::None, Metric::GigabitsPerSecond, 8.0),
            sample(1, "bulk", Variant::Keelson, Metric::GigabitsPerSecond, 4.0),
            sample(1, "http", Variant::None, Metric::PerSecond, 9.0),
            sample(2, "bulk", Variant::Keelson, Metric::GigabitsPerSecond, 6.0),
            sample(2, "bulk", Variant::Keelson, Metric::CpuPerGigabyte, 1.0),
        ]);
        let medians = samples.medians();
        let order: Vec<_> = medians.iter().map(|(row, metric, _)| (*row, *metric)).collect();
        let expected = [("bulk", Metric::GigabitsPerSecond), ("bulk", Metric::CpuPerGigabyte), ("http", Metric::PerSecond)];
        assert_eq!(order, expected);
        assert_eq!(medians[0].2, BTreeMap::from([(Variant::None, 8.0), (Variant::Keelson, 5.0)]));
    }

    #[test]
    fn figures_are_short() {
        for (value, expected) in [(12345.6, "12346"), (56.78, "56.8"), (1.234, "1.23"), (0.1234, "0.123")] {
            assert_eq!(figure(value), expected);
        }
    }
}
