//! What expressions and formats of logs are told of a request, or of a connection that carries none.

use std::{borrow::Cow, net::SocketAddr, time::Duration};

use http::{HeaderName, HeaderValue};
use mesh_policy::{
    expression::{Attribute, Fact, Facts},
    model::Identity,
};

use super::{
    Direction, Flow, Path, Security,
    access_log::protocol,
    request::Open,
    series::{GrpcStatus, Measured},
};

/// A request that has ended.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) open: &'a Open,
    pub(super) measured: Measured,
}

/// What is known without a request.
#[derive(Clone, Copy)]
pub(super) struct OfConnection<'a> {
    pub(super) flow: &'a Flow,
    /// Received from the client and sent to it, once it has ended.
    pub(super) bytes: Option<(u64, u64)>,
    /// How long it was open.
    pub(super) since: Duration,
    /// Of a connection that did not end well.
    pub(super) flags: &'static str,
    pub(super) failure: Option<&'a str>,
}

impl<'a> OfConnection<'a> {
    /// One that is being opened.
    pub(super) fn opening(flow: &'a Flow) -> Self {
        Self { flow, bytes: None, since: Duration::ZERO, flags: "-", failure: None }
    }
}

/// What is known of all requests of a path.
pub(super) struct OfPath<'a>(pub(super) &'a Path);

#[allow(clippy::unnecessary_wraps, reason = "as the other kinds of facts, which may be missing")]
fn text(value: impl Into<String>) -> Option<Fact<'static>> {
    Some(Fact::Text(Cow::Owned(value.into())))
}

fn borrowed(value: &str) -> Option<Fact<'_>> {
    (!value.is_empty()).then_some(Fact::Text(Cow::Borrowed(value)))
}

#[allow(clippy::unnecessary_wraps, reason = "as the other kinds of facts, which may be missing")]
fn number(value: impl TryInto<i64>) -> Option<Fact<'static>> {
    Some(Fact::Number(value.try_into().unwrap_or(i64::MAX)))
}

fn address(value: SocketAddr) -> Option<Fact<'static>> {
    text(value.to_string())
}

fn header(value: Option<&HeaderValue>) -> Option<Fact<'_>> {
    value.map(|value| Fact::Text(String::from_utf8_lossy(value.as_bytes())))
}

/// The one that a certificate of this hop says: the client's, as the server sees it.
pub(super) fn proved(flow: &Flow, of: Direction) -> Option<&Identity> {
    let party = match of {
        Direction::Outbound => &flow.source,
        Direction::Inbound => &flow.destination,
    };
    party.identity.as_ref().filter(|_| flow.security == Security::MutualTls)
}

fn of_flow(flow: &Flow, attribute: Attribute) -> Option<Fact<'_>> {
    let (source, destination) = (flow.source.workload.as_deref(), flow.destination.workload.as_deref());
    let service = flow.service.as_deref();
    match attribute {
        Attribute::SourceAddress => address(flow.source_address),
        Attribute::SourcePort => number(flow.source_address.port()),
        Attribute::SourcePrincipal => flow.source.identity.as_ref().and_then(|identity| text(identity.to_string())),
        Attribute::SourceNamespace | Attribute::SourceWorkloadNamespace => borrowed(&source?.namespace),
        Attribute::SourceWorkloadName => borrowed(&source?.workload_name),
        Attribute::DestinationAddress => address(flow.original_destination),
        Attribute::DestinationPort => number(flow.original_destination.port()),
        Attribute::DestinationPrincipal => flow.destination.identity.as_ref().and_then(|identity| text(identity.to_string())),
        Attribute::DestinationNamespace | Attribute::DestinationWorkloadNamespace => borrowed(&destination?.namespace),
        Attribute::DestinationWorkloadName => borrowed(&destination?.workload_name),
        Attribute::DestinationServiceHost => borrowed(&service?.hostname),
        Attribute::DestinationServiceName => borrowed(&service?.name),
        Attribute::DestinationServiceNamespace => borrowed(&service?.namespace),
        Attribute::ConnectionMtls => Some(Fact::Is(flow.security == Security::MutualTls)),
        Attribute::ConnectionUriSanPeer => match flow.direction {
            Direction::Inbound => proved(flow, Direction::Outbound).and_then(|identity| text(identity.to_string())),
            Direction::Outbound => None,
        },
        Attribute::ConnectionUriSanLocal => match flow.direction {
            Direction::Inbound => proved(flow, Direction::Inbound).and_then(|identity| text(identity.to_string())),
            Direction::Outbound => None,
        },
        Attribute::UpstreamAddress => flow.destination_address.and_then(address),
        Attribute::UpstreamPort => flow.destination_address.and_then(|address| number(address.port())),
        Attribute::RequestPath
        | Attribute::RequestUrlPath
        | Attribute::RequestQuery
        | Attribute::RequestHost
        | Attribute::RequestScheme
        | Attribute::RequestMethod
        | Attribute::RequestReferer
        | Attribute::RequestUserAgent
        | Attribute::RequestId
        | Attribute::RequestProtocol
        | Attribute::RequestSize
        | Attribute::ResponseCode
        | Attribute::ResponseCodeDetails
        | Attribute::ResponseFlags
        | Attribute::ResponseGrpcStatus
        | Attribute::ResponseSize
        | Attribute::ConnectionRequestedServerName
        | Attribute::ConnectionTerminationDetails
        | Attribute::UpstreamLocalAddress
        | Attribute::UpstreamTransportFailureReason
        | Attribute::XdsClusterName
        | Attribute::XdsRouteName => None,
    }
}

