//! What is measured under load.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    super::{
        Load,
        rows::under_load,
        sample::{Metric, Reading},
        setup::{Placement, Port, Setup},
    },
    Subject,
    manifest::PATH,
};

/// One kind of load to one server.
pub(super) struct Row {
    pub(super) name: &'static str,
    protocol: Port,
    placement: Placement,
    pace: Pace,
}

#[derive(Clone, Copy)]
enum Pace {
    /// Over so many connections, each with one request at a time.
    Free(u32),
    /// So many requests a second, over [`AT_RATE`] connections.
    Rate(u32),
}

/// Enough for the rates at any latency that is worth a figure.
const AT_RATE: u32 = 16;

const ONE_HOP: Placement = Placement::SameNode;
const TWO_HOPS: Placement = Placement::OtherNode;

pub(super) const ROWS: &[Row] = &[
    row("HTTP/1.1 × 1, one hop", Port::Http, ONE_HOP, Pace::Free(1)),
    row("HTTP/1.1 × 1, two hops", Port::Http, TWO_HOPS, Pace::Free(1)),
    row("HTTP/1.1 × 16, one hop", Port::Http, ONE_HOP, Pace::Free(16)),
    row("HTTP/1.1 × 16, two hops", Port::Http, TWO_HOPS, Pace::Free(16)),
    row("HTTP/1.1 × 64, one hop", Port::Http, ONE_HOP, Pace::Free(64)),
    row("HTTP/1.1 × 64, two hops", Port::Http, TWO_HOPS, Pace::Free(64)),
    row("HTTP/2 × 1, one hop", Port::Http2, ONE_HOP, Pace::Free(1)),
    row("HTTP/2 × 1, two hops", Port::Http2, TWO_HOPS, Pace::Free(1)),
    row("HTTP/2 × 16, one hop", Port::Http2, ONE_HOP, Pace::Free(16)),
    row("HTTP/2 × 16, two hops", Port::Http2, TWO_HOPS, Pace::Free(16)),
    row("HTTP/2 × 64, one hop", Port::Http2, ONE_HOP, Pace::Free(64)),
    row("HTTP/2 × 64, two hops", Port::Http2, TWO_HOPS, Pace::Free(64)),
    row("HTTP/1.1, 500/s, one hop", Port::Http, ONE_HOP, Pace::Rate(500)),
    row("HTTP/1.1, 500/s, two hops", Port::Http, TWO_HOPS, Pace::Rate(500)),
    row("HTTP/1.1, 1000/s, one hop", Port::Http, ONE_HOP, Pace::Rate(1000)),
    row("HTTP/1.1, 1000/s, two hops", Port::Http, TWO_HOPS, Pace::Rate(1000)),
    row("HTTP/2, 500/s, one hop", Port::Http2, ONE_HOP, Pace::Rate(500)),
    row("HTTP/2, 500/s, two hops", Port::Http2, TWO_HOPS, Pace::Rate(500)),
    row("HTTP/2, 1000/s, one hop", Port::Http2, ONE_HOP, Pace::Rate(1000)),
    row("HTTP/2, 1000/s, two hops", Port::Http2, TWO_HOPS, Pace::Rate(1000)),
];

const fn row(name: &'static str, protocol: Port, placement: Placement, pace: Pace) -> Row {
    Row { name, protocol, placement, pace }
}

impl Row {
    pub(super) fn subject(&self) -> Subject {
        match (self.pace, self.protocol) {
            (Pace::Rate(_), _) => Subject::Rate,
            (Pace::Free(_), Port::Http2) => Subject::Http2,
            (Pace::Free(_), _) => Subject::Http1,
        }
    }
}

impl Load for Row {
    fn name(&self) -> &'static str {
        self.name
    }

    fn measure(&self, setup: &Setup, time: Duration) -> Result<Vec<Reading>> {
        let url = format!("http://{}{PATH}", setup.target(self.placement, self.protocol)?);
        let seconds = time.as_secs_f64().to_string();
        let (connections, rate) = match self.pace {
            Pace::Free(connections) => (connections.to_string(), None),
            Pace::Rate(rate) => (AT_RATE.to_string(), Some(rate.to_string())),
        };
        let mut words = vec!["http", &url, "--concurrency", &connections, "--duration", &seconds];
        if self.protocol == Port::Http2 {
            words.push("--http2");
        }
        if let Some(rate) = &rate {
            words.extend(["--rate", rate]);
        }
        let (told, used) = under_load(setup, &words)?;
        readings(&told, used)
    }
}

fn readings(told: &Value, used: Option<f64>) -> Result<Vec<Reading>> {
    let number = |path: &str| told.pointer(path).and_then(Value::as_f64).with_context(|| format!("no {path} in {told}"));
    let answered = number("/statuses/200")?;
    ensure!(answered >= number("/operations")?, "not every answer was 200: {told}");
    let reading = |metric, value| Reading { metric, value };
    let mut readings = vec![
        reading(Metric::PerSecond, number("/per_second")?),
        reading(Metric::P50, number("/latency_us/p50")?),
        reading(Metric::P99, number("/latency_us/p99")?),
    ];
    readings.extend(used.map(|used| reading(Metric::CpuPerRequest, used * 1e6 / answered)));
    Ok(readings)
}
