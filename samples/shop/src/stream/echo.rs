//! Ports for measuring and for bulk: one returns what it gets, one swallows it and tells how much, one produces.

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::serve::{self, Ending};

/// A multiple of 251, so that the pattern goes on across blocks.
const BLOCK: usize = 251 * 256;

#[derive(Args)]
pub(crate) struct Options {
    /// Returns every byte; ends when the client has ended
    #[arg(long, default_value_t = 9001)]
    echo: u16,
    /// Swallows every byte; when the client has ended, tells the number in one line
    #[arg(long, default_value_t = 9002)]
    sink: u16,
    /// Reads a number in one line and sends as many bytes; without end after 0
    #[arg(long, default_value_t = 9003)]
    source: u16,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let (echo, sink, source) = (serve::listen(options.echo)?, serve::listen(options.sink)?, serve::listen(options.source)?);
    eprintln!("listening: echo {}, sink {}, source {}", options.echo, options.sink, options.source);
    tokio::try_join!(
        serve::connections(echo, |stream, _, ending| until(ending, return_all(stream))),
        serve::connections(sink, |stream, _, ending| until(ending, swallow(stream))),
        serve::connections(source, |stream, _, ending| until(ending, produce(stream))),
    )?;
    Ok(())
}

async fn until(mut ending: Ending, work: impl Future<Output = std::io::Result<()>>) {
    tokio::select! {
        // A client that goes away in the middle is ordinary here.
        _ = work => {}
        () = ending.wait() => {}
    }
}

async fn return_all(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            count => stream.write_all(&buffer[..count]).await?,
        }
    }
}

async fn swallow(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0u64;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            count => total += count as u64,
        }
    }
    stream.write_all(format!("{total}\n").as_bytes()).await?;
    stream.shutdown().await
}

async fn produce(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream).take(32).read_line(&mut line).await?;
    let mut left = match line.trim().parse::<u64>() {
        Ok(0) => u64::MAX,
        Ok(size) => size,
        Err(_) => return stream.write_all(b"not a number\n").await,
    };
    let block: Bytes = super::pattern(BLOCK);
    while left > 0 {
        let part = left.min(BLOCK as u64) as usize;
        stream.write_all(&block[..part]).await?;
        left -= part as u64;
    }
    stream.shutdown().await
}
