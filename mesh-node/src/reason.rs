//! Why a connection failed: one stable code, the same in logs, metrics and the command line.

use std::fmt;

/// Whose doing a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The connection's opener: it went away, or asked for what it may not have.
    Client,
    /// The far end: the application, its node, or the network to it.
    Server,
    /// The mesh itself: not configured yet, out of a resource, shutting down.
    Mesh,
}

/// Whether the same connection may succeed when it is tried again at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Nothing will change by itself.
    Never,
    /// Another endpoint may do better.
    OtherEndpoint,
    /// The same endpoint may do better soon.
    Later,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal, $side:ident, $retry:ident, $flags:literal;)+) => {
        /// The stable reasons. Documented for users in `docs/reason-codes.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[doc = $doc])+ $variant,)+ }

        impl Reason {
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// As written in logs, metrics and the command line; never changes for a variant.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            pub const fn side(self) -> Side {
                match self { $(Self::$variant => Side::$side,)+ }
            }

            pub const fn retry(self) -> Retry {
                match self { $(Self::$variant => Retry::$retry,)+ }
            }

            /// The `response_flags` label of Istio's TCP metrics.
            pub const fn response_flags(self) -> &'static str {
                match self { $(Self::$variant => $flags,)+ }
            }

            /// One sentence for people: what happened and the likely cause.
            pub const fn explain(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

reasons! {
    /// The connection did not come through the capture, so what it wants is unknown: somebody dialled the proxy's port.
    NotCaptured = "NOT_CAPTURED", Client, Never, "-";
    /// The pod is not known to the controller yet, so no policy can be applied to it.
    SourceUnknown = "SOURCE_UNKNOWN", Mesh, Later, "CONNECT";
    /// The address lies inside the mesh but no workload or service has it: it was deleted, or the controller has not sent it.
    UnknownAddress = "UNKNOWN_ADDRESS", Client, Later, "CONNECT";
    /// The address is outside the mesh and outboundTrafficPolicy is REGISTRY_ONLY.
    RegistryOnly = "REGISTRY_ONLY", Client, Never, "CONNECT";
    /// The service has no such port.
    NoServicePort = "NO_SERVICE_PORT", Client, Never, "CONNECT";
    /// The service has no endpoint.
    NoEndpoints = "NO_ENDPOINTS", Server, Later, "CONNECT";
    /// The service has endpoints, none with the labels of the subset that the route names.
    NoEndpointInSubset = "NO_ENDPOINT_IN_SUBSET", Server, Later, "CONNECT";
    /// The service has endpoints, none of them ready.
    NoHealthyEndpoint = "NO_HEALTHY_ENDPOINT", Server, Later, "CONNECT";
    /// The service has ready endpoints, but none where it wants them (internalTrafficPolicy: Local).
    NoEndpointInScope = "NO_ENDPOINT_IN_SCOPE", Server, Later, "CONNECT";
    /// The service's ready endpoints have failed this client too often and are left out for a time (outlierDetection).
    EndpointsEjected = "ENDPOINTS_EJECTED", Server, Later, "CONNECT";
    /// The endpoint has a name and no address, and the node found none: is the name right, and are the servers of names reached?
    NameNotResolved = "NAME_NOT_RESOLVED", Server, OtherEndpoint, "CONNECT";
    /// Nothing listens at the destination's address and port.
    ConnectRefused = "CONNECT_REFUSED", Server, OtherEndpoint, "CONNECT";
    /// The destination did not answer in time: is it down, or a NetworkPolicy closing its port?
    ConnectTimeout = "CONNECT_TIMEOUT", Server, OtherEndpoint, "CONNECT";
    /// The network refused the connection: no route, or no permission.
    ConnectFailed = "CONNECT_FAILED", Server, OtherEndpoint, "CONNECT";
    /// The workload has no certificate yet: the controller is away, or refuses to sign.
    CertificatePending = "CERTIFICATE_PENDING", Mesh, Later, "IDENTITY_ERROR";
    /// The other node could not be reached on port 15008: is it down, or a NetworkPolicy closing the port?
    PeerUnreachable = "PEER_UNREACHABLE", Server, OtherEndpoint, "NETWORK_POLICY";
    /// The TLS handshake with the other node failed.
    TlsHandshake = "TLS_HANDSHAKE", Server, OtherEndpoint, "TLS_FAILURE";
    /// The peer proved another identity than the one expected.
    IdentityMismatch = "IDENTITY_MISMATCH", Server, OtherEndpoint, "IDENTITY_ERROR";
    /// The peer does not speak HBONE.
    H2Handshake = "H2_HANDSHAKE", Server, OtherEndpoint, "H2_HANDSHAKE_FAILURE";
    /// The destination's policy refused the connection.
    ConnectDenied = "CONNECT_DENIED", Server, Never, "DENY";
    /// The destination's node could not reach its application.
    ConnectUnreachable = "CONNECT_UNREACHABLE", Server, OtherEndpoint, "CONNECT";
    /// The target of the CONNECT is not this pod, or not a port that may be reached.
    BadTarget = "BAD_TARGET", Client, Never, "CONNECT";
    /// The tunnel broke while the connection was open.
    TunnelClosed = "TUNNEL_CLOSED", Server, Later, "CONNECT";
    /// A DENY policy matched.
    PolicyDeny = "POLICY_DENY", Client, Never, "DENY";
    /// ALLOW policies apply and none of them matched.
    NoAllowMatched = "NO_ALLOW_MATCHED", Client, Never, "DENY";
    /// A policy that applies has not arrived yet, so nothing is allowed.
    PolicyNotLoaded = "POLICY_NOT_LOADED", Mesh, Later, "DENY";
    /// A policy change closed the open connection.
    PolicyRevoked = "POLICY_REVOKED", Client, Never, "DENY";
    /// No source port is left to deliver this client's connection to this pod's port.
    DeliveryPortsExhausted = "DELIVERY_PORTS_EXHAUSTED", Mesh, Later, "CONNECT";
    /// The pod has as many connections as it may.
    Overload = "OVERLOAD", Mesh, Later, "CONNECT";
    /// The request breaks the rules of HTTP, or names a path or host that nothing may have.
    BadRequest = "BAD_REQUEST", Client, Never, "-";
    /// The service has routes for the port, and none of them matches the request.
    NoRoute = "NO_ROUTE", Client, Never, "NR";
    /// The route leads to no backend: what it names is not there or may not be named, or all weights are zero.
    InvalidBackend = "INVALID_BACKEND", Mesh, Never, "NC";
    /// The server closed the connection, or reset the stream, before it answered the request.
    UpstreamReset = "UPSTREAM_RESET", Server, OtherEndpoint, "UC";
    /// The server's answer breaks the rules of HTTP.
    UpstreamProtocol = "UPSTREAM_PROTOCOL", Server, OtherEndpoint, "UPE";
    /// The server did not answer the request within the route's timeout.
    RequestTimeout = "REQUEST_TIMEOUT", Server, Later, "UT";
    /// The client has as many requests or connections open to the service as its DestinationRule allows.
    UpstreamOverflow = "UPSTREAM_OVERFLOW", Mesh, Later, "UO";
    /// The client's request broke off before its end.
    RequestBroken = "REQUEST_BROKEN", Client, Never, "DR";
    /// The client did not come to an end with the head of its request, or sent nothing more of its body, for too long.
    RequestSlow = "REQUEST_SLOW", Client, Never, "SI";
    /// Nothing was carried for as long as the DestinationRule lets a connection be silent (connectionPool.tcp.idleTimeout).
    ConnectionIdle = "CONNECTION_IDLE", Mesh, Later, "SI";
    /// The connection has stood for as long as the DestinationRule lets it (connectionPool.tcp.maxConnectionDuration).
    ConnectionDuration = "CONNECTION_DURATION", Mesh, Later, "DT";
    /// The client reset the connection.
    ClientReset = "CLIENT_RESET", Client, Never, "-";
    /// The server reset the connection.
    ServerReset = "SERVER_RESET", Server, Never, "-";
    /// The node proxy is shutting down.
    Draining = "DRAINING", Mesh, Later, "-";
    /// The node proxy could not do its own part; the log says what.
    Internal = "INTERNAL", Mesh, Later, "CONNECT";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A failure on its way to the log: the stable reason, and what is known of this one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: Reason,
    /// Names the thing concerned and, where there is one, the cause.
    pub detail: String,
}

impl Failure {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// What a failed `connect()` to `to` means.
    pub fn from_connect(error: &std::io::Error, to: std::net::SocketAddr) -> Self {
        let reason = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
            std::io::ErrorKind::TimedOut => Reason::ConnectTimeout,
            _ => Reason::ConnectFailed,
        };
        Self::new(reason, format!("{to}: {error}"))
    }
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self { reason, detail: String::new() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() { write!(f, "{}", self.reason) } else { write!(f, "{}: {}", self.reason, self.detail) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// `docs/reason-codes.md`, for users; written anew by the test below when `KEELSON_WRITE_DOCS` is set.
    fn page() -> String {
        let mut page = String::from(
            "# Reason codes\n\nWhy a connection failed, in one word: the same in the access log (`reason=`), in the metric\n\
             `keelson_connection_failures_total{reason=…}` and on the command line. The codes never change their meaning.\n\n\
             | code | whose doing | trying again | what happened |\n| --- | --- | --- | --- |\n",
        );
        for reason in Reason::ALL {
            let side = match reason.side() {
                Side::Client => "client",
                Side::Server => "server",
                Side::Mesh => "mesh",
            };
            let retry = match reason.retry() {
                Retry::Never => "changes nothing",
                Retry::OtherEndpoint => "another endpoint may do",
                Retry::Later => "may do soon",
            };
            page += &format!("| `{reason}` | {side} | {retry} | {} |\n", reason.explain().trim());
        }
        page
    }

    #[test]
    fn the_page_for_users_has_every_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reason-codes.md");
        if std::env::var_os("KEELSON_WRITE_DOCS").is_some() {
            std::fs::write(path, page()).expect("docs/reason-codes.md");
        }
        let written = std::fs::read_to_string(path).expect("docs/reason-codes.md");
        assert!(written == page(), "docs/reason-codes.md is out of date: run this test with KEELSON_WRITE_DOCS=1");
    }

    #[test]
    fn codes_are_unique_and_shouted() {
        let codes: HashSet<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        assert!(
            codes.iter().all(|code| code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_' || byte.is_ascii_digit()))
        );
    }
}
