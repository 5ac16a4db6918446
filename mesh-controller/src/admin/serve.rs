//! `/readyz`, `/livez`, `/metrics`, `/debug/config`, `/debug/nodes`.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::watch, time::sleep};
use tracing::debug;

use super::{Readiness, dump};
use crate::{
    distribute::{Nodes, Published},
    source::kube::{Health, Trouble},
    telemetry::Telemetry,
};

const HEADERS: Duration = Duration::from_secs(10);

/// What there is to show.
pub struct Admin {
    pub published: watch::Receiver<Arc<Published>>,
    pub nodes: Arc<Nodes>,
    pub telemetry: Arc<Telemetry>,
    /// How reading from the API server goes, where objects come from there.
    pub source: Option<Health>,
    pub readiness: Readiness,
}

/// Serves for ever.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
            Err(error) => {
                debug!(%error, "admin connections wait");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = admin.answer(&request, peer);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS)
                .max_buf_size(64 << 10)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                debug!(%error, "an admin connection broke");
            }
        });
    }
}

impl Admin {
    fn answer<B>(&self, request: &Request<B>, peer: IpAddr) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "alive\n".into()),
            "/readyz" | "/ready" | "/healthz/ready" => self.readiness(),
            "/metrics" => {
                let body = self.telemetry.encode();
                with_type(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", body)
            }
            // They tell what every workload may do: not for a pod that happens to reach this port.
            path if path.starts_with("/debug/") && !peer.is_loopback() => {
                text(StatusCode::FORBIDDEN, "only on the loopback device: use kubectl port-forward\n".into())
            }
            "/debug/config" => {
                let published = self.published.borrow().clone();
                with_type(StatusCode::OK, "application/json", format!("{:#}\n", dump(&published)))
            }
            "/debug/nodes" => {
                let nodes = serde_json::json!({ "nodes": self.nodes.names() });
                with_type(StatusCode::OK, "application/json", format!("{nodes:#}\n"))
            }
            "/" => text(StatusCode::OK, "/readyz\n/livez\n/metrics\n/debug/config\n/debug/nodes\n".into()),
            _ => text(StatusCode::NOT_FOUND, "not found\n".into()),
        }
    }
}

impl Admin {
    /// Ready once a first state was published and everything listens. What can not be read later on is named, and its last
    /// state is served.
    fn readiness(&self) -> Response<Full<Bytes>> {
        let published = self.published.borrow().generation > 0;
        let missing = self.readiness.missing();
        let ready = published && missing.is_empty();
        let mut body = if ready { "ready\n" } else { "not ready\n" }.to_owned();
        if !published {
            body += "not everything has been read yet\n";
        }
        for what in missing {
            body += &format!("waiting for {what}\n");
        }
        let troubles = self.source.iter().flat_map(|source| if published { source.stale() } else { source.unlisted() });
        for Trouble { kind, text } in troubles {
            body += &format!("{kind}: {}\n", text.as_deref().unwrap_or("not listed yet"));
        }
        text(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
