//! One service asking another.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{HeaderMap, Request, Uri, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

/// Longer than any delay that an example injects.
const PATIENCE: Duration = Duration::from_secs(15);

/// Asks `base`/`path`, `headers` handed on; the answer's JSON, or an object that says what went wrong instead.
pub(crate) async fn ask(base: &Uri, path: &str, headers: HeaderMap) -> Value {
    match timeout(PATIENCE, get(base, path, headers)).await {
        Ok(Ok((200, body))) => serde_json::from_slice(&body).unwrap_or_else(|_| json!({ "error": "not JSON", "status": 200 })),
        Ok(Ok((status, body))) => json!({ "error": String::from_utf8_lossy(&body), "status": status }),
        Ok(Err(error)) => json!({ "error": format!("{error:#}") }),
        Err(_) => json!({ "error": format!("no answer within {PATIENCE:?}") }),
    }
}

async fn get(base: &Uri, path: &str, mut headers: HeaderMap) -> Result<(u16, Bytes)> {
    let authority = base.authority().context("the address has no host")?;
    let stream = connect(authority.host(), authority.port_u16().unwrap_or(80)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    headers.insert("host", authority.as_str().parse()?);
    let mut request = Request::get(path).body(Empty::<Bytes>::new())?;
    *request.headers_mut() = headers;
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await?.to_bytes();
    driver.abort();
    Ok((status, body))
}

/// Connects to the first address of `host` that accepts.
pub(crate) async fn connect(host: &str, port: u16) -> Result<TcpStream> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await.with_context(|| format!("unknown host {host}"))?.collect();
    let mut last = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = Some((address, error)),
        }
    }
    match last {
        Some((address, error)) => Err(error).with_context(|| format!("cannot connect to {address}")),
        None => bail!("{host} has no address"),
    }
}
