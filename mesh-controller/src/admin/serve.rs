//! `/ready`, `/metrics`, `/debug/config`, `/debug/nodes`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::watch, time::sleep};
use tracing::debug;

use super::dump;
use crate::{
    distribute::{Nodes, Published},
    telemetry::Telemetry,
};

const HEADERS: Duration = Duration::from_secs(10);

/// What there is to show.
pub struct Admin {
    pub published: watch::Receiver<Arc<Published>>,
    pub nodes: Arc<Nodes>,
    pub telemetry: Arc<Telemetry>,
}

/// Serves for ever.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "admin connections wait");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = admin.answer(&request);
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
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
        }
        match request.uri().path() {
            // Listening means ready: nothing listens before the first state is published.
            "/ready" | "/healthz/ready" => text(StatusCode::OK, "ready\n".into()),
            "/metrics" => {
                let body = self.telemetry.encode();
                with_type(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", body)
            }
            "/debug/config" => {
                let published = self.published.borrow().clone();
                with_type(StatusCode::OK, "application/json", format!("{:#}\n", dump(&published)))
            }
            "/debug/nodes" => {
                let nodes = serde_json::json!({ "nodes": self.nodes.names() });
                with_type(StatusCode::OK, "application/json", format!("{nodes:#}\n"))
            }
            "/" => text(StatusCode::OK, "/ready\n/metrics\n/debug/config\n/debug/nodes\n".into()),
            _ => text(StatusCode::NOT_FOUND, "not found\n".into()),
        }
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
