//! `client http`: one HTTP/1.1 request after the other.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Uri,
    client::conn::http1::{self, SendRequest},
    header::{HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::{task::AbortHandle, time::timeout};

use super::{Failure, Outcome, Record, Schedule, Worker, repeat, tcp};
use crate::stream;

#[derive(Args, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Options {
    /// `http://HOST[:PORT]/PATH`
    url: Uri,
    #[command(flatten)]
    schedule: Schedule,
    /// The request's method
    #[arg(long, short = 'X', default_value = "GET")]
    method: Method,
    /// A header to send, `name: value`; `host` replaces the URL's
    #[arg(long, short = 'H', value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// A body to send
    #[arg(long, short, default_value = "", conflicts_with = "data_bytes")]
    data: String,
    /// So many bytes of the shop's pattern to send instead
    #[arg(long)]
    data_bytes: Option<usize>,
    /// Use a connection again as long as it lasts
    #[arg(long)]
    keep_alive: bool,
    /// Count a status of 400 and more as failure
    #[arg(long)]
    fail: bool,
    /// Show the answer's body
    #[arg(long)]
    body: bool,
    /// Show the answer's headers (JSON)
    #[arg(long)]
    headers: bool,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':').context("a header is `name: value`")?;
    Ok((name.trim().parse()?, value.trim().parse()?))
}

pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    let Some(authority) = options.url.authority() else { bail!("{} has no host", options.url) };
    let target = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let mut headers = HeaderMap::new();
    headers.insert("host", authority.as_str().parse()?);
    headers.insert("user-agent", HeaderValue::from_static("shop-client"));
    for (name, value) in &options.header {
        headers.insert(name, value.clone());
    }
    let data = match options.data_bytes {
        Some(size) => stream::pattern(size),
        None => Bytes::from(options.data.clone()),
    };
    let schedule = options.schedule.clone();
    repeat(&schedule, || Browser {
        options: options.clone(),
        target: target.clone(),
        headers: headers.clone(),
        data: data.clone(),
        open: None,
    })
    .await
}

struct Browser {
    options: Options,
    target: String,
    headers: HeaderMap,
    data: Bytes,
    open: Option<Open>,
}

/// A connection that may be used again.
struct Open {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
    local: Option<String>,
    remote: Option<String>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Worker for Browser {
    async fn ask(&mut self, patience: Duration) -> Record {
        let mut record = Record::default();
        match timeout(patience, self.exchange(&mut record)).await {
            Ok(Ok(())) => {
                if self.options.fail && record.status.is_some_and(|status| status >= 400) {
                    record.outcome = Outcome::Status;
                }
            }
            Ok(Err(failure)) => {
                self.open = None;
                record.fail(failure);
            }
            Err(_) => {
                self.open = None;
                record.fail(Failure::new(Outcome::Timeout, format!("no answer for {patience:?}")));
            }
        }
        record
    }
}

impl Browser {
    async fn exchange(&mut self, record: &mut Record) -> Result<(), Failure> {
        let mut open = match self.open.take() {
            Some(open) if open.sender.is_ready() => open,
            _ => self.connect(record).await?,
        };
        record.local.clone_from(&open.local);
        record.remote.clone_from(&open.remote);
        let path = self.options.url.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::new(Full::new(self.data.clone()));
        *request.method_mut() = self.options.method.clone();
        *request.uri_mut() =
            path.parse().map_err(|error: hyper::http::uri::InvalidUri| Failure::new(Outcome::Other, error.to_string()))?;
        *request.headers_mut() = self.headers.clone();
        if !self.options.keep_alive {
            request.headers_mut().insert("connection", HeaderValue::from_static("close"));
        }
        let answer = open.sender.send_request(request).await?;
        record.status = Some(answer.status().as_u16());
        if self.options.headers {
            let texts = answer.headers().iter();
            let texts = texts.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
            record.headers = Some(texts.collect());
        }
        let mut body = answer.into_body();
        let mut digest = Sha256::new();
        let mut shown = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                record.bytes += data.len() as u64;
                digest.update(&data);
                if self.options.body {
                    shown.extend_from_slice(&data);
                }
            }
        }
        record.sha256 = Some(tcp::hex(&digest.finalize()));
        record.body = self.options.body.then(|| String::from_utf8_lossy(&shown).into_owned());
        if self.options.keep_alive && open.sender.ready().await.is_ok() {
            self.open = Some(open);
        }
        Ok(())
    }

    async fn connect(&self, record: &mut Record) -> Result<Open, Failure> {
        let stream = tcp::connect(&self.target, record).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection).abort_handle();
        Ok(Open { sender, driver, local: record.local.clone(), remote: record.remote.clone() })
    }
}
