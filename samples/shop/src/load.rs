//! Load: as fast as it goes or at a rate, over a number of connections, for a time; one JSON object at the end.
//!
//! Closed loops, unless HTTP has a rate: every connection asks again when its answer has come. Latencies are exact (all are
//! kept), in microseconds.

mod http;

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    client::{Failure, Outcome},
    fetch, stream,
};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// HTTP requests on connections that are kept
    Http(http::Options),
    /// New connections to an echo port, one byte there and back on each
    Connect(Tcp),
    /// Bytes there and back on connections that are kept, to an echo port
    Rr(Rr),
    /// As many bytes as go to a sink port, or from a source port
    Bulk(Bulk),
}

#[derive(Args, Clone)]
pub(crate) struct Common {
    /// How many connections at the same time
    #[arg(long, short = 'c', default_value_t = 1)]
    concurrency: usize,
    /// For how long, in seconds
    #[arg(long, short, default_value_t = 5.0)]
    duration: f64,
}

#[derive(Args, Clone)]
pub(crate) struct Tcp {
    /// The host
    host: String,
    /// Its port
    port: u16,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Clone)]
pub(crate) struct Rr {
    #[command(flatten)]
    tcp: Tcp,
    /// How many bytes each way
    #[arg(long, default_value_t = 1)]
    size: usize,
}

#[derive(Args, Clone)]
pub(crate) struct Bulk {
    #[command(flatten)]
    tcp: Tcp,
    /// Read from a source port instead of writing to a sink port
    #[arg(long)]
    down: bool,
}

pub(crate) async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Http(options) => {
            let session = http::Session::new(&options);
            many(&options.common, |until| sessions(session.clone(), until)).await
        }
        Command::Connect(options) => {
            let common = options.common.clone();
            many(&common, |until| sessions(options.clone(), until)).await
        }
        Command::Rr(options) => {
            let common = options.tcp.common.clone();
            many(&common, |until| sessions(options.clone(), until)).await
        }
        Command::Bulk(options) => {
            let common = options.tcp.common.clone();
            many(&common, |until| bulk(options.clone(), until)).await
        }
    }
}

/// What one connection, or all together, did.
#[derive(Default)]
struct Count {
    latencies: Vec<u32>,
    bytes: u64,
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<&'static str, u64>,
    example: Option<String>,
}

impl Count {
    fn done(&mut self, begin: Instant) {
        self.latencies.push(begin.elapsed().as_micros().min(u128::from(u32::MAX)) as u32);
    }

    fn failed(&mut self, failure: Failure) {
        *self.errors.entry(failure.outcome.name()).or_default() += 1;
        self.example.get_or_insert(failure.text);
    }

    fn add(&mut self, other: Self) {
        let Self { latencies, bytes, statuses, errors, example } = other;
        self.latencies.extend(latencies);
        self.bytes += bytes;
        for (status, count) in statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (error, count) in errors {
            *self.errors.entry(error).or_default() += count;
        }
        self.example = self.example.take().or(example);
    }
}

/// The report.
#[derive(Serialize)]
struct Report {
    seconds: f64,
    operations: usize,
    per_second: f64,
    bytes: u64,
    gigabits_per_second: f64,
    latency_us: BTreeMap<&'static str, u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    example: Option<String>,
}

