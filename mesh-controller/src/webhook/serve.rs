//! The HTTPS endpoint.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tracing::{debug, info};

use super::judge::{Answer, judge};
use crate::{server::Connection, telemetry::Telemetry};

/// An object of etcd's limit of 1.5 MiB, its old version, and both as text.
const MAX_BODY: usize = 8 << 20;
/// Bodies in memory at a time.
const AT_ONCE: usize = 16;
const HEADERS: Duration = Duration::from_secs(10);
/// Longer than the API server waits.
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_CONNECTIONS: usize = 256;

/// Serves connections whose handshake is done, for ever.
pub async fn serve(mut connections: mpsc::Receiver<io::Result<Connection>>, telemetry: Arc<Telemetry>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let bodies = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(connection) = connections.recv().await {
        let Ok(connection) = connection else { continue };
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (bodies, telemetry) = (bodies.clone(), telemetry.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let (bodies, telemetry) = (bodies.clone(), telemetry.clone());
                async move { Ok::<_, Infallible>(answer(request, &bodies, &telemetry).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS)
                .max_buf_size(64 << 10)
                .serve_connection(TokioIo::new(connection), service);
            if let Err(error) = connection.await {
                debug!(%error, "a connection of the webhook broke");
            }
            drop(place);
        });
    }
}

async fn answer(request: Request<Incoming>, bodies: &Semaphore, telemetry: &Telemetry) -> Response<Full<Bytes>> {
    if request.uri().path() != "/validate" {
        return text(StatusCode::NOT_FOUND, "only /validate\n");
    }
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
    }
    let Ok(_place) = bodies.acquire().await else { return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n") };
    let body = match timeout(PATIENCE, Limited::new(request.into_body(), MAX_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return text(StatusCode::PAYLOAD_TOO_LARGE, "at most 8 MiB\n"),
        Ok(Err(_)) => return text(StatusCode::BAD_REQUEST, "the body broke off\n"),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body takes too long\n"),
    };
    // Large objects take milliseconds to judge, which other tasks need not wait for.
    let judged = tokio::task::spawn_blocking(move || judge(&body)).await;
    match judged {
        Ok(Ok((verdict, review))) => {
            match &verdict {
                Answer::Allowed { .. } => drop(telemetry.metrics.objects_admitted.inc()),
                Answer::Refused { text } => {
                    telemetry.metrics.objects_refused.inc();
                    info!(text, "an object was refused at the door");
                }
            }
            let mut response = Response::new(Full::new(Bytes::from(review.to_string())));
            response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
            response
        }
        Ok(Err(error)) => text(StatusCode::BAD_REQUEST, &format!("not an AdmissionReview: {error}\n")),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the object could not be judged\n"),
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_owned())));
    *response.status_mut() = status;
    response
}
