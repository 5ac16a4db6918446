//! What the node tells: Istio's TCP and HTTP metrics, the access log, spans, and the table of open connections.
//!
//! A connection is described once, as a [`Flow`]; opening it in [`Telemetry`] gives a [`Tracked`] guard that counts
//! its bytes and, when it ends or is dropped, its end. Nothing can be counted open for ever.
//!
//! A request is told apart from its connection as a [`RequestRecord`], one for each half; what it has in common with others
//! of its connection and endpoint is their [`Path`], which knows what the Telemetry of the end that reports wants to have told.

mod access_log;
mod collect;
mod collectors;
mod connections;
mod custom;
mod facts;
mod flags;
mod flow;
mod follow;
mod log_form;
mod metrics;
mod otlp;
mod path;
mod plan;
mod request;
mod series;
mod span;
mod tally;
mod tcp;
#[cfg(test)]
pub(crate) mod testing;

pub use access_log::AccessForm;
pub use collect::{Reading, Sample, Samples};
pub use connections::{ConnectionRow, Revocable, Telemetry, Tracked};
pub use flags::ResponseFlags;
pub use flow::{Direction, Flow, Party, Security, Transport};
pub use metrics::Metrics;
pub use otlp::{BadCollector, OtlpExporter, SpanCounts};
pub use path::{Cluster, Path};
pub use request::{Ending, RequestFacts, RequestRecord, is_grpc};
pub use span::{Span, SpanContext, SpanId, SpanSink, TraceId, Value};
pub use tally::{Side, Tallies};
