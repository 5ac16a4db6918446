//! What connections cost that have carried a request and wait for the next.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{
    super::{
        Load,
        memory::{Held, MANY, each, settled},
        sample::{Metric, Reading},
        setup::{Placement, Port, Setup},
    },
    manifest::PATH,
    rows::ROWS,
};

pub(in super::super) const ONE_HOP: &str = "memory, HTTP/1.1, one hop";
pub(in super::super) const TWO_HOPS: &str = "memory, HTTP/1.1, two hops";

pub(super) const PLACEMENTS: [(&str, Placement); 2] = [(ONE_HOP, Placement::SameNode), (TWO_HOPS, Placement::OtherNode)];

/// Opens 10 000 connections and closes them.
pub(super) fn measure(setup: &Setup, placement: Placement) -> Result<Vec<Reading>> {
    // Code, certificates and tunnels that any traffic brings in are not what a connection costs.
    for row in ROWS {
        row.measure(setup, Duration::from_millis(100))?;
    }
    let proxies = setup.proxies()?.context("no mesh has no proxies")?;
    let before = settled(&proxies)?;
    let target = setup.target(placement, Port::Http)?.to_string();
    let held = Held::open(setup, &target, MANY, &["--get", PATH])?;
    let after = settled(&proxies)?;
    drop(held);
    let mut readings = vec![
        Reading { metric: Metric::Idle, value: before.larger() },
        Reading { metric: Metric::Client10k, value: each(after.0, before.0, MANY) },
    ];
    // On one node there is no other end.
    if placement == Placement::OtherNode {
        readings.push(Reading { metric: Metric::Server10k, value: each(after.1, before.1, MANY) });
    }
    Ok(readings)
}
