//! `meshctl`: asks the nodes of a mesh what they know and do, and tells them what to do.
//!
//! A command finds its nodes ([`discover`]), asks each of them over the unix socket in its runtime directory
//! ([`client`], [`enrolment`]), joins the answers ([`merge`]) and prints them ([`output`], [`table`]). Questions about routes and
//! policies are put ([`ask`]) to a model ([`mesh`]): a node's, or that of manifests ([`files`]). In a cluster ([`k8s`]) the nodes are
//! reached through its API server; there the mesh is installed and removed ([`install`]) and looked over ([`check`]).

mod answer;
mod ask;
mod check;
mod cli;
mod client;
mod commands;
mod discover;
mod enrolment;
mod expect;
mod files;
mod filter;
mod install;
mod k8s;
mod log_filter;
mod merge;
mod mesh;
mod output;
#[cfg(test)]
mod samples;
mod table;
mod words;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::{
    cli::{Cli, Command},
    discover::Search,
    output::{Printer, ReaderGone},
};

/// Whether all nodes that were meant had their say. What went wrong with the others is on standard error by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Complete,
    Partial,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let printer = Printer::new(cli.global.output, cli.global.no_color);
    match start(cli, &printer) {
        Ok(Outcome::Complete) => ExitCode::SUCCESS,
        Ok(Outcome::Partial) => ExitCode::FAILURE,
        Err(error) if error.is::<ReaderGone>() => ExitCode::SUCCESS,
        Err(error) => {
            printer.error(&error);
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli, printer: &Printer) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(cli, printer))
}

async fn run(cli: Cli, printer: &Printer) -> Result<Outcome> {
    let search = Search::new(cli.global);
    match cli.command {
        Command::Status => commands::status(&search.find().await?, printer).await,
        Command::Workloads(filter) => commands::workloads(&search.find().await?, filter, printer).await,
        Command::Services(filter) => commands::services(&search.find().await?, filter, printer).await,
        Command::Policies(filter) => commands::policies(&search.find().await?, filter, printer).await,
        Command::Pods(filter) => commands::pods(&search.find().await?, filter, printer).await,
        Command::Connections(filter) => commands::connections(&search.find().await?, filter, printer).await,
        Command::Certificates(filter) => commands::certificates(&search.find().await?, filter, printer).await,
        Command::Explain(arguments) => commands::explain(&search, arguments, printer).await,
        Command::Routes(arguments) => commands::routes(&search, arguments, printer).await,
        Command::Test(arguments) => commands::test(&arguments, printer),
        Command::Analyze(arguments) => commands::analyze(&arguments, printer),
        Command::ConfigDump => commands::config_dump(&search.find().await?, printer).await,
        Command::Log { change } => commands::log(&search.find().await?, change, printer).await,
        Command::Drain { all } => commands::drain(&search, all, printer).await,
        Command::Enrol(pod) => commands::enrol(&search.find().await?, pod, printer).await,
        Command::Unenrol(pod) => commands::unenrol(&search.find().await?, pod, printer).await,
        Command::Install(arguments) => commands::install(arguments, &search.cluster, printer).await,
        Command::Upgrade(arguments) => commands::upgrade(arguments, &search.cluster, printer).await,
        Command::Uninstall(arguments) => commands::uninstall(arguments, &search.cluster, printer).await,
        Command::Check(arguments) => commands::check(&arguments, &search, printer).await,
        Command::BugReport(arguments) => commands::bug_report(arguments, &search, printer).await,
        Command::Completion { shell } => commands::completion(shell),
        Command::Version => commands::version(&search, printer).await,
    }
}
