//! The kinds of objects that are understood, and a set of them.

mod istio;
mod mesh_config;
mod object;

pub use istio::{
    Action, AuthorizationPolicy, AuthorizationPolicySpec, Condition, EntryPort, EntrySelector, ExtensionProvider, From, MtlsMode,
    MutualTls, Operation, PeerAuthentication, PeerAuthenticationSpec, Resolution, Resource, Rule, ServiceEntry,
    ServiceEntryLocation, ServiceEntrySpec, Source, TargetRef, To, WorkloadEntry, WorkloadEntrySpec, WorkloadSelector,
};
pub use mesh_config::{MeshConfig, OutboundMode, OutboundTrafficPolicy, known_but_not_honoured};
pub use object::{Kind, Name, Object, ObjectKey, Objects, Recognised, recognise};
