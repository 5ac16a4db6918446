//! Requests with ids, by the thousand, and servers that write down which of them they got.
//!
//! ```text
//! tally serve PORT NAME FILE
//! tally ask HTTP1 HTTP2 PREFIX COUNT RATE
//! ```
//!
//! A server appends a line to its file for every request that has come whole. After SIGTERM it goes on for a while, as those
//! who have not heard of it yet may still ask; then it says goodbye on every connection, and ends with the last one.
//! `ask` sends `COUNT` requests at up to `RATE` a second to two ports of one service: GET, POST and PUT over HTTP/1.1, GET, POST
//! and gRPC's form over HTTP/2, with bodies of several sizes. What each answer says is checked against what was asked; the
//! outcome is printed as JSON.

use std::{
    convert::Infallible,
    fs::{File, OpenOptions},
    io::Write,
    net::{Ipv6Addr, SocketAddr},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client, server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// For one request.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of a server that was told to go: until then everybody has heard of it.
const HEARD: Duration = Duration::from_secs(3);
/// Askers of one process, each with a connection of either version.
const ASKERS: u64 = 16;
/// The last one is more than the mesh remembers of a body to send it again.
const SIZES: [usize; 6] = [0, 1, 100, 1_000, 10_000, 100_000];
const GRPC: &str = "application/grpc";

const ID: HeaderName = HeaderName::from_static("x-id");
const VERSION: HeaderName = HeaderName::from_static("x-version");
const ATTEMPT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", port, name, file] => serve(port.parse()?, (*name).to_owned(), file).await,
        ["ask", http1, http2, prefix, count, rate] => {
            ask([http1.parse()?, http2.parse()?], (*prefix).to_owned(), count.parse()?, rate.parse()?).await
        }
        _ => bail!("tally serve PORT NAME FILE, or tally ask HTTP1 HTTP2 PREFIX COUNT RATE"),
    }
}

/// Of a body (FNV-1a).
fn sum(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn body(frames: Vec<Frame<Bytes>>) -> Body {
    StreamBody::new(tokio_stream::iter(frames.into_iter().map(Ok))).boxed_unsync()
}

struct Server {
    name: String,
    file: Mutex<File>,
}

async fn serve(port: u16, name: String, file: &str) -> Result<()> {
    let mut told_to_go = signal(SignalKind::terminate())?;
    let going = async move {
        told_to_go.recv().await;
        tokio::time::sleep(HEARD).await;
    };
    let mut going = pin!(going);
    let file = OpenOptions::new().create(true).append(true).open(file).with_context(|| file.to_owned())?;
    let this = Arc::new(Server { name, file: Mutex::new(file) });
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await?;
    let (goodbye, leave) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            Some(_) = connections.join_next() => continue,
            () = &mut going => break,
        };
        let (this, leave) = (this.clone(), leave.clone());
        connections.spawn(async move {
            if let Err(error) = connection(stream, this, leave).await {
                eprintln!("{error:#}");
            }
        });
    }
    drop(listener);
    drop(goodbye);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Serves until the client ends, or `leave` is closed and what is open has been answered.
async fn connection(stream: TcpStream, this: Arc<Server>, mut leave: watch::Receiver<()>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0; 3];
    loop {
        match stream.peek(&mut first).await? {
            0 => return Ok(()),
            3.. => break,
            _ => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    let service = service_fn(move |request| {
        let this = this.clone();
        async move { this.answer(request).await }
    });
    let io = TokioIo::new(stream);
    if &first == b"PRI" {
        let mut serving = pin!(server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service));
        tokio::select! {
            ended = &mut serving => return Ok(ended?),
            _ = leave.changed() => serving.as_mut().graceful_shutdown(),
        }
        Ok(serving.await?)
    } else {
        let mut serving = pin!(server::conn::http1::Builder::new().serve_connection(io, service));
        tokio::select! {
            ended = &mut serving => return Ok(ended?),
            _ = leave.changed() => serving.as_mut().graceful_shutdown(),
        }
        Ok(serving.await?)
    }
}

impl Server {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>> {
        let (head, incoming) = request.into_parts();
        let data = incoming.collect().await?.to_bytes();
        let field = |name: &HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        let (id, version, attempt) = (field(&ID), field(&VERSION), field(&ATTEMPT));
        let said = format!("{id} {} {} {} {:016x}", head.method, head.uri.path(), data.len(), sum(&data));
        let line = format!("{said} {} {version} {attempt}\n", self.name);
        self.file.lock().expect("no panic").write_all(line.as_bytes())?;

