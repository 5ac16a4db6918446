//! gRPC's four kinds of calls and its ways to end one, as tonic's server and client do them.
//!
//! ```text
//! grpc-peer serve PORT
//! grpc-peer ask ADDRESS:PORT
//! ```
//!
//! `ask` tries everything once and prints `ok`, or what was not as it should be.

use std::{
    convert::Infallible,
    net::Ipv6Addr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    client, server,
    transport::{Channel, Endpoint, Server},
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

/// Longer than any call takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Numbers of a unary call that are not simply answered.
const MISSING: u64 = 404;
const NEVER: u64 = 1_000_000;

#[derive(Clone, PartialEq, prost::Message)]
struct Note {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

fn note(number: u64, size: usize) -> Note {
    let data = (0..size).map(|at| (at as u64).wrapping_mul(number | 1) as u8).collect();
    Note { number, data }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", port] => {
            let server = Server::builder().add_service(Interop::default());
            Ok(server.serve((Ipv6Addr::UNSPECIFIED, port.parse()?).into()).await?)
        }
        ["ask", target] => {
            ask(target).await?;
            println!("ok");
            Ok(())
        }
        _ => bail!("grpc-peer serve PORT, or grpc-peer ask ADDRESS:PORT"),
    }
}

/// The server; its clones count together.
#[derive(Clone, Debug, Default)]
struct Interop {
    /// Calls that are never answered: begun, and given up.
    begun: Arc<AtomicU64>,
    given_up: Arc<AtomicU64>,
}

impl server::NamedService for Interop {
    const NAME: &'static str = "keelson.test.Interop";
}

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;
type Notes = Pin<Box<dyn Stream<Item = Result<Note, Status>> + Send>>;

fn codec() -> ProstCodec<Note, Note> {
    ProstCodec::default()
}

impl Service<http::Request<Body>> for Interop {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering {
        let this = self.clone();
        Box::pin(async move {
            let mut grpc = server::Grpc::new(codec());
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            Ok(match method.as_str() {
                "Unary" => {
                    let unary = |request: Request<Note>| {
                        let this = this.clone();
                        async move { this.unary(request).await }
                    };
                    grpc.unary(service_fn(unary), request).await
                }
                "Collect" => grpc.client_streaming(service_fn(collect), request).await,
                "Count" => grpc.server_streaming(service_fn(count), request).await,
                "Chat" => grpc.streaming(service_fn(chat), request).await,
                _ => Status::unimplemented(method).into_http(),
            })
        })
    }
}

/// Counts the end of a call that nobody answers.
struct GivenUp(Arc<AtomicU64>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Interop {
    async fn unary(self, request: Request<Note>) -> Result<Response<Note>, Status> {
        let tag = request.metadata().get("x-tag").cloned();
        let Note { number, mut data } = request.into_inner();
        match number {
            MISSING => {
                let mut status = Status::not_found("no such note: 100 % ünknown");
                status.metadata_mut().insert("x-why", "never written".parse().expect("text"));
                return Err(status);
            }
            NEVER => {
                self.begun.fetch_add(1, SeqCst);
                let _given_up = GivenUp(self.given_up.clone());
                std::future::pending::<()>().await;
            }
            // Asks after those.
            0 => return Ok(Response::new(Note { number: self.begun.load(SeqCst) << 32 | self.given_up.load(SeqCst), data })),
            _ => data.reverse(),
        }
        let mut response = Response::new(Note { number: number + 1, data });
        if let Some(tag) = tag {
            response.metadata_mut().insert("x-tag", tag);
        }
        Ok(response)
    }
}

async fn collect(request: Request<Streaming<Note>>) -> Result<Response<Note>, Status> {
    let (mut notes, mut sum, mut size) = (request.into_inner(), 0, 0);
    while let Some(note) = notes.message().await? {
        sum += note.number;
        size += note.data.len() as u64;
    }
    Ok(Response::new(Note { number: sum, data: size.to_be_bytes().to_vec() }))
}

/// As many as wanted, and then an error if that is an odd number.
async fn count(request: Request<Note>) -> Result<Response<Notes>, Status> {
    let wanted = request.into_inner().number;
    let last = (wanted % 2 == 1).then(|| Err(Status::data_loss("odd")));
    let notes = (0..wanted).map(|number| Ok(note(number, 1_000))).chain(last);
    Ok(Response::new(Box::pin(tokio_stream::iter(notes))))
}

/// Each one comes back as soon as it has come.
async fn chat(request: Request<Streaming<Note>>) -> Result<Response<Notes>, Status> {
    let notes = request.into_inner().map(|note| note.map(|Note { number, data }| Note { number: number + 1, data }));
    Ok(Response::new(Box::pin(notes)))
}

type Client = client::Grpc<Channel>;

fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(method)
}

async fn unary(mut client: Client, request: Request<Note>) -> Result<Response<Note>, Status> {
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    client.unary(request, path("/keelson.test.Interop/Unary"), codec()).await
}

