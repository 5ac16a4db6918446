//! `cargo xtask`: everything that a developer or CI does with this repository. One file a command.

mod apt;
mod bench;
mod cluster;
mod codegen;
mod conformance;
mod demo;
mod ebpf;
mod fuzz;
mod go;
mod image;
mod kernels;
mod kind;
mod lab;
mod manifests;
mod report;
mod task;
mod test;
mod tidy;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, test, generate and try Keelson.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Bench(bench::Arguments),
    BuildEbpf(ebpf::Arguments),
    Cluster(cluster::Arguments),
    Codegen(codegen::Arguments),
    Conformance(conformance::Arguments),
    Demo(demo::Arguments),
    Fuzz(fuzz::Arguments),
    Image(image::Arguments),
    Kind(kind::Arguments),
    Lab(lab::Arguments),
    Manifests(manifests::Arguments),
    Task(task::Arguments),
    Test(test::Arguments),
    Tidy(tidy::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Bench(arguments) => bench::run(&arguments),
        Command::BuildEbpf(arguments) => ebpf::run(&arguments),
        Command::Cluster(arguments) => cluster::run(&arguments),
        Command::Codegen(arguments) => codegen::run(&arguments),
        Command::Conformance(arguments) => conformance::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Image(arguments) => image::run(&arguments),
        Command::Kind(arguments) => kind::run(&arguments),
        Command::Lab(arguments) => lab::run(arguments),
        Command::Manifests(arguments) => manifests::run(&arguments),
        Command::Task(arguments) => task::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Tidy(arguments) => tidy::run(&arguments),
    };
    result.map_or_else(|error| report::failure(&error), |()| ExitCode::SUCCESS)
}