impl Told<'_> {
    /// One value of a header that the plan has asked for.
    pub(super) fn request_value(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.open.facts.kept.iter().find(|(found, _)| found == name).map(|(_, value)| value)
    }

    pub(super) fn response_value(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.open.kept.iter().find(|(found, _)| found == name).map(|(_, value)| value)
    }
}

impl Facts for Told<'_> {
    fn fact(&self, attribute: Attribute) -> Option<Fact<'_>> {
        let Self { open, measured } = self;
        let facts = &open.facts;
        let said = |found: &'_ Option<Cow<'static, str>>| found.clone().map(Fact::Text);
        match attribute {
            Attribute::RequestPath => facts.path.as_ref().and_then(|path| borrowed(path.as_str())),
            Attribute::RequestUrlPath => facts.path.as_ref().and_then(|path| borrowed(path.path())),
            Attribute::RequestQuery => Some(Fact::Text(facts.path.as_ref()?.query().unwrap_or_default().into())),
            Attribute::RequestHost => header(facts.authority.as_ref()),
            Attribute::RequestScheme => borrowed("http"),
            Attribute::RequestMethod => borrowed(facts.method.as_str()),
            Attribute::RequestReferer => header(self.request_value(&http::header::REFERER)),
            Attribute::RequestUserAgent => header(facts.user_agent.as_ref()),
            Attribute::RequestId => header(facts.request_id.as_ref()),
            Attribute::RequestProtocol => borrowed(protocol(facts.version)),
            Attribute::RequestSize => number(measured.request_bytes),
            Attribute::ResponseSize => number(measured.response_bytes),
            Attribute::ResponseCode => number(open.status.map_or(0, |status| status.as_u16())),
            Attribute::ResponseCodeDetails => said(&open.details),
            Attribute::ResponseFlags => number(open.flags.bits()),
            Attribute::ResponseGrpcStatus => match (facts.grpc, open.grpc_status) {
                (true, GrpcStatus::Known(status)) => number(status),
                _ => None,
            },
            Attribute::ConnectionRequestedServerName => open.server_name.as_deref().and_then(borrowed),
            Attribute::ConnectionTerminationDetails => said(&open.termination),
            Attribute::UpstreamLocalAddress => open.upstream_local.and_then(address),
            Attribute::UpstreamTransportFailureReason => said(&open.upstream_failure),
            Attribute::XdsClusterName => text(open.path.cluster().to_string()),
            Attribute::XdsRouteName => borrowed(&open.route),
            other => of_flow(open.path.flow(), other),
        }
    }

    fn request_header(&self, name: &str) -> Option<Cow<'_, str>> {
        let found = self.open.facts.kept.iter().find(|(found, _)| found.as_str() == name);
        found.map(|(_, value)| String::from_utf8_lossy(value.as_bytes()))
    }

    fn response_header(&self, name: &str) -> Option<Cow<'_, str>> {
        let found = self.open.kept.iter().find(|(found, _)| found.as_str() == name);
        found.map(|(_, value)| String::from_utf8_lossy(value.as_bytes()))
    }
}

impl Facts for OfConnection<'_> {
    fn fact(&self, attribute: Attribute) -> Option<Fact<'_>> {
        match (attribute, self.bytes) {
            (Attribute::RequestSize, Some((received, _))) => number(received),
            (Attribute::ResponseSize, Some((_, sent))) => number(sent),
            // As Envoy has it for what is no request.
            (Attribute::ResponseCode, _) => number(0),
            (other, _) => of_flow(self.flow, other),
        }
    }

    fn request_header(&self, _: &str) -> Option<Cow<'_, str>> {
        None
    }

    fn response_header(&self, _: &str) -> Option<Cow<'_, str>> {
        None
    }
}

impl Facts for OfPath<'_> {
    fn fact(&self, attribute: Attribute) -> Option<Fact<'_>> {
        match attribute {
            Attribute::XdsClusterName => text(self.0.cluster().to_string()),
            other => of_flow(self.0.flow(), other),
        }
    }

    fn request_header(&self, _: &str) -> Option<Cow<'_, str>> {
        None
    }

    fn response_header(&self, _: &str) -> Option<Cow<'_, str>> {
        None
    }
}
