//! What connections cost while nothing moves on them, and what stays when they have gone.

use std::{
    io::{BufRead, BufReader},
    process::Child,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    Load, Subject,
    proxies::Proxies,
    rows::ROWS,
    sample::{Metric, Reading},
    setup::{Placement, Port, Setup, all_open},
};

pub(super) const ROW: &str = "memory";

const FEW: f64 = 1_000.0;
pub(super) const MANY: f64 = 10_000.0;
/// New connections a second: a burst that no listener's queue overflows from.
const RATE: &str = "2500";
/// For buffers of the handshakes to be given back, on either end.
const SETTLE: Duration = Duration::from_secs(3);

/// Resident bytes of the client's proxy and of the server's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resident(pub(super) f64, pub(super) f64);

/// Opens 10 000 connections to the other node and closes them; what was resident before, and the readings.
pub(super) fn fill(setup: &Setup) -> Result<(Resident, Vec<Reading>)> {
    // Code and tunnels that any traffic brings in are not what a connection costs.
    for row in ROWS.iter().filter(|row| row.subject == Subject::Rr1) {
        row.measure(setup, Duration::from_millis(200))?;
    }
    let proxies = setup.proxies()?.context("no mesh has no proxies")?;
    let before = settled(&proxies)?;
    let target = setup.target(Placement::OtherNode, Port::Echo)?.to_string();
    let line = ["--line", "x"];
    let few = Held::open(setup, &target, FEW, &line)?;
    let at_few = settled(&proxies)?;
    let more = Held::open(setup, &target, MANY - FEW, &line)?;
    let at_many = settled(&proxies)?;
    drop((few, more));

    let reading = |metric, value| Reading { metric, value };
    let readings = vec![
        reading(Metric::Idle, before.larger()),
        reading(Metric::Client1k, each(at_few.0, before.0, FEW)),
        reading(Metric::Server1k, each(at_few.1, before.1, FEW)),
        reading(Metric::Client10k, each(at_many.0, before.0, MANY)),
        reading(Metric::Server10k, each(at_many.1, before.1, MANY)),
    ];
    Ok((before, readings))
}

/// KiB for one of `count` connections.
pub(super) fn each(after: f64, before: f64, count: f64) -> f64 {
    (after - before) / count / 1024.0
}

/// What is resident now; `before` is what was before the burst.
pub(super) fn after_burst(setup: &Setup, before: &Resident) -> Result<Vec<Reading>> {
    let proxies = setup.proxies()?.context("no mesh has no proxies")?;
    let (client, server) = proxies.resident()?;
    let now = Resident(client, server);
    Ok(vec![
        Reading { metric: Metric::AfterBurst, value: now.larger() },
        Reading { metric: Metric::BurstOverIdle, value: (now.0 / before.0).max(now.1 / before.1) },
    ])
}

impl Resident {
    /// In MB.
    pub(super) fn larger(&self) -> f64 {
        self.0.max(self.1) / 1e6
    }
}

pub(super) fn settled(proxies: &Proxies) -> Result<Resident> {
    thread::sleep(SETTLE);
    let (client, server) = proxies.resident()?;
    Ok(Resident(client, server))
}

/// Idle connections, as long as this lives.
pub(super) struct Held(Child);

impl Held {
    /// Each has carried what `exchange` says there and back when this returns.
    pub(super) fn open(setup: &Setup, target: &str, count: f64, exchange: &[&str]) -> Result<Self> {
        let count = count.to_string();
        let hold = ["shop", "client", "hold", target, "--count", &count, "--rate", RATE, "--timeout", "60"];
        let mut held = Self(setup.spawn(&[&hold, exchange].concat())?);
        let output = held.0.stdout.take().context("the standard output is a pipe")?;
        all_open(BufReader::new(output).lines())?;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
