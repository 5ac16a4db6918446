//! A small book shop to try a mesh with: the services of one page, a TCP ledger, and clients that tell what happened.
//!
//! ```text
//! client ──▶ page ──▶ details
//!               └───▶ reviews (v1; v2 and v3 ──▶ ratings)
//! client ──▶ ledger (lines over TCP)
//! ```
//!
//! One program, a role by its first argument. Nothing is stored, nothing but the service addresses is configured.

mod client;
mod collector;
mod common;
mod fetch;
mod instance;
mod load;
mod serve;
mod shop;
mod stream;
mod trace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "A small book shop to try a mesh with", max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// The page that a visitor sees: asks details and reviews
    Page(shop::page::Options),
    /// What is known about a book
    Details(shop::details::Options),
    /// What readers think of it; versions v2 and v3 ask ratings
    Reviews(shop::reviews::Options),
    /// How many stars they gave
    Ratings(shop::ratings::Options),
    /// A line protocol over TCP
    Ledger(stream::ledger::Options),
    /// Ports that return, swallow and produce bytes
    Echo(stream::echo::Options),
    /// Ask once or many times and tell of each request what became of it
    #[command(subcommand)]
    Client(client::Command),
    /// Ask as fast as it goes and tell the rate and the latencies
    #[command(subcommand)]
    Load(load::Command),
    /// Take spans by OTLP over gRPC and print each
    Collector(collector::Options),
    /// Do nothing: a pod to run other programs in
    Idle,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(arguments.role))
}

async fn run(role: Role) -> Result<ExitCode> {
    match role {
        Role::Page(options) => shop::page::run(options).await?,
        Role::Details(options) => shop::details::run(options).await?,
        Role::Reviews(options) => shop::reviews::run(options).await?,
        Role::Ratings(options) => shop::ratings::run(options).await?,
        Role::Ledger(options) => stream::ledger::run(options).await?,
        Role::Echo(options) => stream::echo::run(options).await?,
        Role::Client(command) => return client::run(command).await,
        Role::Load(command) => return load::run(command).await,
        Role::Collector(options) => collector::run(options).await?,
        Role::Idle => serve::terminated().await?,
    }
    Ok(ExitCode::SUCCESS)
}
