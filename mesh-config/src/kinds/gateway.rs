//! The Gateway API's kinds (gateway.networking.k8s.io, version 1.6), by hand: with every field that the API gives them, so
//! that what is left over is unknown.
//!
//! Enumerations are closed: a value that is not in them refuses the object, as its definition in an API server would.

mod duration;
mod grant;
mod grpc;
mod http;
mod parent;
mod stream;

pub use duration::RouteDuration;
pub use grant::{GrantFrom, GrantTo, ReferenceGrant, ReferenceGrantSpec};
pub use grpc::{GrpcMatch, GrpcMethod, GrpcMethodType, GrpcRoute, GrpcRouteRule, GrpcRouteSpec};
pub use http::{
    CorsFilter, Filter, FilterType, Fraction, HeaderFilter, HeaderValue, HttpBackend, HttpRoute, HttpRouteMatch, HttpRouteRule,
    HttpRouteSpec, MatchType, MirrorFilter, PathMatchType, PathModifier, PathModifierType, RedirectFilter, RewriteFilter,
    RouteMethod, RoutePath, RouteRetry, RouteTimeouts, ValueMatch,
};
pub use parent::{BackendObject, Gateway, GatewayClass, GatewayClassSpec, GatewaySpec, LocalObject, ParentRef};
pub use stream::{StreamBackend, StreamRule, TcpRoute, TcpRouteSpec, TlsRoute, TlsRouteSpec};

/// The group of all of them.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
