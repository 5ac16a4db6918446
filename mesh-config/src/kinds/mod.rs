//! The kinds of objects that are understood, and a set of them.

pub mod destination_rule;
mod duration;
pub mod gateway;
mod istio;
mod mesh_config;
mod object;
pub mod telemetry;
pub mod virtual_service;

pub use destination_rule::{DestinationRule, DestinationRuleSpec};
pub use duration::Span;
pub use istio::{
    Action, AuthorizationPolicy, AuthorizationPolicySpec, Condition, EntryPort, EntrySelector, ExtensionProvider, From, MtlsMode,
    MutualTls, Operation, PeerAuthentication, PeerAuthenticationSpec, Resolution, Resource, Rule, ServiceEntry,
    ServiceEntryLocation, ServiceEntrySpec, Source, TargetRef, To, WorkloadEntry, WorkloadEntrySpec, WorkloadSelector,
};
pub use mesh_config::{
    DefaultTrafficPolicy, MeshConfig, NormalizationType, OutboundMode, OutboundTrafficPolicy, ProxyPathNormalization,
    known_but_not_honoured,
};
pub use object::{Kind, Name, Object, ObjectKey, Objects, Recognised, recognise};
pub use telemetry::{Telemetry, TelemetrySpec};
pub use virtual_service::{VirtualService, VirtualServiceSpec};
