//! The headers of a CONNECT, written and read.
//!
//! `:authority` says where to, `baggage` who the workload at the other end is (for metrics, never for policy), `forwarded`
//! where the application's connection came from, `traceparent` the trace it belongs to. Everything that is read is
//! bounded, and what can not be understood is left out; only a bad `:authority` refuses the request.

mod baggage;
mod forwarded;
mod target;
mod trace;

pub use baggage::Baggage;
pub use forwarded::{Forwarded, ForwardedFor};
pub use target::{BadTarget, Target};
pub use trace::TraceParent;

use http::{HeaderName, HeaderValue, Request};

pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
pub const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Bytes of one header that are read; a longer one counts as absent.
const MAX_VALUE: usize = 8192;

/// What the opener of a stream asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    pub authority: Target,
    pub baggage: Baggage,
    pub forwarded: Option<Forwarded>,
    pub traceparent: Option<TraceParent>,
}

impl ConnectRequest {
    /// `None` when the authority can not be written, which only a host that is no host name can cause.
    pub(super) fn to_http(&self) -> Option<Request<()>> {
        let mut request = Request::connect(self.authority.to_string()).body(()).ok()?;
        let headers = request.headers_mut();
        let mut put = |name, text: String| {
            // Every writer escapes, so this drops nothing; should one fail to, the header is left out and not the connection.
            if let (false, Ok(value)) = (text.is_empty(), HeaderValue::try_from(text)) {
                headers.insert(name, value);
            }
        };
        put(BAGGAGE, self.baggage.to_string());
        put(FORWARDED, self.forwarded.as_ref().map(ToString::to_string).unwrap_or_default());
        put(TRACEPARENT, self.traceparent.as_ref().map(ToString::to_string).unwrap_or_default());
        Some(request)
    }
}

/// A header's text, when it is there, not too long, and plain ASCII.
pub(super) fn text(value: Option<&HeaderValue>) -> Option<&str> {
    value.filter(|value| value.len() <= MAX_VALUE)?.to_str().ok()
}

#[cfg(test)]
mod tests;
