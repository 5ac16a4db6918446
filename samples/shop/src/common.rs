//! What every HTTP service of the shop answers besides its own paths: the tools of whoever tests a mesh.
//!
//! | path | answer |
//! |---|---|
//! | `/whoami` | who was asked, by whom (the peer's address as the socket has it), with which headers |
//! | `/healthz` | 200 |
//! | `/status/CODE` | that status |
//! | `/delay/MS` | 200 after so many milliseconds |
//! | `/bytes/N` | N bytes, `pattern` of the stream ports |
//! | `/echo` | the request's body |

use std::{collections::BTreeMap, future::Future, time::Duration};

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE};
use serde_json::{Value, json};

use crate::{
    instance::Instance,
    serve::{self, Ends, Protocol},
    stream,
};

/// The most that `/bytes/N` gives.
const MOST: usize = 64 << 20;

/// What all HTTP services are told.
#[derive(Args, Clone)]
pub(crate) struct ServerOptions {
    /// Where to listen, on all addresses of both IP versions
    #[arg(long, default_value_t = 9080)]
    port: u16,
    /// What to call this version of the service
    #[arg(long, default_value = "v1")]
    pub(crate) version: String,
    /// Answer everything but /healthz with this status
    #[arg(long, value_name = "STATUS")]
    fail: Option<StatusCode>,
    /// Speak HTTP/2 with prior knowledge, and not HTTP/1.1
    #[arg(long)]
    http2: bool,
    /// Do not log requests
    #[arg(long)]
    quiet: bool,
}

/// A request without its body, all that the shop's own paths need.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
}

/// What a service's own path answers.
pub(crate) enum Reply {
    Json(Value),
    Html(String),
    NotFound,
}

/// Serves `service` until SIGTERM: its own paths by `own`, the rest as above.
pub(crate) async fn run<F>(
    service: &'static str,
    options: &ServerOptions,
    own: impl Fn(Question, Instance) -> F + Clone + Send + 'static,
) -> Result<()>
where
    F: Future<Output = Reply> + Send + 'static,
{
    let instance = Instance::new(service, &options.version);
    let (quiet, fail) = (options.quiet, options.fail);
    let protocol = if options.http2 { Protocol::Http2 } else { Protocol::Http1 };
    serve::http(options.port, protocol, move |request, ends| {
        let (instance, own) = (instance.clone(), own.clone());
        async move {
            let line = (!quiet).then(|| format!("{} {} from {}", request.method(), request.uri(), ends.peer));
            let response = match fail.filter(|_| request.uri().path() != "/healthz") {
                Some(status) => text(status, "out of order\n"),
                None => answer(request, ends, instance, own).await,
            };
            if let Some(line) = line {
                eprintln!("{line}: {}", response.status().as_u16());
            }
            response
        }
    })
    .await
}

async fn answer<F>(
    request: Request<Incoming>,
    ends: Ends,
    instance: Instance,
    own: impl Fn(Question, Instance) -> F,
) -> Response<Full<Bytes>>
where
    F: Future<Output = Reply>,
{
    let path = request.uri().path().to_owned();
    let mut parts = path.splitn(3, '/').skip(1);
    match (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) {
        ("whoami", "") => json_response(&whoami(&request, ends, &instance)),
        ("healthz", "") => text(StatusCode::OK, "ok\n"),
        ("status", code) => match code.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()) {
            Some(status) => text(status, "as you wish\n"),
            None => text(StatusCode::BAD_REQUEST, "no such status\n"),
        },
        ("delay", wait) => match wait.parse() {
            Ok(milliseconds) => {
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                text(StatusCode::OK, "here you are\n")
            }
            Err(_) => text(StatusCode::BAD_REQUEST, "not a number of milliseconds\n"),
        },
        ("bytes", size) => match size.parse() {
            Ok(size) if size <= MOST => Response::new(Full::new(stream::pattern(size))),
            _ => text(StatusCode::BAD_REQUEST, "not a number of bytes, or too many\n"),
        },
        ("echo", "") => match request.into_body().collect().await {
            Ok(body) => Response::new(Full::new(body.to_bytes())),
            Err(_) => text(StatusCode::BAD_REQUEST, "the body broke off\n"),
        },
        _ => {
            let query = request.uri().query().unwrap_or_default().to_owned();
            match own(Question { path, query, headers: request.into_parts().0.headers }, instance).await {
                Reply::Json(value) => json_response(&value),
                Reply::Html(page) => content(StatusCode::OK, "text/html; charset=utf-8", page),
                Reply::NotFound => text(StatusCode::NOT_FOUND, "no such path\n"),
            }
        }
    }
}

fn whoami(request: &Request<Incoming>, ends: Ends, instance: &Instance) -> Value {
    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in request.headers() {
        headers.entry(name.as_str()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    json!({
        "peer": ends.peer.to_string(),
        "peer_ip": ends.peer.ip(),
        "local": ends.local.to_string(),
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "headers": headers,
        "instance": instance,
    })
}

fn json_response(value: &Value) -> Response<Full<Bytes>> {
    content(StatusCode::OK, "application/json", format!("{value}\n"))
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    content(status, "text/plain; charset=utf-8", body.to_owned())
}

fn content(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
