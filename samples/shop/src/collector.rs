//! `collector`: takes spans by OTLP over gRPC (`TraceService/Export`) and prints one JSON object a line for each.
//!
//! Times are in microseconds, the beginning since 1970. A span without `parent` begins its trace;
//! of its attributes the texts are told.

mod message;

use std::{convert::Infallible, future::ready};

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use message::ExportRequest;
use prost::Message;

use crate::serve::{self, Protocol};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Of a message of gRPC: whether it is compressed, and four bytes of length.
const FRAME: usize = 5;

/// Of gRPC.
const OK: &str = "0";
const INVALID_ARGUMENT: &str = "3";
const UNIMPLEMENTED: &str = "12";

#[derive(Args)]
pub(crate) struct Options {
    /// Where to listen, on all addresses of both IP versions
    #[arg(long, default_value_t = 4317)]
    port: u16,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    serve::http(options.port, Protocol::Http2, |request, _| async move { answer(take(request).await) }).await
}

/// Prints the spans of one message; the status of gRPC.
async fn take(request: Request<Incoming>) -> &'static str {
    if request.uri().path() != EXPORT {
        return UNIMPLEMENTED;
    }
    let Ok(body) = request.into_body().collect().await else { return INVALID_ARGUMENT };
    let body = body.to_bytes();
    match body.get(FRAME..).map(ExportRequest::decode) {
        Some(Ok(message)) if body[0] == 0 => {
            message.spans().for_each(|span| println!("{span}"));
            OK
        }
        _ => INVALID_ARGUMENT,
    }
}

/// An empty `ExportTraceServiceResponse`, and the status in the trailers.
fn answer(status: &'static str) -> Response<impl Body<Data = Bytes, Error = Infallible> + Send + 'static> {
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static(status))]);
    let message = Full::new(Bytes::from_static(&[0; FRAME])).with_trailers(ready(Some(Ok(trailers))));
    let mut response = Response::new(message);
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
