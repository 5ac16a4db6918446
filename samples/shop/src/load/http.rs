//! `load http`: requests on connections that are kept, in closed loops or at a fixed rate.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    client::conn::{http1, http2},
    header::HOST,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::{Instant, sleep_until};

use super::{Common, Count, open};
use crate::client::{Failure, Outcome};

#[derive(Args, Clone)]
pub(crate) struct Options {
    /// `http://HOST[:PORT]/PATH`
    url: Uri,
    #[command(flatten)]
    pub(super) common: Common,
    /// A new connection for every request
    #[arg(long)]
    no_keep_alive: bool,
    /// Speak HTTP/2 with prior knowledge, one request at a time on each connection
    #[arg(long)]
    http2: bool,
    /// So many requests a second over all connections, evenly spread, however long answers take
    #[arg(long)]
    rate: Option<f64>,
}

/// One connection.
#[derive(Clone)]
pub(super) struct Session {
    options: Options,
    /// When the next request of all connections is due; none in closed loops.
    schedule: Option<Arc<Schedule>>,
}

impl Session {
    pub(super) fn new(options: &Options) -> Self {
        let schedule = options.rate.map(|rate| Arc::new(Schedule { begin: OnceLock::new(), rate, next: AtomicU64::new(0) }));
        Self { options: options.clone(), schedule }
    }

    /// When the next request began, for its latency.
    async fn turn(&self) -> Instant {
        match &self.schedule {
            Some(schedule) => schedule.turn().await,
            None => Instant::now(),
        }
    }
}

struct Schedule {
    /// When the first connection was open.
    begin: OnceLock<Instant>,
    /// Requests a second.
    rate: f64,
    /// The number of the next request.
    next: AtomicU64,
}

impl Schedule {
    /// Waits for a request's turn. One that is late because all connections were busy began when it was due: else the slow
    /// answers that delayed it would not show. How late the timer is, is not the peer's doing.
    async fn turn(&self) -> Instant {
        let begin = *self.begin.get_or_init(Instant::now);
        let due = begin + Duration::from_secs_f64(self.next.fetch_add(1, Relaxed) as f64 / self.rate);
        if Instant::now() > due {
            return due;
        }
        sleep_until(due).await;
        Instant::now()
    }
}

impl super::Session for Session {
    async fn once(&self, count: &mut Count) -> Result<(), Failure> {
        let Options { url, no_keep_alive, .. } = &self.options;
        // In closed loops a connection's first request is measured with what opening it took.
        let mut first = Some(Instant::now());
        let mut sender = self.connect().await?;
        loop {
            sender.ready().await?;
            let turn = self.turn().await;
            let begin = first.take().filter(|_| self.schedule.is_none()).unwrap_or(turn);
            let answer = sender.send(url).await?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await?.to_bytes();
            count.bytes += body.len() as u64;
            *count.statuses.entry(status).or_default() += 1;
            count.done(begin);
            if *no_keep_alive {
                return Ok(());
            }
        }
    }
}

impl Session {
    async fn connect(&self) -> Result<Sender, Failure> {
        let Options { url, http2, .. } = &self.options;
        let stream = TokioIo::new(open(url.host().unwrap_or_default(), url.port_u16().unwrap_or(80)).await?);
        if *http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
            return Ok(Sender { protocol: Protocol::Http2(sender), _driver: Driver(tokio::spawn(connection)) });
        }
        let (sender, connection) = http1::handshake(stream).await?;
        Ok(Sender { protocol: Protocol::Http1(sender), _driver: Driver(tokio::spawn(connection)) })
    }
}

/// An open connection.
struct Sender {
    protocol: Protocol,
    _driver: Driver,
}

enum Protocol {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Sender {
    async fn ready(&mut self) -> Result<(), Failure> {
        match &mut self.protocol {
            Protocol::Http1(sender) => sender.ready().await?,
            Protocol::Http2(sender) => sender.ready().await?,
        }
        Ok(())
    }

    async fn send(&mut self, url: &Uri) -> Result<Response<Incoming>, Failure> {
        let build = |request: hyper::http::request::Builder| {
            request.body(Empty::new()).map_err(|error| Failure::new(Outcome::Other, error.to_string()))
        };
        Ok(match &mut self.protocol {
            Protocol::Http1(sender) => {
                let path = url.path_and_query().map_or("/", |path| path.as_str());
                let host = url.authority().map_or("", |authority| authority.as_str());
                sender.send_request(build(Request::get(path).header(HOST, host))?).await?
            }
            Protocol::Http2(sender) => sender.send_request(build(Request::get(url.clone()))?).await?,
        })
    }
}

/// A connection's task ends with its user.
struct Driver(tokio::task::JoinHandle<hyper::Result<()>>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
