//! The access log of requests, in Istio's default text and JSON forms (`meshConfig.accessLogFormat`).
//!
//! Lines go to the log's target `access`, beside those of connections. In the text form the message is Istio's line; in the
//! JSON form there is a field for each of its operators, and one that is missing is left out where Istio writes `null`. Both
//! say after it which half of the path reports and between which workloads, which a sidecar's log needs not. What a peer
//! wrote is escaped and cut: a request can neither end a line nor fill the disk with one.

use std::{borrow::Cow, fmt::Write, net::SocketAddr, sync::Arc, time::SystemTime};

use http::{HeaderValue, Version};
use time::OffsetDateTime;
use tracing::Level;

use super::{Party, request::Open, series::Measured};

/// Bytes of one field that are written.
const MAX_FIELD: usize = 4096;

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessForm {
    #[default]
    Text,
    Json,
}

pub(super) fn write(open: &Open, measured: Measured, form: AccessForm) {
    if !tracing::enabled!(target: "access", Level::INFO) {
        return;
    }
    let fields = Fields::new(open, measured);
    match form {
        AccessForm::Text => fields.text(open),
        AccessForm::Json => fields.json(open),
    }
}

/// Istio's operators in their order. None is missing: `-` in text.
struct Fields<'a> {
    start_time: String,
    method: &'a str,
    path: Option<Cow<'a, str>>,
    protocol: &'static str,
    response_code: u16,
    response_flags: Cow<'static, str>,
    response_code_details: Option<Cow<'a, str>>,
    connection_termination_details: Option<Cow<'a, str>>,
    upstream_transport_failure_reason: Option<Cow<'a, str>>,
    bytes_received: u64,
    bytes_sent: u64,
    /// Milliseconds.
    duration: u64,
    upstream_service_time: Option<Cow<'a, str>>,
    x_forwarded_for: Option<Cow<'a, str>>,
    user_agent: Option<Cow<'a, str>>,
    request_id: Option<Cow<'a, str>>,
    authority: Option<Cow<'a, str>>,
    upstream_host: Option<String>,
    upstream_cluster: Option<String>,
    upstream_local_address: Option<String>,
    downstream_local_address: String,
    downstream_remote_address: String,
    requested_server_name: Option<Cow<'a, str>>,
    route_name: Option<Cow<'a, str>>,
}

impl<'a> Fields<'a> {
    fn new(open: &'a Open, measured: Measured) -> Self {
        let Open { facts, status, flags, details, termination, upstream_failure, service_time, .. } = open;
        let Measured { duration, request_bytes, response_bytes } = measured;
        let flow = open.path.flow();
        let header = |value: &'a Option<HeaderValue>| value.as_ref().map(|value| escape(value.as_bytes()));
        let text = |value: &'a Option<Cow<'static, str>>| value.as_ref().map(|value| escape(value.as_bytes()));
        let name = |value: &'a Arc<str>| (!value.is_empty()).then(|| escape(value.as_bytes()));
        let path = facts.path.as_ref().map(|path| escape(path.as_str().as_bytes()));
        let cluster = open.path.cluster().to_string();
        Self {
            start_time: timestamp(open.began_at),
            method: facts.method.as_str(),
            path: header(&facts.original_path).or(path),
            protocol: protocol(facts.version),
            response_code: status.map_or(0, |status| status.as_u16()),
            response_flags: flags.label(),
            response_code_details: text(details),
            connection_termination_details: text(termination),
            upstream_transport_failure_reason: text(upstream_failure),
            bytes_received: request_bytes,
            bytes_sent: response_bytes,
            duration: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            upstream_service_time: header(service_time),
            x_forwarded_for: header(&facts.forwarded_for),
            user_agent: header(&facts.user_agent),
            request_id: header(&facts.request_id),
            authority: header(&facts.authority),
            upstream_host: flow.destination_address.as_ref().map(SocketAddr::to_string),
            upstream_cluster: Some(cluster).filter(|cluster| cluster != "-"),
            upstream_local_address: open.upstream_local.map(|address| address.to_string()),
            downstream_local_address: flow.original_destination.to_string(),
            downstream_remote_address: flow.source_address.to_string(),
            requested_server_name: open.server_name.as_ref().and_then(name),
            route_name: name(&open.route),
        }
    }

