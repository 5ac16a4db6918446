//! `cargo xtask`: everything that a developer or CI does with this repository. One file a command.

mod codegen;
mod workspace;

use anyhow::Result;
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
    Codegen(codegen::Arguments),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Codegen(arguments) => codegen::run(&arguments),
    }
}
