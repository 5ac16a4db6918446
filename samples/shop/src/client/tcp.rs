//! `client tcp`: connect, say something, read what comes back.

use std::{fmt::Write as _, net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};

use super::{Failure, Outcome, Record, Schedule, Worker, repeat};
use crate::stream;

/// So much of an answer is shown with `--body`.
const SHOWN: usize = 64 << 10;

#[derive(Args, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Options {
    /// `HOST:PORT`, `[ADDRESS]:PORT`, with or without `tcp://` before it
    target: String,
    #[command(flatten)]
    schedule: Schedule,
    /// A line to send
    #[arg(long, default_value = "WHOAMI", conflicts_with_all = ["bytes", "connect_only"])]
    send: String,
    /// So many bytes of the shop's pattern to send instead
    #[arg(long)]
    bytes: Option<usize>,
    /// Only connect
    #[arg(long)]
    connect_only: bool,
    /// Read a line before sending: the server speaks first
    #[arg(long)]
    banner: bool,
    /// Close the sending side after sending, and read to the end
    #[arg(long, conflicts_with = "connect_only")]
    half_close: bool,
    /// Read so many bytes instead of a line
    #[arg(long, conflicts_with = "half_close")]
    expect_bytes: Option<u64>,
    /// Show what was read
    #[arg(long)]
    body: bool,
}

pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    let schedule = options.schedule.clone();
    let payload = match options.bytes {
        Some(size) => stream::pattern(size),
        None => Bytes::from(format!("{}\n", options.send)),
    };
    repeat(&schedule, || Dialogue { options: options.clone(), payload: payload.clone() }).await
}

struct Dialogue {
    options: Options,
    payload: Bytes,
}

/// When an answer is complete.
enum Extent {
    Line,
    Bytes(u64),
    End,
}

impl Worker for Dialogue {
    async fn ask(&mut self, patience: Duration) -> Record {
        let mut record = Record::default();
        let mut answer = Answer::default();
        let talk = timeout(patience, self.talk(&mut record, &mut answer)).await;
        record.bytes = answer.size;
        if answer.size > 0 {
            record.sha256 = Some(hex(&answer.digest.finalize()));
            record.body = self.options.body.then(|| String::from_utf8_lossy(&answer.beginning).into_owned());
        }
        match talk {
            Ok(Ok(outcome)) => record.outcome = outcome,
            Ok(Err(failure)) => record.fail(failure),
            Err(_) => record.fail(Failure::new(Outcome::Timeout, format!("nothing for {patience:?}"))),
        }
        record
    }
}

impl Dialogue {
    async fn talk(&self, record: &mut Record, answer: &mut Answer) -> Result<Outcome, Failure> {
        let mut stream = connect(&self.options.target, record).await?;
        if self.options.banner {
            answer.read(&mut stream, Extent::Line).await?;
        }
        if self.options.connect_only {
            return Ok(Outcome::Connected);
        }
        let extent = match self.options.expect_bytes {
            Some(size) => Extent::Bytes(answer.size + size),
            None if self.options.half_close => Extent::End,
            None => Extent::Line,
        };
        // At the same time: a peer that answers as it reads would stop reading when nobody takes its answers.
        let (mut reader, mut writer) = stream.split();
        let send = async {
            writer.write_all(&self.payload).await?;
            if self.options.half_close {
                writer.shutdown().await?;
            }
            Ok::<_, Failure>(())
        };
        tokio::try_join!(send, answer.read(&mut reader, extent))?;
        Ok(Outcome::Ok)
    }
}

/// Connects to the first address of the target that accepts, and notes both ends.
pub(super) async fn connect(target: &str, record: &mut Record) -> Result<TcpStream, Failure> {
    let target = target.strip_prefix("tcp://").unwrap_or(target);
    let begin = Instant::now();
    let addresses = lookup_host(target).await.map_err(|error| Failure::new(Outcome::Resolve, format!("{target}: {error}")))?;
    let mut last = Failure::new(Outcome::Resolve, format!("{target} has no address"));
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                record.connect_us = Some(begin.elapsed().as_micros() as u64);
                record.local = stream.local_addr().ok().as_ref().map(SocketAddr::to_string);
                // As the application sees it, which is what a mesh has to keep up.
                record.remote = stream.peer_addr().ok().as_ref().map(SocketAddr::to_string);
                return Ok(stream);
            }
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// What was read so far.
#[derive(Default)]
struct Answer {
    size: u64,
    digest: Sha256,
    beginning: Vec<u8>,
}

impl Answer {
    async fn read(&mut self, reader: &mut (impl AsyncReadExt + Unpin), extent: Extent) -> Result<(), Failure> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Extent::Bytes(size) = extent
                && self.size >= size
            {
                return Ok(());
            }
            let count = reader.read(&mut buffer).await?;
            if count == 0 {
                return match extent {
                    Extent::End => Ok(()),
                    Extent::Line | Extent::Bytes(_) => {
                        Err(Failure::new(Outcome::Eof, format!("the peer ended after {} bytes", self.size)))
                    }
                };
            }
            self.take(&buffer[..count]);
            if matches!(extent, Extent::Line) && buffer[..count].contains(&b'\n') {
                return Ok(());
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.digest.update(bytes);
        let room = SHOWN.saturating_sub(self.beginning.len());
        self.beginning.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