    fn line(&self) -> String {
        fn or_dash(value: Option<&impl AsRef<str>>) -> &str {
            value.map_or("-", AsRef::as_ref)
        }
        let mut line = String::with_capacity(512);
        // Writing to a String does not fail.
        let _ = write!(
            line,
            "[{}] \"{} {} {}\" {} {} {} {} \"{}\" {} {} {} {} \"{}\" \"{}\" \"{}\" \"{}\" \"{}\" {} {} {} {} {} {}",
            self.start_time,
            self.method,
            or_dash(self.path.as_ref()),
            self.protocol,
            self.response_code,
            self.response_flags,
            or_dash(self.response_code_details.as_ref()),
            or_dash(self.connection_termination_details.as_ref()),
            or_dash(self.upstream_transport_failure_reason.as_ref()),
            self.bytes_received,
            self.bytes_sent,
            self.duration,
            or_dash(self.upstream_service_time.as_ref()),
            or_dash(self.x_forwarded_for.as_ref()),
            or_dash(self.user_agent.as_ref()),
            or_dash(self.request_id.as_ref()),
            or_dash(self.authority.as_ref()),
            or_dash(self.upstream_host.as_ref()),
            or_dash(self.upstream_cluster.as_ref()),
            or_dash(self.upstream_local_address.as_ref()),
            self.downstream_local_address,
            self.downstream_remote_address,
            or_dash(self.requested_server_name.as_ref()),
            or_dash(self.route_name.as_ref()),
        );
        line
    }

    fn text(&self, open: &Open) {
        let flow = open.path.flow();
        tracing::event!(
            target: "access",
            Level::INFO,
            reporter = flow.direction.reporter(),
            src.workload = workload(&flow.source),
            src.namespace = namespace(&flow.source),
            src.identity = identity(&flow.source),
            dst.workload = workload(&flow.destination),
            dst.namespace = namespace(&flow.destination),
            trace_id = open.span.as_ref().map(|span| tracing::field::display(span.trace_id)),
            "{}",
            self.line(),
        );
    }

    fn json(&self, open: &Open) {
        let flow = open.path.flow();
        tracing::event!(
            target: "access",
            Level::INFO,
            start_time = self.start_time,
            method = self.method,
            path = self.path.as_deref(),
            protocol = self.protocol,
            response_code = self.response_code,
            response_flags = &*self.response_flags,
            response_code_details = self.response_code_details.as_deref(),
            connection_termination_details = self.connection_termination_details.as_deref(),
            upstream_transport_failure_reason = self.upstream_transport_failure_reason.as_deref(),
            bytes_received = self.bytes_received,
            bytes_sent = self.bytes_sent,
            duration = self.duration,
            upstream_service_time = self.upstream_service_time.as_deref(),
            x_forwarded_for = self.x_forwarded_for.as_deref(),
            user_agent = self.user_agent.as_deref(),
            request_id = self.request_id.as_deref(),
            authority = self.authority.as_deref(),
            upstream_host = self.upstream_host.as_deref(),
            upstream_cluster = self.upstream_cluster.as_deref(),
            upstream_local_address = self.upstream_local_address.as_deref(),
            downstream_local_address = self.downstream_local_address,
            downstream_remote_address = self.downstream_remote_address,
            requested_server_name = self.requested_server_name.as_deref(),
            route_name = self.route_name.as_deref(),
            reporter = flow.direction.reporter(),
            src.workload = workload(&flow.source),
            src.namespace = namespace(&flow.source),
            src.identity = identity(&flow.source),
            dst.workload = workload(&flow.destination),
            dst.namespace = namespace(&flow.destination),
        );
    }
}

pub(super) fn workload(party: &Party) -> Option<&str> {
    party.workload.as_deref().map(|workload| &*workload.name)
}

pub(super) fn namespace(party: &Party) -> Option<&str> {
    party.workload.as_deref().map(|workload| &*workload.namespace)
}

fn identity(party: &Party) -> Option<tracing::field::DisplayValue<&mesh_policy::model::Identity>> {
    party.identity.as_ref().map(tracing::field::display)
}

/// `%PROTOCOL%`.
pub(super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "-",
    }
}

/// `%START_TIME%`: RFC 3339 with milliseconds, in UTC.
pub(super) fn timestamp(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond(),
    )
}

/// Printable ASCII; anything else, quotes and backslashes are escaped, and what is too long is cut and marked.
pub(super) fn escape(bytes: &[u8]) -> Cow<'_, str> {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if bytes.len() <= MAX_FIELD
        && bytes.iter().all(plain)
        && let Ok(text) = std::str::from_utf8(bytes)
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len().min(MAX_FIELD) + 16);
    for byte in &bytes[..bytes.len().min(MAX_FIELD)] {
        match byte {
            byte if plain(byte) => out.push(char::from(*byte)),
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\t' => out.push_str("\\t"),
            // Writing to a String does not fail.
            byte => drop(write!(out, "\\x{byte:02x}")),
        }
    }
    if bytes.len() > MAX_FIELD {
        out.push_str("...");
    }
    Cow::Owned(out)
}
