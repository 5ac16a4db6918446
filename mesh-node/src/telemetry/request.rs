//! One request, as one half of the path sees it: begun when its head is read, told to metrics, log and trace exactly once,
//! when its answer has ended or when it is dropped.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
    header::{CONTENT_TYPE, HOST, USER_AGENT},
    uri::PathAndQuery,
};
use mesh_policy::model::Percent;

use super::{
    Path, Side, Tallies, Telemetry,
    facts::Told,
    flags::ResponseFlags,
    series::{GrpcStatus, Measured, Outcome},
    span::{Span, SpanContext},
};

const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const X_ENVOY_UPSTREAM_SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// How an answer's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Passed on whole.
    Complete,
    /// The sender broke off.
    Failed,
    /// Broken off here: it was not whole in time.
    TimedOut,
    /// Broken off here: nothing moved for too long.
    Idle,
    /// The receiver wants no more of it.
    Aborted,
}

/// What log and trace tell of a request. Taken once, when its headers are as they will be but for the route's changes.
#[derive(Clone, Debug)]
pub struct RequestFacts {
    pub method: Method,
    /// None: CONNECT.
    pub path: Option<PathAndQuery>,
    /// Before a rewrite elsewhere: `x-envoy-original-path`.
    pub original_path: Option<HeaderValue>,
    pub version: Version,
    pub authority: Option<HeaderValue>,
    pub user_agent: Option<HeaderValue>,
    pub forwarded_for: Option<HeaderValue>,
    pub request_id: Option<HeaderValue>,
    pub grpc: bool,
    /// Further headers that a Telemetry speaks of.
    pub(super) kept: Vec<(HeaderName, HeaderValue)>,
}

impl RequestFacts {
    pub fn of(head: &http::request::Parts) -> Self {
        let header = |name: &HeaderName| head.headers.get(name).cloned();
        let authority = head.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        Self {
            method: head.method.clone(),
            path: head.uri.path_and_query().cloned(),
            original_path: header(&X_ENVOY_ORIGINAL_PATH),
            version: head.version,
            authority: authority.or_else(|| header(&HOST)),
            user_agent: header(&USER_AGENT),
            forwarded_for: header(&X_FORWARDED_FOR),
            request_id: header(&X_REQUEST_ID),
            grpc: is_grpc(head.headers.get(CONTENT_TYPE)),
            kept: Vec::new(),
        }
    }
}

/// One value of each header that is there.
fn kept(names: &[HeaderName], headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    names.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect()
}

/// A request under way. What is not told of it stays unknown in the log.
pub struct RequestRecord {
    telemetry: Arc<Telemetry>,
    /// None once it has ended.
    open: Option<Box<Open>>,
    tallies: Arc<Tallies>,
}

pub(super) struct Open {
    pub(super) path: Arc<Path>,
    pub(super) facts: RequestFacts,
    pub(super) began: Instant,
    pub(super) began_at: SystemTime,
    pub(super) status: Option<StatusCode>,
    pub(super) grpc_status: GrpcStatus,
    pub(super) flags: ResponseFlags,
    pub(super) details: Option<Cow<'static, str>>,
    pub(super) termination: Option<Cow<'static, str>>,
    pub(super) upstream_failure: Option<Cow<'static, str>>,
    pub(super) service_time: Option<HeaderValue>,
    pub(super) route: Arc<str>,
    pub(super) upstream_local: Option<SocketAddr>,
    pub(super) server_name: Option<Arc<str>>,
    pub(super) span: Option<SpanContext>,
    /// Headers of the answer that a Telemetry speaks of.
    pub(super) kept: Vec<(HeaderName, HeaderValue)>,
}

impl Telemetry {
    /// Begins a request with what its head tells.
    pub fn begin(self: &Arc<Self>, path: Arc<Path>, head: &http::request::Parts) -> RequestRecord {
        let mut facts = RequestFacts::of(head);
        if let Some(plan) = path.plan() {
            facts.kept = kept(&plan.request_headers, &head.headers);
        }
        self.request(path, facts)
    }

    /// Begins a request that came in over `path`, whose destination is what was dialled until it is [routed](RequestRecord::routed).
    pub fn request(self: &Arc<Self>, path: Arc<Path>, facts: RequestFacts) -> RequestRecord {
        let tallies = Tallies::new();
        tallies.follow(&path);
        let open = Open {
            path,
            facts,
            began: Instant::now(),
            began_at: SystemTime::now(),
            status: None,
            grpc_status: GrpcStatus::None,
            flags: ResponseFlags::NONE,
            details: None,
            termination: None,
            upstream_failure: None,
            service_time: None,
            route: Arc::default(),
            upstream_local: None,
            server_name: None,
            span: None,
            kept: Vec::new(),
        };
        RequestRecord { telemetry: self.clone(), open: Some(Box::new(open)), tallies }
    }
}

impl RequestRecord {
    /// To be given to the bodies, which count into it.
    pub fn tallies(&self) -> Arc<Tallies> {
        self.tallies.clone()
    }

    /// The service and endpoint that the request goes to now; the last one told is the one that counts.
    pub fn routed(&mut self, path: Arc<Path>) {
        self.tallies.follow(&path);
        self.change(|open| open.path = path);
    }

    /// `%ROUTE_NAME%`.
    pub fn route(&mut self, name: Arc<str>) {
        self.change(|open| open.route = name);
    }

