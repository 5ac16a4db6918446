//! `cargo xtask bench`: what the mesh costs, beside no mesh at all and Envoy tunnelling the same path.
//!
//! Read in this order: [`setup`] (a lab for each way to carry traffic), [`rows`] (what is measured under load), [`memory`]
//! and [`handshakes`] (what needs a way of its own), [`sample`] (numbers), [`budget`] and [`table`] (what they are held to);
//! then [`l7`], the same for requests.
//!
//! All labs are up at the same time, and each row is measured on all of them one right after the other, round by round: what
//! the machine does besides hits all alike. The ratios are what counts.

mod budget;
mod envoy;
mod handshakes;
mod l7;
mod memory;
mod proxies;
mod rows;
mod sample;
mod setup;
mod table;

use std::{fs, path::PathBuf, process::Command, thread, time::Duration};

use anyhow::{Context, Result};
use serde_json::json;

use self::{
    sample::{Reading, Sample, Samples},
    setup::{Setup, Variant},
};
use crate::{ebpf, report, tools, workspace};

/// Measure throughput, latency, CPU and memory of the mesh against no mesh and Envoy, and hold them to the budget
///
/// Two simulated nodes on this machine for each. The numbers of one run compare with each other and with nothing else; let
/// the machine do nothing besides. Needs root; leaves nothing behind.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    layer: Option<Layer>,
    #[command(flatten)]
    common: Common,
    /// One short round: to see that everything works, not for figures
    #[arg(long)]
    quick: bool,
    /// Only these measurements
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_enum)]
    only: Vec<Subject>,
}

/// Without a word, it is connections that are measured.
#[derive(clap::Subcommand)]
enum Layer {
    L7(l7::Arguments),
}

