//! HTTP/1.1 with a node's admin endpoint: over its unix socket, or a port that the cluster forwards.

use std::{future::Future, io, path::Path, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    task::JoinSet,
    time::timeout,
};

use crate::{
    Outcome,
    discover::{Admin, Node},
    output::Printer,
};

/// A node that is alive answers within milliseconds; this is for one that hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// # Errors
///
/// When nobody answers at the socket, or with something else than 200 and the JSON that is expected.
pub(crate) async fn get<T: DeserializeOwned>(node: &Node, path: &str) -> Result<T> {
    let body = exchange(&node.admin, Method::GET, path).await?;
    serde_json::from_slice(&body)
        .with_context(|| format!("the answer to GET {path} is not what this meshctl ({}) understands", env!("CARGO_PKG_VERSION")))
}

/// Like [`get`], for text.
pub(crate) async fn get_text(node: &Node, path: &str) -> Result<String> {
    text(&exchange(&node.admin, Method::GET, path).await?)
}

/// Like [`get`], for bytes.
pub(crate) async fn get_bytes(node: &Node, path: &str) -> Result<Bytes> {
    exchange(&node.admin, Method::GET, path).await
}

/// Tells the node to do something; its answer is text.
pub(crate) async fn post(node: &Node, path: &str) -> Result<String> {
    text(&exchange(&node.admin, Method::POST, path).await?)
}

fn text(body: &[u8]) -> Result<String> {
    Ok(std::str::from_utf8(body).context("the answer is not text")?.trim_end().to_owned())
}

async fn exchange(admin: &Admin, method: Method, path: &str) -> Result<Bytes> {
    let exchange = timeout(PATIENCE, exchange_without_limit(admin, method, path)).await;
    exchange
        .unwrap_or_else(|_| bail!("no answer from {} within {} s: does the node proxy hang?", told(admin), PATIENCE.as_secs()))
}

async fn exchange_without_limit(admin: &Admin, method: Method, path: &str) -> Result<Bytes> {
    let port = match admin {
        Admin::Socket { admin: socket, .. } => {
            let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
            return ask(stream, admin, method, path).await;
        }
        Admin::Pod(port) => port,
    };
    let (stream, mut forwarder) = port.connect().await?;
    let answer = ask(stream, admin, method, path).await;
    // What the kubelet says is the cause of a connection that broke off.
    let broke_off = answer.as_ref().is_err_and(|error| error.downcast_ref::<hyper::Error>().is_some());
    if broke_off { Err(port.why(&mut forwarder).await) } else { answer }
}

async fn ask<S>(stream: S, admin: &Admin, method: Method, path: &str) -> Result<Bytes>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().method(&method).uri(path).header(header::HOST, "node").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.with_context(|| format!("{method} {path} at {}", told(admin)))?;
    let status = response.status();
    let body =
        response.into_body().collect().await.with_context(|| format!("the answer to {method} {path} broke off"))?.to_bytes();
    if !status.is_success() {
        bail!("{method} {path}: {status}: {}", String::from_utf8_lossy(&body).trim());
    }
    Ok(body)
}

fn told(admin: &Admin) -> String {
    match admin {
        Admin::Socket { admin, .. } => admin.display().to_string(),
        Admin::Pod(port) => port.told(),
    }
}

/// A failed `connect()` to a node's socket in plain words, with the remedy.
pub(crate) fn unreachable(socket: &Path, error: &io::Error) -> anyhow::Error {
    let socket = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound => anyhow!("there is no socket {socket}: is a node proxy running there?"),
        io::ErrorKind::ConnectionRefused => anyhow!("nobody serves {socket}: the node proxy has ended"),
        io::ErrorKind::PermissionDenied => anyhow!("{socket} is closed to you: only root may speak to a node"),
        _ => anyhow!("cannot connect to {socket}: {error}"),
    }
}

/// What each of several nodes said, in their order.
#[derive(Debug)]
pub(crate) struct Answers<T> {
    pub(crate) given: Vec<(String, T)>,
    pub(crate) missing: Vec<(String, anyhow::Error)>,
}

/// Asks all nodes at the same time.
///
/// # Errors
///
/// When no node answers.
pub(crate) async fn ask_all<T, A>(nodes: &[Node], ask: impl Fn(Node) -> A) -> Result<Answers<T>>
where
    T: Send + 'static,
    A: Future<Output = Result<T>> + Send + 'static,
{
    let mut asking = JoinSet::new();
    for (position, node) in nodes.iter().enumerate() {
        let answer = ask(node.clone());
        asking.spawn(async move { (position, answer.await) });
    }
    let mut all = asking.join_all().await;
    all.sort_by_key(|(position, _)| *position);
    let mut answers = Answers { given: Vec::new(), missing: Vec::new() };
    for (position, answer) in all {
        let name = nodes[position].name.clone();
        match answer {
            Ok(answer) => answers.given.push((name, answer)),
            Err(error) => answers.missing.push((name, error)),
        }
    }
    if answers.given.is_empty() && !answers.missing.is_empty() {
        let told: Vec<_> = answers.missing.iter().map(|(node, error)| format!("{node}: {error:#}")).collect();
        bail!("{}", told.join("\n       "));
    }
    Ok(answers)
}

impl<T> Answers<T> {
    /// Says who did not answer.
    pub(crate) fn warn_of_missing(&self, printer: &Printer) -> Outcome {
        for (node, error) in &self.missing {
            printer.warn(&format!("{node}: {error:#}"));
        }
        if self.missing.is_empty() { Outcome::Complete } else { Outcome::Partial }
    }
}
