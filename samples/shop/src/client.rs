//! A client that tells of each request what became of it, for people and for tests.
//!
//! With `-o json` it prints one object a line. The exit status is 0 if every request went well, else that of the first
//! kind of failure seen (see [`Outcome::exit_code`]).

mod hold;
mod http;
mod outcome;
mod tcp;

use std::{
    fmt::Write as _,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

pub(crate) use self::{
    outcome::{Failure, Outcome},
    tcp::hex,
};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Ask by HTTP/1.1
    Http(http::Options),
    /// Connect, say something, read the answer
    Tcp(tcp::Options),
    /// Hold connections open and tell which of them break
    Hold(hold::Options),
}

pub(crate) async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Http(options) => http::run(options).await,
        Command::Tcp(options) => tcp::run(options).await,
        Command::Hold(options) => hold::run(options).await,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// How many requests, how fast, and how to tell.
#[derive(Args, Clone)]
pub(crate) struct Schedule {
    /// How many requests
    #[arg(long, short = 'n', default_value_t = 1)]
    count: u64,
    /// How many at the same time
    #[arg(long, short = 'c', default_value_t = 1)]
    concurrency: u64,
    /// At most so many a second, evenly spread; without, as fast as it goes
    #[arg(long)]
    rate: Option<f64>,
    /// How long one request may take, in seconds
    #[arg(long, default_value_t = 5.0)]
    timeout: f64,
    /// How to print results
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

impl Schedule {
    fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout)
    }
}

/// What became of one request. Times are in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Record {
    /// From 0, in the order of the requests' beginnings.
    pub(crate) seq: u64,
    pub(crate) outcome: Outcome,
    /// The HTTP status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    /// How much was read: the body, or all bytes of a TCP answer.
    pub(crate) bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
    /// Until the connection stood; absent if one was used again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connect_us: Option<u64>,
    pub(crate) latency_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) local: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remote: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) headers: Option<std::collections::BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

impl Record {
    fn fail(&mut self, failure: Failure) {
        self.outcome = failure.outcome;
        self.error = Some(failure.text);
    }

    fn print(&self, format: Format) {
        match format {
            Format::Json => println!("{}", serde_json::to_string(self).expect("a record is plain data")),
            Format::Text => println!("{}", self.text()),
        }
    }

    fn text(&self) -> String {
        let mut text = format!("{:>5} {:<11}", self.seq, self.outcome.name());
        if let Some(status) = self.status {
            let _ = write!(text, " {status}");
        }
        let _ = write!(text, " {} bytes {:.1} ms", self.bytes, self.latency_us as f64 / 1000.0);
        if let Some(error) = &self.error {
            let _ = write!(text, ": {error}");
        }
        if let Some(body) = &self.body {
            let _ = write!(text, "\n{}", body.trim_end());
        }
        text
    }
}

/// Makes the scheduled requests, each worker with a state of its own, and prints every record as it comes.
async fn repeat<W>(schedule: &Schedule, worker: impl Fn() -> W) -> Result<ExitCode>
where
    W: Worker,
{
    let begin = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let (sender, mut records) = mpsc::unbounded_channel();
    for _ in 0..schedule.concurrency.min(schedule.count) {
        let (next, sender, schedule, mut worker) = (next.clone(), sender.clone(), schedule.clone(), worker());
        tokio::spawn(async move {
            loop {
                let seq = next.fetch_add(1, Ordering::Relaxed);
                if seq >= schedule.count {
                    return;
                }
                if let Some(rate) = schedule.rate {
                    sleep_until(begin + Duration::from_secs_f64(seq as f64 / rate)).await;
                }
                let start = Instant::now();
                let mut record = worker.ask(schedule.timeout()).await;
                record.seq = seq;
                record.latency_us = start.elapsed().as_micros() as u64;
                if sender.send(record).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut code = ExitCode::SUCCESS;
    let mut failed = false;
    while let Some(record) = records.recv().await {
        if !failed && !record.outcome.good() {
            failed = true;
            code = record.outcome.exit_code();
        }
        record.print(schedule.output);
    }
    Ok(code)
}

/// Makes requests one after the other.
trait Worker: Send + 'static {
    /// One request; its sequence number and latency are filled in by the caller.
    fn ask(&mut self, patience: Duration) -> impl Future<Output = Record> + Send;
}