async fn ask(target: &str) -> Result<()> {
    let channel = Endpoint::from_shared(format!("http://{target}"))?.connect().await?;
    let client = client::Grpc::new(channel);
    let cases = async {
        sizes(&client).await.context("unary calls")?;
        streams(&client).await.context("streams")?;
        errors(&client).await.context("errors")?;
        deadlines(&client).await.context("deadlines")?;
        cancels(&client).await.context("cancelling")
    };
    tokio::time::timeout(4 * PATIENCE, cases).await.context("no end")?
}

async fn sizes(client: &Client) -> Result<()> {
    for size in [0, 1, 10_000, 70_000, 3_000_000] {
        let asked = note(7, size);
        let mut request = Request::new(asked.clone());
        request.metadata_mut().insert("x-tag", "seven".parse()?);
        let response = unary(client.clone(), request).await?;
        ensure!(response.metadata().get("x-tag").is_some_and(|tag| tag == "seven"), "{:?}", response.metadata());
        let Note { number, mut data } = response.into_inner();
        data.reverse();
        ensure!(number == 8 && data == asked.data, "{size} bytes: {number}, {} bytes", data.len());
    }
    Ok(())
}

async fn streams(client: &Client) -> Result<()> {
    let mut client = client.clone();
    client.ready().await?;
    let notes = tokio_stream::iter((0..1_000).map(|number| note(number, 500)));
    let all = client.client_streaming(Request::new(notes), path("/keelson.test.Interop/Collect"), codec()).await?.into_inner();
    ensure!(all == Note { number: 499_500, data: 500_000_u64.to_be_bytes().to_vec() }, "collected {}", all.number);

    client.ready().await?;
    let wanted = Request::new(note(1_000, 0));
    let mut notes = client.server_streaming(wanted, path("/keelson.test.Interop/Count"), codec()).await?.into_inner();
    for number in 0..1_000 {
        ensure!(notes.message().await? == Some(note(number, 1_000)), "counted {number}");
    }
    ensure!(notes.message().await?.is_none(), "more than were wanted");

    client.ready().await?;
    let (send, notes) = mpsc::channel(1);
    let sent = Request::new(ReceiverStream::new(notes));
    // The first one goes out before the answer begins: a server may wait for it.
    send.send(note(0, 10)).await?;
    let mut heard = client.streaming(sent, path("/keelson.test.Interop/Chat"), codec()).await?.into_inner();
    for number in 0..100 {
        let came = heard.message().await?.context("an end")?;
        ensure!(came.number == number + 1, "{} after {number}", came.number);
        if number < 99 {
            send.send(note(number + 1, 10)).await?;
        }
    }
    drop(send);
    ensure!(heard.message().await?.is_none(), "more than was sent");
    Ok(())
}

async fn errors(client: &Client) -> Result<()> {
    // In the answer's head alone: trailers only.
    let status = unary(client.clone(), Request::new(note(MISSING, 10))).await.err().context("an answer")?;
    ensure!(status.code() == Code::NotFound && status.message() == "no such note: 100 % ünknown", "{status:?}");
    ensure!(status.metadata().get("x-why").is_some_and(|why| why == "never written"), "{status:?}");

    // In trailers, after messages.
    let mut client = client.clone();
    client.ready().await?;
    let wanted = Request::new(note(5, 0));
    let mut notes = client.server_streaming(wanted, path("/keelson.test.Interop/Count"), codec()).await?.into_inner();
    for number in 0..5 {
        ensure!(notes.message().await? == Some(note(number, 1_000)), "counted {number}");
    }
    let status = notes.message().await.err().context("a good end")?;
    ensure!(status.code() == Code::DataLoss && status.message() == "odd", "{status:?}");

    client.ready().await?;
    let nothing = client.unary::<Note, Note, _>(Request::new(note(1, 0)), path("/keelson.test.Interop/None"), codec()).await;
    let status = nothing.err().context("an answer")?;
    ensure!(status.code() == Code::Unimplemented && status.message() == "None", "{status:?}");
    Ok(())
}

/// Calls begun and given up that nobody answers.
async fn never(client: &Client) -> Result<(u64, u64)> {
    let Note { number, .. } = unary(client.clone(), Request::new(note(0, 0))).await?.into_inner();
    Ok((number >> 32, number & u64::from(u32::MAX)))
}

async fn until_never(client: &Client, begun: u64, given_up: u64) -> Result<()> {
    let told = async {
        while never(client).await? != (begun, given_up) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(PATIENCE, told).await {
        Ok(told) => told,
        Err(_) => bail!("waited for {begun} begun and {given_up} given up; there are {:?}", never(client).await?),
    }
}

async fn deadlines(client: &Client) -> Result<()> {
    let (begun, given_up) = never(client).await?;
    let mut request = Request::new(note(NEVER, 0));
    request.set_timeout(Duration::from_millis(300));
    let status = unary(client.clone(), request).await.err().context("an answer")?;
    // Whoever looks at its clock first.
    ensure!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    until_never(client, begun + 1, given_up + 1).await
}

async fn cancels(client: &Client) -> Result<()> {
    let (begun, given_up) = never(client).await?;
    let call = tokio::spawn(unary(client.clone(), Request::new(note(NEVER, 0))));
    until_never(client, begun + 1, given_up).await.context("the call")?;
    call.abort();
    until_never(client, begun + 1, given_up + 1).await.context("its end")
}
