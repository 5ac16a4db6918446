//! A line protocol over TCP, for everything that is not HTTP.
//!
//! | line | answer |
//! |---|---|
//! | `ADD text` | `OK n`, the number of entries so far, of this process |
//! | `LIST` | every entry, then `.` |
//! | `WHOAMI` | JSON: the peer's address as the socket has it, who answers |
//! | `QUIT` | `BYE`, and the connection ends |
//! | anything else | `ECHO` and the line |
//!
//! With `--banner` the server speaks first, as mail and database servers do. A client that has closed its side still gets
//! every answer.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::{instance::Instance, serve};

/// A line longer than this ends the connection.
const LONGEST: u64 = 64 << 10;

#[derive(Args)]
pub(crate) struct Options {
    /// Where to listen, on all addresses of both IP versions
    #[arg(long, default_value_t = 9000)]
    port: u16,
    /// What to call this version of the service
    #[arg(long, default_value = "v1")]
    version: String,
    /// Speak first
    #[arg(long)]
    banner: bool,
}

type Entries = Arc<Mutex<Vec<String>>>;

pub(crate) async fn run(options: Options) -> Result<()> {
    let instance = Instance::new("ledger", &options.version);
    let entries = Entries::default();
    let listener = serve::listen(options.port)?;
    eprintln!("listening on port {}", options.port);
    serve::connections(listener, move |stream, peer, mut ending| {
        let (instance, entries) = (instance.clone(), entries.clone());
        async move {
            eprintln!("connection from {peer}");
            let outcome = tokio::select! {
                outcome = converse(stream, peer, &instance, &entries, options.banner) => outcome,
                () = ending.wait() => Ok(()),
            };
            if let Err(error) = outcome {
                eprintln!("{peer}: {error}");
            }
        }
    })
    .await
}

async fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    instance: &Instance,
    entries: &Entries,
    banner: bool,
) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    if banner {
        writer.write_all(format!("HELLO ledger {} {}\n", instance.version, instance.pod).as_bytes()).await?;
    }
    let mut line = String::new();
    loop {
        line.clear();
        if (&mut reader).take(LONGEST).read_line(&mut line).await? == 0 {
            break;
        }
        let (answer, last) = answer(line.trim_end(), peer, instance, entries);
        writer.write_all(answer.as_bytes()).await?;
        if last {
            break;
        }
    }
    writer.shutdown().await
}

/// What to say to a line, and whether that was all.
fn answer(line: &str, peer: SocketAddr, instance: &Instance, entries: &Entries) -> (String, bool) {
    let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
    let text = match line.split_once(' ').unwrap_or((line, "")) {
        ("ADD", entry) => {
            entries.push(entry.to_owned());
            format!("OK {}\n", entries.len())
        }
        ("LIST", "") => entries.iter().map(|entry| format!("{entry}\n")).chain([".\n".to_owned()]).collect(),
        ("WHOAMI", "") => format!("{}\n", json!({ "peer": peer.to_string(), "peer_ip": peer.ip(), "instance": instance })),
        ("QUIT", "") => return ("BYE\n".to_owned(), true),
        _ => format!("ECHO {line}\n"),
    };
    (text, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_keeps_entries() {
        let (instance, entries) = (Instance::new("ledger", "v1"), Entries::default());
        let check = |line: &str, expected: &str, last: bool| {
            assert_eq!(answer(line, "10.0.0.1:5".parse().unwrap(), &instance, &entries), (expected.to_owned(), last), "{line}");
        };
        check("ADD two books", "OK 1\n", false);
        check("ADD three", "OK 2\n", false);
        check("LIST", "two books\nthree\n.\n", false);
        check("hello", "ECHO hello\n", false);
        check("QUIT", "BYE\n", true);
    }
}
