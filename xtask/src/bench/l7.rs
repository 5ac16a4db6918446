//! `cargo xtask bench l7`: what requests cost, beside no mesh at all and Envoys doing the same work.
//!
//! The same work: [`manifest`] and [`envoy`] say the same twice, once in Istio's words and once in Envoy's. A request is matched
//! against two routes, has a timeout and retries, is judged by client, method and path, counted and logged; between nodes it
//! goes under mutual TLS by two proxies, to the server beside the client by one.

mod envoy;
mod manifest;
mod memory;
mod rows;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub(super) use self::memory::{ONE_HOP, TWO_HOPS};
use super::{
    Common, keep, measure_all,
    sample::Samples,
    setup::{Plan, Setup, Variant},
};
use crate::report;

/// Measure what requests cost: HTTP/1.1 and HTTP/2, through one proxy and two, with routes, retries, policy and mutual TLS
///
/// Against no mesh and against Envoys that do the same. As with `bench`, the numbers of one run compare with each other and with
/// nothing else. Needs root; leaves nothing behind.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Of load, for each sample
    #[arg(long, default_value_t = 2.5)]
    seconds: f64,
    /// Only these measurements
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_enum)]
    only: Vec<Subject>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Subject {
    /// HTTP/1.1 over 1, 16 and 64 connections that are kept, as fast as it goes
    Http1,
    /// HTTP/2 over as many
    Http2,
    /// 500 and 1000 requests a second, both protocols
    Rate,
    /// 10 000 idle connections
    Memory,
}

const PLAN: Plan = Plan { prefix: "l7", manifest: manifest::text, envoys: envoy::start };

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { common, seconds, only } = arguments;
    ensure!((0.1..=600.0).contains(seconds), "--seconds {seconds}: from 0.1 to 600");
    let (rounds, time) = (common.rounds.unwrap_or(3), Duration::from_secs_f64(*seconds));
    let wanted = |subject: Subject| only.is_empty() || only.contains(&subject);
    let mut setups = common.set_up(PLAN)?;

    let mut samples = Samples::default();
    if wanted(Subject::Memory) {
        report::step("memory", || measure_memory(&mut setups, &mut samples))?;
    }
    for round in 1..=rounds {
        report::step(&format!("round {round} of {rounds}"), || {
            for row in rows::ROWS.iter().filter(|row| wanted(row.subject())) {
                measure_all(row, &setups, time, round, &mut samples)?;
                setups.iter().try_for_each(Setup::empty_logs)?;
            }
            Ok(())
        })?;
    }
    common.tell(rounds, time, &samples)?;
    report::step("clean up", || setups.into_iter().try_for_each(Setup::down))
}

fn measure_memory(setups: &mut [Setup], samples: &mut Samples) -> Result<()> {
    for (row, placement) in memory::PLACEMENTS {
        for setup in setups.iter_mut().filter(|setup| setup.variant != Variant::None) {
            let text = setup.variant.text();
            // What an earlier burst has left to a process is used again by the next one, and would not show.
            setup.renew().with_context(|| format!("new proxies with {text}"))?;
            let found = report::waiting(&format!("10 000 connections through {text}"), || memory::measure(setup, placement))
                .with_context(|| format!("idle connections with {text}"))?;
            keep(found, row, setup.variant, 1, samples);
        }
    }
    Ok(())
}

/// Of the rows under load.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    rows::ROWS.iter().map(|row| row.name)
}
