//! Lines of the access log in a form that a Telemetry's provider gives: text by Envoy's operators, or an object of JSON.
//!
//! Text goes to the log as the message of an event, like the node's own form; an object is written to the standard output, a line
//! each, as a sidecar writes it. One log holds all pods of the node, so that both say which half reports, between which workloads.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue};
use mesh_policy::model::{LogForm, LogLine, LogPiece, Operator};
use serde_json::{Map, Value};
use tracing::Level;

use super::{
    Direction, Flow,
    access_log::{self, escape, protocol, timestamp},
    facts::{OfConnection, Told, proved},
    plan::Log,
};

/// What an operator stands for.
pub(super) enum Shown<'a> {
    Text(Cow<'a, str>),
    Number(u64),
}

/// A request or a connection that has ended.
pub(super) trait Ended: mesh_policy::expression::Facts {
    fn flow(&self) -> &Flow;

    /// None: there is none. What a peer wrote is escaped.
    fn shown(&self, operator: &Operator) -> Option<Shown<'_>>;
}

/// Writes what the logs of a plan want; true: one of them wants the node's own form too.
pub(super) fn write(logs: &[Log], ended: &dyn Ended, facts: &dyn mesh_policy::expression::Facts) -> bool {
    if !tracing::enabled!(target: "access", Level::INFO) {
        return false;
    }
    let mut usual = false;
    for Log { form, filter } in logs {
        if filter.as_ref().is_some_and(|filter| !filter.holds(facts)) {
            continue;
        }
        match form {
            LogForm::Usual => usual = true,
            LogForm::Text(line) => {
                let flow = ended.flow();
                tracing::event!(
                    target: "access",
                    Level::INFO,
                    reporter = flow.direction.reporter(),
                    src.workload = access_log::workload(&flow.source),
                    src.namespace = access_log::namespace(&flow.source),
                    dst.workload = access_log::workload(&flow.destination),
                    dst.namespace = access_log::namespace(&flow.destination),
                    "{}",
                    text(line, ended),
                );
            }
            LogForm::Json(labels) => {
                let mut line = object(labels.iter().map(|(key, line)| (&**key, line)), ended).to_string();
                line.push('\n');
                crate::log::write_line(&line);
            }
        }
    }
    usual
}

pub(super) fn text(line: &LogLine, ended: &dyn Ended) -> String {
    line.pieces().iter().fold(String::with_capacity(256), |mut out, piece| {
        match piece {
            LogPiece::Text(text) => out.push_str(text),
            LogPiece::Operator(operator, most) => {
                let shown = ended.shown(operator);
                let shown = shown.map_or(Cow::Borrowed("-"), |shown| match shown {
                    Shown::Text(text) => text,
                    Shown::Number(number) => number.to_string().into(),
                });
                // All of it is printable ASCII.
                out.push_str(&shown[..shown.len().min(most.unwrap_or(usize::MAX))]);
            }
        }
        out
    })
}

/// An operator that stands alone keeps its type, and is left out where there is no value.
pub(super) fn object<'a>(labels: impl Iterator<Item = (&'a str, &'a LogLine)>, ended: &dyn Ended) -> Value {
    let mut out = Map::new();
    let flow = ended.flow();
    let mut tell = |key: &str, value: Option<&str>| drop(value.map(|value| out.insert(key.to_owned(), value.into())));
    tell("reporter", Some(flow.direction.reporter()));
    tell("src.workload", access_log::workload(&flow.source));
    tell("src.namespace", access_log::namespace(&flow.source));
    tell("dst.workload", access_log::workload(&flow.destination));
    tell("dst.namespace", access_log::namespace(&flow.destination));
    for (key, line) in labels {
        let value = match line.pieces() {
            [LogPiece::Operator(operator, None)] => match ended.shown(operator) {
                None => continue,
                Some(Shown::Text(text)) => Value::from(text),
                Some(Shown::Number(number)) => Value::from(number),
            },
            _ => Value::from(text(line, ended)),
        };
        out.insert(key.to_owned(), value);
    }
    Value::Object(out)
}

#[allow(
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "what is given is made for this, as are other values"
)]
fn owned<'a>(value: impl ToString) -> Option<Shown<'a>> {
    Some(Shown::Text(value.to_string().into()))
}

fn of_flow<'a>(flow: &'a Flow, operator: &Operator) -> Option<Shown<'a>> {
    match operator {
        Operator::UpstreamHost => flow.destination_address.and_then(owned),
        Operator::DownstreamLocalAddress => owned(flow.original_destination),
        Operator::DownstreamLocalAddressWithoutPort => owned(flow.original_destination.ip()),
        Operator::DownstreamLocalPort => Some(Shown::Number(flow.original_destination.port().into())),
        Operator::DownstreamRemoteAddress => owned(flow.source_address),
        Operator::DownstreamRemoteAddressWithoutPort => owned(flow.source_address.ip()),
        Operator::DownstreamPeerUriSan if flow.direction == Direction::Inbound => {
            proved(flow, Direction::Outbound).and_then(owned)
        }
        Operator::DownstreamLocalUriSan if flow.direction == Direction::Inbound => {
            proved(flow, Direction::Inbound).and_then(owned)
        }
        _ => None,
    }
}

