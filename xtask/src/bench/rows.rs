//! What is measured under load: `shop load` in the client's pod for a time, and what the proxies used meanwhile.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    Load, Subject,
    sample::{Metric, Reading},
    setup::{Placement, Port, Setup},
};

/// One kind of load to one server.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) subject: Subject,
    placement: Placement,
}

pub(super) const ROWS: &[Row] = &[
    Row { name: "bulk, same node", subject: Subject::Bulk, placement: Placement::SameNode },
    Row { name: "bulk, other node", subject: Subject::Bulk, placement: Placement::OtherNode },
    Row { name: "1 B, same node", subject: Subject::Rr1, placement: Placement::SameNode },
    Row { name: "1 B, other node", subject: Subject::Rr1, placement: Placement::OtherNode },
    Row { name: "1 KiB, same node", subject: Subject::Rr1k, placement: Placement::SameNode },
    Row { name: "1 KiB, other node", subject: Subject::Rr1k, placement: Placement::OtherNode },
    Row { name: "HTTP × 64, same node", subject: Subject::Http, placement: Placement::SameNode },
    Row { name: "HTTP × 64, other node", subject: Subject::Http, placement: Placement::OtherNode },
    Row { name: "connect, same node", subject: Subject::Connect, placement: Placement::SameNode },
    Row { name: "connect, other node", subject: Subject::Connect, placement: Placement::OtherNode },
];

impl Load for Row {
    fn name(&self) -> &'static str {
        self.name
    }

    fn measure(&self, setup: &Setup, time: Duration) -> Result<Vec<Reading>> {
        let port = match self.subject {
            Subject::Bulk => Port::Sink,
            Subject::Http => Port::Http,
            _ => Port::Echo,
        };
        let target = setup.target(self.placement, port)?;
        let (host, port) = (target.ip().to_string(), target.port().to_string());
        let (url, seconds) = (format!("http://{target}/healthz"), time.as_secs_f64().to_string());
        let load: &[&str] = match self.subject {
            Subject::Bulk => &["bulk", &host, &port],
            Subject::Rr1k => &["rr", &host, &port, "--size", "1024"],
            Subject::Http => &["http", &url, "--concurrency", "64"],
            Subject::Connect => &["connect", &host, &port, "--concurrency", "16"],
            _ => &["rr", &host, &port],
        };
        let (told, used) = under_load(setup, &[load, &["--duration", &seconds]].concat())?;
        self.readings(&told, used)
    }
}

/// Runs `shop load` in the client's pod; what it told, and the CPU seconds of the proxies meanwhile.
pub(super) fn under_load(setup: &Setup, words: &[&str]) -> Result<(Value, Option<f64>)> {
    let proxies = setup.proxies()?;
    let cpu = || proxies.map(|proxies| proxies.cpu_seconds()).transpose();
    let before = cpu()?;
    let told = setup.ask(&[&["shop", "load"], words].concat())?;
    Ok((told, cpu()?.zip(before).map(|(after, before)| after - before)))
}

impl Row {
    fn readings(&self, told: &Value, used: Option<f64>) -> Result<Vec<Reading>> {
        let number = |path: &str| told.pointer(path).and_then(Value::as_f64).with_context(|| format!("no {path} in {told}"));
        let (operations, gigabytes) = (number("/operations")?, number("/bytes")? / 1e9);
        let reading = |metric, value| Reading { metric, value };
        let (mut readings, cpu) = match self.subject {
            Subject::Bulk => {
                let rate = reading(Metric::GigabitsPerSecond, number("/gigabits_per_second")?);
                (vec![rate], used.map(|used| reading(Metric::CpuPerGigabyte, used / gigabytes)))
            }
            Subject::Connect => {
                let rate = reading(Metric::PerSecond, number("/per_second")?);
                (vec![rate], used.map(|used| reading(Metric::CpuPerConnection, used * 1e3 / operations)))
            }
            subject => {
                let mut readings =
                    vec![reading(Metric::P50, number("/latency_us/p50")?), reading(Metric::P99, number("/latency_us/p99")?)];
                if subject == Subject::Http {
                    readings.insert(0, reading(Metric::PerSecond, number("/per_second")?));
                }
                (readings, used.map(|used| reading(Metric::CpuPerRequest, used * 1e6 / operations)))
            }
        };
        readings.extend(cpu);
        Ok(readings)
    }
}
