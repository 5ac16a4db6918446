//! Spans to a collector, by OTLP over gRPC (OpenTelemetry protocol 1.x, `TraceService/Export`).
//!
//! The data path offers a span and goes on: what does not fit the queue is dropped and counted. A task of its own sends them in
//! batches; a batch that the collector does not take in time is dropped too. Memory is the queue and one batch, however long
//! the collector is away.

mod message;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::uri::PathAndQuery;
use message::{ExportRequest, ExportResponse, ResourceSpans};
use tokio::{sync::mpsc, time::timeout};
use tonic::{
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;
use tracing::{debug, warn};

use super::{Metrics, Reading, Span, SpanSink};

/// Spans that wait to be sent.
const QUEUE: usize = 4096;
/// Spans of one message.
const BATCH: usize = 512;
/// The longest that a span waits for others.
const FLUSH: Duration = Duration::from_secs(1);
/// For one message, connecting included.
pub(super) const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Takes spans for a collector.
pub struct OtlpExporter {
    queue: mpsc::Sender<Span>,
    counts: Arc<SpanCounts>,
}

/// Since the start, of all collectors together.
#[derive(Debug, Default)]
pub struct SpanCounts {
    pub sent: AtomicU64,
    pub dropped: AtomicU64,
}

#[derive(Debug, thiserror::Error)]
#[error("no collector's address, such as http://collector:4317: {address}")]
pub struct BadCollector {
    pub address: String,
    #[source]
    pub source: tonic::transport::Error,
}

impl OtlpExporter {
    /// Spans go to `collector`, such as `http://127.0.0.1:4317`, which need not be there yet. Starts a task on the current
    /// runtime, which ends when the exporter is dropped.
    pub fn start(collector: &str, counts: Arc<SpanCounts>) -> Result<Arc<Self>, BadCollector> {
        let bad = |source| BadCollector { address: collector.to_owned(), source };
        let channel = Endpoint::from_shared(collector.to_owned()).map_err(bad)?.connect_timeout(EXPORT_TIMEOUT).connect_lazy();
        Ok(Self::over(channel, counts))
    }

    /// The same over a channel.
    pub(super) fn over(channel: Channel, counts: Arc<SpanCounts>) -> Arc<Self> {
        let (queue, spans) = mpsc::channel(QUEUE);
        tokio::spawn(send_all(spans, Grpc::new(channel), counts.clone()));
        Arc::new(Self { queue, counts })
    }

    pub fn counts(&self) -> &SpanCounts {
        &self.counts
    }
}

impl SpanCounts {
    /// Shows in the metrics what became of the spans.
    pub fn show(self: &Arc<Self>, metrics: &Metrics) {
        let (sent, dropped) = (self.clone(), self.clone());
        let values: Vec<(_, Reading)> = vec![
            ("sent", Box::new(move || sent.sent.load(Relaxed))),
            ("dropped", Box::new(move || dropped.dropped.load(Relaxed))),
        ];
        metrics.watch("keelson_spans", "Spans of traced requests, by what became of them", "outcome", values);
    }
}

impl SpanSink for OtlpExporter {
    fn offer(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Relaxed);
        }
    }
}

async fn send_all(mut spans: mpsc::Receiver<Span>, mut collector: Grpc<Channel>, counts: Arc<SpanCounts>) {
    let mut failing = false;
    loop {
        let batch = next_batch(&mut spans).await;
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        match timeout(EXPORT_TIMEOUT, export(&mut collector, batch)).await {
            Ok(Ok(())) => {
                counts.sent.fetch_add(count, Relaxed);
                failing = false;
            }
            failed => {
                counts.dropped.fetch_add(count, Relaxed);
                let cause = failed.map_or_else(|_| "no answer in time".to_owned(), |failed| format!("{failed:?}"));
                // Once, and not for each batch of an hour.
                if failing {
                    debug!(cause, "spans are dropped");
                } else {
                    warn!(cause, "the collector takes no spans; they are dropped until it does");
                }
                failing = true;
            }
        }
    }
}

/// At least one span, and those that come within [`FLUSH`] after it; none once the exporter is gone.
async fn next_batch(spans: &mut mpsc::Receiver<Span>) -> Vec<Span> {
    let mut batch = Vec::new();
    if spans.recv_many(&mut batch, BATCH).await == 0 {
        return batch;
    }
    let rest = async {
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            if spans.recv_many(&mut batch, room).await == 0 {
                return;
            }
        }
    };
    // The end of the time is as good as a full batch.
    let _ = timeout(FLUSH, rest).await;
    batch
}

async fn export(collector: &mut Grpc<Channel>, batch: Vec<Span>) -> Result<(), tonic::Status> {
    collector.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let codec: ProstCodec<ExportRequest, ExportResponse> = ProstCodec::default();
    let response = collector.unary(tonic::Request::new(request(batch)), PathAndQuery::from_static(EXPORT), codec).await?;
    match response.into_inner().partial_success.filter(|partial| partial.rejected_spans > 0) {
        Some(partial) => Err(tonic::Status::invalid_argument(partial.error_message)),
        None => Ok(()),
    }
}

/// One resource for each service: to the collector, a node is many programs.
fn request(batch: Vec<Span>) -> ExportRequest {
    let mut services: HashMap<String, Vec<Span>> = HashMap::new();
    for span in batch {
        services.entry(span.service.clone()).or_default().push(span);
    }
    ExportRequest { resource_spans: services.into_iter().map(|(service, spans)| ResourceSpans::new(service, spans)).collect() }
}

#[cfg(test)]
mod tests;