impl Ended for Told<'_> {
    fn flow(&self) -> &Flow {
        self.open.path.flow()
    }

    fn shown(&self, operator: &Operator) -> Option<Shown<'_>> {
        let Self { open, measured } = self;
        let facts = &open.facts;
        let value = |value: Option<&'_ HeaderValue>| value.map(|value| Shown::Text(escape(value.as_bytes()).into_owned().into()));
        let said = |text: &'_ Option<Cow<'static, str>>| {
            text.as_ref().map(|text| Shown::Text(escape(text.as_bytes()).into_owned().into()))
        };
        let either = |of: &dyn Fn(&HeaderName) -> Option<HeaderValue>, first: &HeaderName, second: &Option<HeaderName>| {
            of(first).or_else(|| second.as_ref().and_then(of))
        };
        match operator {
            Operator::Unknown => None,
            Operator::StartTime => owned(timestamp(open.began_at)),
            Operator::Method => Some(Shown::Text(facts.method.as_str().into())),
            Operator::OriginalPath => value(facts.original_path.as_ref()).or_else(|| self.shown(&Operator::Path)),
            Operator::Path => facts.path.as_ref().map(|path| Shown::Text(escape(path.as_str().as_bytes()))),
            Operator::Authority => value(facts.authority.as_ref()),
            Operator::Scheme => Some(Shown::Text("http".into())),
            Operator::Request(first, second) => value(either(&|name| self.request_value(name).cloned(), first, second).as_ref()),
            Operator::Response(first, second) => {
                value(either(&|name| self.response_value(name).cloned(), first, second).as_ref())
            }
            Operator::Protocol => Some(Shown::Text(protocol(facts.version).into())),
            Operator::ResponseCode => Some(Shown::Number(open.status.map_or(0, |status| status.as_u16()).into())),
            Operator::ResponseCodeDetails => said(&open.details),
            Operator::ConnectionTerminationDetails => said(&open.termination),
            Operator::ResponseFlags => Some(Shown::Text(open.flags.label())),
            Operator::UpstreamTransportFailureReason => said(&open.upstream_failure),
            Operator::BytesReceived => Some(Shown::Number(measured.request_bytes)),
            Operator::BytesSent => Some(Shown::Number(measured.response_bytes)),
            Operator::Duration => Some(Shown::Number(u64::try_from(measured.duration.as_millis()).unwrap_or(u64::MAX))),
            Operator::UpstreamCluster => owned(open.path.cluster()),
            Operator::UpstreamLocalAddress => open.upstream_local.and_then(owned),
            Operator::RequestedServerName => open.server_name.as_ref().map(|name| Shown::Text(escape(name.as_bytes()))),
            Operator::RouteName => (!open.route.is_empty()).then(|| Shown::Text(escape(open.route.as_bytes()))),
            Operator::GrpcStatus => open.grpc_status.number().map(|number| Shown::Number(number.into())),
            Operator::TraceId => open.span.as_ref().and_then(|span| owned(span.trace_id)),
            Operator::SpanId => open.span.as_ref().and_then(|span| owned(span.span_id)),
            Operator::UpstreamHost
            | Operator::DownstreamLocalAddress
            | Operator::DownstreamLocalAddressWithoutPort
            | Operator::DownstreamLocalPort
            | Operator::DownstreamRemoteAddress
            | Operator::DownstreamRemoteAddressWithoutPort
            | Operator::DownstreamPeerUriSan
            | Operator::DownstreamLocalUriSan => of_flow(open.path.flow(), operator),
        }
    }
}

impl Ended for OfConnection<'_> {
    fn flow(&self) -> &Flow {
        self.flow
    }

    fn shown(&self, operator: &Operator) -> Option<Shown<'_>> {
        match (operator, self.bytes) {
            (Operator::StartTime, _) => owned(timestamp(std::time::SystemTime::now() - self.since)),
            (Operator::Duration, _) => Some(Shown::Number(u64::try_from(self.since.as_millis()).unwrap_or(u64::MAX))),
            (Operator::BytesReceived, Some((received, _))) => Some(Shown::Number(received)),
            (Operator::BytesSent, Some((_, sent))) => Some(Shown::Number(sent)),
            (Operator::ResponseCode, _) => Some(Shown::Number(0)),
            (Operator::ResponseFlags, _) => Some(Shown::Text(self.flags.into())),
            (Operator::ConnectionTerminationDetails, _) => self.failure.map(|failure| Shown::Text(escape(failure.as_bytes()))),
            (operator, _) => of_flow(self.flow, operator),
        }
    }
}
