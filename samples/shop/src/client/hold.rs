//! `client hold`: many connections, open for long; tells when one breaks.
//!
//! Prints `{"event":"open",…}` when all are open, `{"event":"closed",…}` for each that ends before its time, and
//! `{"event":"end",…}`. It ends by SIGTERM, Ctrl-C or after `--duration`. The exit status is 0 if all held.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{Failure, Outcome, Record, tcp};
use crate::serve::terminated;

#[derive(Args, Clone)]
pub(crate) struct Options {
    /// `HOST:PORT`
    target: String,
    /// How many connections
    #[arg(long, short = 'n', default_value_t = 1)]
    count: u64,
    /// At most so many new ones a second
    #[arg(long)]
    rate: Option<f64>,
    /// How long a connection may take to open, and a line to be answered, in seconds
    #[arg(long, default_value_t = 5.0)]
    timeout: f64,
    /// How long to hold them, in seconds; without, until SIGTERM
    #[arg(long)]
    duration: Option<f64>,
    /// A line that each sends when open and once more at the end, and that must be answered by a line
    #[arg(long)]
    line: Option<String>,
    /// The path of a request by HTTP/1.1 in place of a line, to be answered with 200
    #[arg(long, value_name = "PATH", conflicts_with = "line")]
    get: Option<String>,
}

/// What a connection tells.
enum News {
    Opened,
    Failed(Failure),
    Broken(Failure),
    Held,
}

pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    let options = Arc::new(options);
    let (news, mut heard) = mpsc::unbounded_channel();
    let (end, ending) = watch::channel(());
    let mut tasks = JoinSet::new();
    let begin = Instant::now();
    for number in 0..options.count {
        let (options, news, ending) = (options.clone(), news.clone(), ending.clone());
        tasks.spawn(async move {
            if let Some(rate) = options.rate {
                sleep_until(begin + Duration::from_secs_f64(number as f64 / rate)).await;
            }
            let last = hold(&options, &news, ending).await;
            let _ = news.send(last);
        });
    }
    drop((news, ending));

    let mut tally = Tally::default();
    while tally.opened + tally.failed < options.count {
        let Some(news) = heard.recv().await else { break };
        tally.hear(news);
    }
    println!("{}", json!({ "event": "open", "open": tally.opened - tally.broken, "failed": tally.failed }));

    let over = async {
        match options.duration {
            Some(seconds) => sleep(Duration::from_secs_f64(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    let mut terminated = std::pin::pin!(terminated());
    loop {
        tokio::select! {
            () = &mut over => break,
            result = &mut terminated => {
                result?;
                break;
            }
            next = heard.recv() => match next {
                Some(news) => tally.hear(news),
                None => break,
            }
        }
    }
    drop(end);
    while let Some(news) = heard.recv().await {
        tally.hear(news);
    }
    println!("{}", json!({ "event": "end", "held": tally.held, "broken": tally.broken, "failed": tally.failed }));
    Ok(tally.first.map_or(ExitCode::SUCCESS, Outcome::exit_code))
}

#[derive(Default)]
struct Tally {
    opened: u64,
    failed: u64,
    broken: u64,
    held: u64,
    first: Option<Outcome>,
}

impl Tally {
    fn hear(&mut self, news: News) {
        let (event, failure) = match news {
            News::Opened => {
                self.opened += 1;
                return;
            }
            News::Held => {
                self.held += 1;
                return;
            }
            News::Failed(failure) => {
                self.failed += 1;
                ("failed", failure)
            }
            News::Broken(failure) => {
                self.broken += 1;
                ("closed", failure)
            }
        };
        self.first.get_or_insert(failure.outcome);
        println!("{}", json!({ "event": event, "outcome": failure.outcome, "error": failure.text }));
    }
}

async fn hold(options: &Options, news: &mpsc::UnboundedSender<News>, mut ending: watch::Receiver<()>) -> News {
    let patience = Duration::from_secs_f64(options.timeout);
    let opened = bounded(patience, async {
        let mut stream = BufReader::new(tcp::connect(&options.target, &mut Record::default()).await?);
        exchange(&mut stream, options).await?;
        Ok(stream)
    });
    let mut stream = match opened.await {
        Ok(stream) => stream,
        Err(failure) => return News::Failed(failure),
    };
    let _ = news.send(News::Opened);
    tokio::select! {
        // Nothing is expected: whatever comes is the end, or out of turn.
        read = stream.fill_buf() => return News::Broken(match read {
            Ok([]) => Failure::new(Outcome::Eof, "the peer ended"),
            Ok(bytes) => Failure::new(Outcome::Protocol, format!("{} bytes out of turn", bytes.len())),
            Err(error) => error.into(),
        }),
        _ = ending.changed() => {}
    }
    match bounded(patience, exchange(&mut stream, options)).await {
        Ok(()) => News::Held,
        Err(failure) => News::Broken(failure),
    }
}

async fn exchange(stream: &mut BufReader<TcpStream>, options: &Options) -> Result<(), Failure> {
    let Options { target, line, get, .. } = options;
    if let Some(path) = get {
        return request(stream, target, path).await;
    }
    let Some(line) = line else { return Ok(()) };
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    read_line(stream).await.map(drop)
}

/// By hand: of ten thousand connections none shall cost more than its socket.
async fn request(stream: &mut BufReader<TcpStream>, host: &str, path: &str) -> Result<(), Failure> {
    let wrong = |text: &str| Failure::new(Outcome::Protocol, text);
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await?;
    let status = read_line(stream).await?;
    if status.split(' ').nth(1) != Some("200") {
        return Err(Failure::new(Outcome::Status, status.trim()));
    }
    let mut length = None;
    loop {
        let field = read_line(stream).await?;
        let field = field.trim_end();
        if field.is_empty() {
            break;
        }
        let (name, value) = field.split_once(':').ok_or_else(|| wrong(field))?;
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        }
    }
    let mut body = vec![0; length.ok_or_else(|| wrong("an answer without content-length"))?];
    stream.read_exact(&mut body).await?;
    Ok(())
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> Result<String, Failure> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(Failure::new(Outcome::Eof, "the peer ended instead of answering"));
    }
    Ok(line)
}

async fn bounded<T>(patience: Duration, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(patience, work).await.unwrap_or_else(|_| Err(Failure::new(Outcome::Timeout, format!("nothing for {patience:?}"))))
}