    pub fn flag(&mut self, flags: ResponseFlags) {
        self.change(|open| open.flags |= flags);
    }

    /// `%RESPONSE_CODE_DETAILS%`; `via_upstream` where there is an answer and nothing is told.
    pub fn details(&mut self, details: impl Into<Cow<'static, str>>) {
        self.change(|open| open.details = Some(details.into()));
    }

    /// `%CONNECTION_TERMINATION_DETAILS%`: why the client's connection is closed by us.
    pub fn termination(&mut self, details: impl Into<Cow<'static, str>>) {
        self.change(|open| open.termination = Some(details.into()));
    }

    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub fn upstream_failure(&mut self, reason: impl Into<Cow<'static, str>>) {
        self.change(|open| open.upstream_failure = Some(reason.into()));
    }

    pub fn upstream_local(&mut self, address: SocketAddr) {
        self.change(|open| open.upstream_local = Some(address));
    }

    /// `%REQUESTED_SERVER_NAME%`.
    pub fn server_name(&mut self, name: Arc<str>) {
        self.change(|open| open.server_name = Some(name));
    }

    /// The request is traced: a span is exported at its end.
    pub fn span(&mut self, context: SpanContext) {
        self.change(|open| open.span = Some(context));
    }

    pub fn span_context(&self) -> Option<&SpanContext> {
        self.open.as_ref()?.span.as_ref()
    }

    /// The share of requests that are traced of themselves; None: none is traced at all.
    pub fn trace_share(&self) -> Option<Percent> {
        let plan = self.open.as_ref().and_then(|open| open.path.plan());
        self.telemetry.trace_share(plan)
    }

    /// The head of the answer as it goes to the client.
    pub fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.change(|open| {
            open.status = Some(status);
            open.service_time = headers.get(X_ENVOY_UPSTREAM_SERVICE_TIME).cloned();
            open.grpc_status = grpc_status(headers).unwrap_or(open.grpc_status);
            if let Some(plan) = open.path.plan() {
                open.kept = kept(&plan.response_headers, headers);
            }
        });
    }

    /// Ends it with its answer's body, whose trailers may say a gRPC status.
    pub fn end(mut self, how: Ending, trailers: Option<&HeaderMap>) {
        if let Some(status) = trailers.and_then(grpc_status) {
            self.change(|open| open.grpc_status = status);
        }
        self.finish(how);
    }

    /// Since it began.
    pub fn elapsed(&self) -> std::time::Duration {
        self.open.as_ref().map_or_else(Default::default, |open| open.began.elapsed())
    }

    #[cfg(test)]
    pub(super) fn opened(&self) -> Option<&Open> {
        self.open.as_deref()
    }

    fn change(&mut self, change: impl FnOnce(&mut Open)) {
        if let Some(open) = &mut self.open {
            change(open);
        }
    }

    fn finish(&mut self, how: Ending) {
        let Some(mut open) = self.open.take() else { return };
        open.explain(how);
        let duration = open.began.elapsed();
        let (request_bytes, response_bytes) = (self.tallies.bytes(Side::Request), self.tallies.bytes(Side::Response));
        let outcome = Outcome {
            grpc: open.facts.grpc,
            code: open.status.map_or(0, |status| status.as_u16()),
            grpc_status: if open.facts.grpc { open.grpc_status } else { GrpcStatus::None },
            flags: open.flags,
        };
        let measured = Measured { duration, request_bytes, response_bytes };
        open.path.measure(&Told { open: &open, measured }, outcome, measured);
        self.tallies.tell(true);
        self.telemetry.log(&open, measured);
        if let Some(span) = Span::of(&open, measured) {
            self.telemetry.offer(open.path.plan(), span);
        }
    }
}

impl Open {
    /// What the ending says, where nothing before has said more.
    fn explain(&mut self, how: Ending) {
        let (flags, details) = match how {
            Ending::Complete => (ResponseFlags::NONE, None),
            Ending::Failed => {
                let details = "upstream_reset_after_response_started{connection_termination}";
                (ResponseFlags::UPSTREAM_CLOSED, Some(details))
            }
            Ending::TimedOut => (ResponseFlags::UPSTREAM_TIMEOUT, Some("response_timeout")),
            Ending::Idle => (ResponseFlags::STREAM_IDLE, Some("stream_idle_timeout")),
            Ending::Aborted => (ResponseFlags::DOWNSTREAM_CLOSED, Some("downstream_remote_disconnect")),
        };
        self.flags |= flags;
        if let Some(details) = details {
            self.details = Some(details.into());
        } else if self.status.is_some() {
            self.details.get_or_insert(Cow::Borrowed("via_upstream"));
        }
    }
}

/// A request that is given up before it is answered: the client went away, and its task with it.
impl Drop for RequestRecord {
    fn drop(&mut self) {
        self.finish(Ending::Aborted);
    }
}

/// Whether a message is gRPC's: `application/grpc`, alone or with `+` or `;` behind it.
pub fn is_grpc(content_type: Option<&HeaderValue>) -> bool {
    let Some(rest) = content_type.and_then(|value| value.as_bytes().strip_prefix(b"application/grpc")) else { return false };
    matches!(rest.first(), None | Some(b'+' | b';'))
}

fn grpc_status(headers: &HeaderMap) -> Option<GrpcStatus> {
    headers.get(GRPC_STATUS).map(|value| GrpcStatus::read(value.as_bytes()))
}

#[cfg(test)]
mod tests;
