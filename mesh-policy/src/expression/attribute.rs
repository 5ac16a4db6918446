//! The attributes that expressions may speak of: Envoy's names, and Istio's of the two ends.

macro_rules! attributes {
    ($($name:ident = $text:literal,)+) => {
        /// An attribute of a request, its answer or its connection.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Attribute {
            $(#[doc = concat!("`", $text, "`")] $name,)+
        }

        impl Attribute {
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// By its whole name.
            pub fn named(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

attributes! {
    RequestPath = "request.path",
    RequestUrlPath = "request.url_path",
    RequestQuery = "request.query",
    RequestHost = "request.host",
    RequestScheme = "request.scheme",
    RequestMethod = "request.method",
    RequestReferer = "request.referer",
    RequestUserAgent = "request.useragent",
    RequestId = "request.id",
    RequestProtocol = "request.protocol",
    RequestSize = "request.size",
    ResponseCode = "response.code",
    ResponseCodeDetails = "response.code_details",
    ResponseFlags = "response.flags",
    ResponseGrpcStatus = "response.grpc_status",
    ResponseSize = "response.size",
    SourceAddress = "source.address",
    SourcePort = "source.port",
    SourcePrincipal = "source.principal",
    SourceNamespace = "source.namespace",
    SourceWorkloadName = "source.workload.name",
    SourceWorkloadNamespace = "source.workload.namespace",
    DestinationAddress = "destination.address",
    DestinationPort = "destination.port",
    DestinationPrincipal = "destination.principal",
    DestinationNamespace = "destination.namespace",
    DestinationWorkloadName = "destination.workload.name",
    DestinationWorkloadNamespace = "destination.workload.namespace",
    DestinationServiceHost = "destination.service.host",
    DestinationServiceName = "destination.service.name",
    DestinationServiceNamespace = "destination.service.namespace",
    ConnectionMtls = "connection.mtls",
    ConnectionRequestedServerName = "connection.requested_server_name",
    ConnectionUriSanPeer = "connection.uri_san_peer_certificate",
    ConnectionUriSanLocal = "connection.uri_san_local_certificate",
    ConnectionTerminationDetails = "connection.termination_details",
    UpstreamAddress = "upstream.address",
    UpstreamPort = "upstream.port",
    UpstreamLocalAddress = "upstream.local_address",
    UpstreamTransportFailureReason = "upstream.transport_failure_reason",
    XdsClusterName = "xds.cluster_name",
    XdsRouteName = "xds.route_name",
}
