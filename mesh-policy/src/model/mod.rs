//! Workloads, services, policies and identities as the data path understands them, whatever they came from.
//!
//! Kubernetes objects, a folder of the same YAML and istiod's wire format all end here. A value of these types is
//! right by construction: what could not be understood was refused, or marked, at the edge.

mod document;
pub mod header;
mod http_settings;
mod identity;
mod mesh;
mod policy;
mod route;
mod service;
mod snapshot;
mod telemetry;
mod text;
mod traffic;
mod workload;

pub use document::{Document, DocumentKey};
pub use header::{Header, HeaderMatch, HeaderOps};
pub use http_settings::{HttpSettings, PathNormalization};
pub use identity::{Identity, ParseIdentityError, TrustDomain};
pub use mesh::{Mesh, OutboundPolicy};
pub use policy::{
    Action, Authorization, Clause, HeaderCondition, IpMatch, Match, PathPattern, PathTemplate, PathTemplateError, PolicyKey,
    RequestMatch, Rule, Scope, ServiceAccountMatch, StringMatch,
};
pub use route::{
    Abort, AbortWith, Backend, BackendRef, ClientMatch, ConnectionMatch, Cors, Delay, DirectResponse, Fault, HttpAction,
    HttpMatch, HttpRule, Mirror, Origin, PathChange, PathMatch, Percent, QueryMatch, Redirect, RedirectPort, RetryCondition,
    RetryOn, RetryPolicy, Rewrite, Routes, RoutesKey, Target, TcpRule, TlsRule, UnmatchedPreflights,
};
pub use service::{
    AppProtocol, Exports, HealthPolicy, LoadBalancing, RoutingMode, RoutingScope, Service, ServiceKey, ServicePort,
    VirtualAddress,
};
pub use snapshot::{Endpoint, Model, Snapshot};
pub use telemetry::{
    AccessLog, Applies, Collector, Half, LogForm, LogLine, LogPiece, Logs, Metric, MetricOverride, MetricSettings, Operator,
    SpanTag, Tag, Telemetry, TelemetryKey, TraceTo, Tracing, Variable,
};
pub use text::{Pattern, PatternError, TextMatch};
pub use traffic::{
    Balance, ConnectionLimits, Distribution, H2Upgrade, HashAlgorithm, HashCookie, HashKey, LocalityPolicy, OutlierDetection,
    RetryBudget, Subset, TcpKeepalive, TrafficKey, TrafficPolicy, TrafficRule, Warmup,
};
pub use workload::{Health, Locality, NetworkMode, PortMapping, TunnelProtocol, Workload, WorkloadKind, WorkloadUid};