async fn many<F>(common: &Common, work: impl Fn(Instant) -> F) -> Result<ExitCode>
where
    F: Future<Output = Count> + Send + 'static,
{
    let begin = Instant::now();
    let until = begin + Duration::from_secs_f64(common.duration);
    let mut tasks: JoinSet<Count> = (0..common.concurrency).map(|_| work(until)).collect();
    let mut total = Count::default();
    while let Some(count) = tasks.join_next().await {
        total.add(count?);
    }
    let seconds = begin.elapsed().as_secs_f64();
    total.latencies.sort_unstable();
    let operations = total.latencies.len();
    // Of every ten thousand.
    let points = [("p50", 5_000), ("p90", 9_000), ("p99", 9_900), ("p999", 9_990), ("max", 10_000)];
    let percentile = |share: usize| total.latencies.get(operations * share / 10_000).or(total.latencies.last()).copied();
    let latency_us = points.into_iter().filter_map(|(name, share)| Some((name, percentile(share)?))).collect();
    let code = if total.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let report = Report {
        seconds,
        operations,
        per_second: operations as f64 / seconds,
        bytes: total.bytes,
        gigabits_per_second: total.bytes as f64 * 8e-9 / seconds,
        latency_us,
        statuses: total.statuses,
        errors: total.errors,
        example: total.example,
    };
    println!("{}", serde_json::to_string(&report).context("a report is plain data")?);
    Ok(code)
}

/// What one connection does from its beginning to its end.
trait Session: Send + 'static {
    fn once(&self, count: &mut Count) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Repeats `session` until the time is over; a failed one is counted and followed by a new one.
async fn sessions(session: impl Session, until: Instant) -> Count {
    let mut count = Count::default();
    while Instant::now() < until {
        match timeout_at(until, session.once(&mut count)).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => {
                count.failed(failure);
                // A refused connection costs next to nothing: without a pause it would be a busy loop.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // Cut off in the middle by the end of the measurement: neither a success nor a failure.
            Err(_) => break,
        }
    }
    count
}

/// `load connect`.
impl Session for Tcp {
    async fn once(&self, count: &mut Count) -> Result<(), Failure> {
        let begin = Instant::now();
        let mut stream = open(&self.host, self.port).await?;
        stream.write_all(b"x").await?;
        stream.read_exact(&mut [0]).await?;
        count.bytes += 1;
        count.done(begin);
        Ok(())
    }
}

impl Session for Rr {
    async fn once(&self, count: &mut Count) -> Result<(), Failure> {
        let question = stream::pattern(self.size);
        let mut answer = vec![0; self.size];
        let mut stream = open(&self.tcp.host, self.tcp.port).await?;
        loop {
            let begin = Instant::now();
            let (mut reader, mut writer) = stream.split();
            tokio::try_join!(writer.write_all(&question), reader.read_exact(&mut answer))?;
            count.bytes += self.size as u64;
            count.done(begin);
        }
    }
}

async fn bulk(options: Bulk, until: Instant) -> Count {
    let mut count = Count::default();
    let begin = Instant::now();
    let outcome =
        if options.down { pull(&options.tcp, until, &mut count).await } else { push(&options.tcp, until, &mut count).await };
    match outcome {
        Ok(()) => count.done(begin),
        Err(failure) => count.failed(failure),
    }
    count
}

/// Counts what the sink says that it got, not what was handed to the kernel.
async fn push(options: &Tcp, until: Instant, count: &mut Count) -> Result<(), Failure> {
    let block = vec![0x5a; 128 << 10];
    let mut stream = open(&options.host, options.port).await?;
    while Instant::now() < until {
        stream.write_all(&block).await?;
    }
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    count.bytes = answer.trim().parse().map_err(|_| Failure::new(Outcome::Eof, "the sink told no number"))?;
    Ok(())
}

async fn pull(options: &Tcp, until: Instant, count: &mut Count) -> Result<(), Failure> {
    let mut buffer = vec![0; 256 << 10];
    let mut stream = open(&options.host, options.port).await?;
    stream.write_all(b"0\n").await?;
    while Instant::now() < until {
        match stream.read(&mut buffer).await? {
            0 => return Err(Failure::new(Outcome::Eof, "the source ended")),
            size => count.bytes += size as u64,
        }
    }
    Ok(())
}

async fn open(host: &str, port: u16) -> Result<tokio::net::TcpStream, Failure> {
    fetch::connect(host, port).await.map_err(|error| match error.downcast::<std::io::Error>() {
        Ok(inner) => inner.into(),
        Err(error) => Failure::new(Outcome::Resolve, format!("{error:#}")),
    })
}