        let mut frames = vec![Frame::data(Bytes::from(format!("{said}\n"))), Frame::data(data)];
        let mut response = Response::builder().header(ID, id);
        if field(&header::CONTENT_TYPE) == GRPC {
            response = response.header(header::CONTENT_TYPE, GRPC);
            let status = (HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
            frames.push(Frame::trailers(HeaderMap::from_iter([status])));
        }
        Ok(response.body(body(frames))?)
    }
}

/// What the askers share.
struct Asking {
    targets: [SocketAddr; 2],
    prefix: String,
    count: u64,
    begun: Instant,
    rate: u64,
    next: AtomicU64,
    failed: Mutex<Vec<String>>,
}

async fn ask(targets: [SocketAddr; 2], prefix: String, count: u64, rate: u64) -> Result<()> {
    let (next, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let asking = Arc::new(Asking { targets, prefix, count, begun: Instant::now(), rate, next, failed });
    let askers: Vec<_> = (0..ASKERS).map(|_| tokio::spawn(one_asks(asking.clone()))).collect();
    for asker in askers {
        asker.await?;
    }
    let failed = asking.failed.lock().expect("no panic");
    let some: Vec<&String> = failed.iter().take(10).collect();
    println!("{}", json!({ "asked": count, "failed": failed.len(), "such as": some }));
    Ok(())
}

async fn one_asks(asking: Arc<Asking>) {
    let (mut http1, mut http2) = (None, None);
    loop {
        let number = asking.next.fetch_add(1, Relaxed);
        if number >= asking.count {
            return;
        }
        sleep_until(asking.begun + Duration::from_micros(number * 1_000_000 / asking.rate)).await;
        let asked = Asked::new(&asking.prefix, number);
        let done = timeout(PATIENCE, asked.exchange(asking.targets, &mut http1, &mut http2)).await;
        if let Err(error) = done.map_err(anyhow::Error::from).and_then(|done| done) {
            // What is left of the connection is of no use to the next one.
            *(if asked.over_http2 { &mut http2 } else { &mut http1 }) = None;
            asking.failed.lock().expect("no panic").push(format!("{} {}: {error:#}", asked.id, asked.method));
        }
    }
}

enum Sender {
    Http1(client::conn::http1::SendRequest<Body>),
    Http2(client::conn::http2::SendRequest<Body>),
}

/// One request.
struct Asked {
    id: String,
    method: Method,
    over_http2: bool,
    grpc: bool,
    path: &'static str,
    data: Bytes,
}

impl Asked {
    fn new(prefix: &str, number: u64) -> Self {
        let (method, over_http2, grpc) = match number % 6 {
            0 => (Method::GET, false, false),
            1 => (Method::POST, false, false),
            2 => (Method::PUT, false, false),
            3 => (Method::GET, true, false),
            4 => (Method::POST, true, false),
            _ => (Method::POST, true, true),
        };
        let path = ["/red", "/blue", "/either"][(number / 6 % 3) as usize];
        // Big ones are rare.
        let size = SIZES[if number.is_multiple_of(17) { 5 } else { (number / 18 % 5) as usize }];
        let size = if method == Method::GET { 0 } else { size };
        let data: Vec<u8> = (0..size as u64).map(|at| (at.wrapping_mul(number | 1) >> 3) as u8).collect();
        let data = if grpc { [&[0], &(size as u32).to_be_bytes()[..], &data].concat() } else { data };
        Self { id: format!("{prefix}-{number}"), method, over_http2, grpc, path, data: data.into() }
    }

    fn request(&self, target: SocketAddr) -> Result<Request<Body>> {
        let mut builder = Request::builder().method(self.method.clone()).header(ID, &self.id);
        builder = if self.over_http2 {
            builder.uri(format!("http://{target}{}", self.path))
        } else {
            builder.uri(self.path).header(header::HOST, target.to_string())
        };
        if self.grpc {
            builder = builder.header(header::CONTENT_TYPE, GRPC).header(header::TE, "trailers");
        }
        let frames = if self.data.is_empty() { Vec::new() } else { vec![Frame::data(self.data.clone())] };
        // PUT goes in chunks, of no length that is known before.
        if self.method == Method::POST && !self.grpc {
            builder = builder.header(header::CONTENT_LENGTH, self.data.len());
        }
        Ok(builder.body(body(frames))?)
    }

    async fn exchange(&self, targets: [SocketAddr; 2], http1: &mut Option<Sender>, http2: &mut Option<Sender>) -> Result<()> {
        let (target, place) = if self.over_http2 { (targets[1], http2) } else { (targets[0], http1) };
        if place.is_none() {
            *place = Some(open(target, self.over_http2).await?);
        }
        let request = self.request(target)?;
        let response = match place.as_mut().expect("just opened") {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => sender.send_request(request).await?,
        };
        let (head, incoming) = response.into_parts();
        let whole = incoming.collect().await.context("in the answer's body")?;
        let grpc_status = whole.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
        let data = whole.to_bytes();
        // In gRPC's form, what the mesh has to say is in the head.
        let refused = head.headers.get("grpc-status").map(|status| (status, head.headers.get("grpc-message")));
        ensure!(refused.is_none(), "the call ended with {refused:?}");
        ensure!(head.status == 200, "{} {:?}", head.status, String::from_utf8_lossy(&data[..data.len().min(200)]));
        let said = format!("{} {} {} {} {:016x}\n", self.id, self.method, self.path, self.data.len(), sum(&self.data));
        let rest = data.strip_prefix(said.as_bytes());
        ensure!(
            rest == Some(&self.data[..]),
            "another one's answer: {:?}",
            String::from_utf8_lossy(&data[..data.len().min(200)])
        );
        ensure!(!self.grpc || grpc_status.is_some_and(|status| status == "0"), "no status in trailers");
        Ok(())
    }
}

async fn open(target: SocketAddr, over_http2: bool) -> Result<Sender> {
    let stream = TcpStream::connect(target).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let io = TokioIo::new(stream);
    Ok(if over_http2 {
        let (sender, connection) = client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        Sender::Http2(sender)
    } else {
        let (sender, connection) = client::conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        Sender::Http1(sender)
    })
}