/// What all benchmarks want to know.
#[derive(clap::Args)]
struct Common {
    /// Also write every sample and the table to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Against what
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_enum, default_values_t = Variant::ALL)]
    against: Vec<Variant>,
    /// How often each is measured; the table has the medians
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Use the programs in this folder instead of building them for release
    #[arg(long, value_name = "FOLDER")]
    binaries: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Subject {
    /// One connection, as many bytes as go
    Bulk,
    /// One connection, 1 byte there and back
    Rr1,
    /// One connection, 1 KiB there and back
    Rr1k,
    /// HTTP/1.1 over 64 connections that are kept, at layer 4
    Http,
    /// New connections, one byte there and back on each
    Connect,
    /// Fresh mutual TLS handshakes at the port for tunnels
    Handshakes,
    /// Idle, 1 000 and 10 000 idle connections, and after a burst
    Memory,
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Effort {
    rounds: u32,
    /// Of load, for each sample.
    load: Duration,
    /// Before the resident size after a burst is read.
    rest: Duration,
}

/// One kind of load.
trait Load {
    /// Of its row in the table.
    fn name(&self) -> &'static str;
    /// Loads a setup for `time`.
    fn measure(&self, setup: &Setup, time: Duration) -> Result<Vec<Reading>>;
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { layer, common, quick, only } = arguments;
    if let Some(Layer::L7(arguments)) = layer {
        return l7::run(arguments);
    }
    let rounds = |usual| common.rounds.unwrap_or(usual);
    let effort = if *quick {
        Effort { rounds: rounds(1), load: Duration::from_secs(1), rest: Duration::from_secs(20) }
    } else {
        Effort { rounds: rounds(3), load: Duration::from_millis(2500), rest: Duration::from_mins(1) }
    };
    let wanted = |subject: Subject| only.is_empty() || only.contains(&subject);
    let setups = common.set_up(setup::L4)?;

    let mut samples = Samples::default();
    // First, while the proxies have not seen anything else.
    if wanted(Subject::Memory) {
        report::step("memory", || measure_memory(&setups, effort, &mut samples))?;
    }
    for round in 1..=effort.rounds {
        report::step(&format!("round {round} of {}", effort.rounds), || {
            one_round(&setups, effort, round, &wanted, &mut samples)
        })?;
    }
    common.tell(effort.rounds, effort.load, &samples)?;
    report::step("clean up", || setups.into_iter().try_for_each(Setup::down))
}

impl Common {
    /// A lab for each way to carry traffic.
    fn set_up(&self, plan: setup::Plan) -> Result<Vec<Setup>> {
        let Self { json: _, against, rounds: _, binaries } = self;
        let binaries = binaries.clone().map_or_else(programs, |folder| folder.canonicalize().context("no such --binaries"))?;
        let envoy = against.contains(&Variant::Envoy).then(|| tools::find(&tools::ENVOY)).transpose()?;
        let place = setup::Workshop { root: workspace::root()?, binaries, envoy, plan };
        report::step("labs", || {
            let up = |variant: &Variant| {
                report::waiting(&format!("two nodes with {}", variant.text()), || Setup::up(*variant, &place))
                    .with_context(|| format!("the lab with {}", variant.text()))
            };
            against.iter().map(up).collect()
        })
    }

    /// The table, and the file if one is wanted.
    fn tell(&self, rounds: u32, load: Duration, samples: &Samples) -> Result<()> {
        let lines = table::lines(samples);
        println!("{}", table::render(&lines, &self.against));
        if let Some(file) = &self.json {
            let seconds = load.as_secs_f64();
            let text = json!({ "machine": machine()?, "rounds": rounds, "seconds": seconds, "table": lines, "samples": samples });
            workspace::write_atomically(file, serde_json::to_string_pretty(&text)?.as_bytes())?;
            report::note(format_args!("{} samples in {}", samples.len(), file.display()));
        }
        Ok(())
    }
}

fn one_round(
    setups: &[Setup],
    effort: Effort,
    round: u32,
    wanted: &dyn Fn(Subject) -> bool,
    samples: &mut Samples,
) -> Result<()> {
    for row in rows::ROWS.iter().filter(|row| wanted(row.subject)) {
        measure_all(row, setups, effort.load, round, samples)?;
    }
    if wanted(Subject::Handshakes) {
        let alone = handshakes::in_memory(&setups[0], effort.load)?;
        for setup in setups.iter().filter(|setup| setup.variant != Variant::None) {
            let found = handshakes::measure(setup, effort.load, &alone)
                .with_context(|| format!("handshakes with {}", setup.variant.text()))?;
            keep(found, handshakes::ROW, setup.variant, round, samples);
        }
    }
    Ok(())
}

/// One load on all setups, one right after the other.
fn measure_all(load: &impl Load, setups: &[Setup], time: Duration, round: u32, samples: &mut Samples) -> Result<()> {
    for setup in setups {
        let failed = || format!("{} with {}", load.name(), setup.variant.text());
        if round == 1 {
            // Connections, certificates and caches stand before the clock starts.
            load.measure(setup, Duration::from_millis(300)).with_context(failed)?;
        }
        let found = load.measure(setup, time).with_context(failed)?;
        keep(found, load.name(), setup.variant, round, samples);
    }
    Ok(())
}

fn measure_memory(setups: &[Setup], effort: Effort, samples: &mut Samples) -> Result<()> {
    let meshes: Vec<&Setup> = setups.iter().filter(|setup| setup.variant != Variant::None).collect();
    let mut idle = Vec::new();
    for setup in &meshes {
        let (before, found) =
            report::waiting(&format!("10 000 connections through {}", setup.variant.text()), || memory::fill(setup))
                .with_context(|| format!("idle connections with {}", setup.variant.text()))?;
        keep(found, memory::ROW, setup.variant, 1, samples);
        idle.push(before);
    }
    if meshes.is_empty() {
        return Ok(());
    }
    report::waiting(&format!("resting for {} s", effort.rest.as_secs()), || thread::sleep(effort.rest));
    for (setup, before) in meshes.into_iter().zip(idle) {
        keep(memory::after_burst(setup, &before)?, memory::ROW, setup.variant, 1, samples);
    }
    Ok(())
}

/// Tells what was found, and adds it to the samples.
fn keep(found: Vec<Reading>, row: &'static str, variant: Variant, round: u32, samples: &mut Samples) {
    let values: Vec<String> =
        found.iter().map(|reading| format!("{} {}", sample::figure(reading.value), reading.metric.unit())).collect();
    report::note(format_args!("{row:<28} {:<9} {}", variant.text(), values.join(", ")));
    samples.extend(found.into_iter().map(|reading| Sample::new(round, row, variant, reading)));
}

/// Builds what is measured, for release; the folder where it is.
fn programs() -> Result<PathBuf> {
    let root = workspace::root()?;
    report::step("kernel object", || ebpf::object(&root).map(drop))?;
    report::step("programs, for release", || {
        let mut cargo = workspace::cargo();
        cargo.current_dir(&root).args(["build", "--release", "--quiet", "--locked"]);
        for package in ["mesh-node", "mesh-controller", "meshctl", "shop", "harness", "interop-tests"] {
            cargo.args(["--package", package]);
        }
        workspace::run(cargo.arg("--bins"))
    })?;
    Ok(workspace::target(&root).join("release"))
}

/// What the figures depend on besides the programs.
fn machine() -> Result<serde_json::Value> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    Ok(json!({
        "kernel": workspace::output(Command::new("uname").arg("-r"))?,
        "cpu": model.trim_start_matches([' ', '\t', ':']),
        "cores": thread::available_parallelism()?,
    }))
}
