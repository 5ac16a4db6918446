//! Mesh-wide settings from MeshConfig.

use std::sync::Arc;

use mesh_policy::model::{Mesh, OutboundPolicy, TrustDomain};

use super::Report;
use crate::{
    kinds::{Kind, Name, ObjectKey, Objects, OutboundMode},
    status::{Code, Level, Message},
    validate::{MESH_CONFIG_NAME, ROOT_NAMESPACE, mesh_config, parse_duration},
};

/// The mesh without its prefixes, and the root namespace.
pub(super) fn settings(objects: &Objects, report: &mut Report) -> (Mesh, Arc<str>) {
    let mut mesh = Mesh::default();
    let mut root: Arc<str> = ROOT_NAMESPACE.into();
    let Some(map) = objects.config_maps.get(&Name::new(ROOT_NAMESPACE, MESH_CONFIG_NAME)) else {
        return (mesh, root);
    };
    let key = ObjectKey::new(Kind::ConfigMap, ROOT_NAMESPACE, MESH_CONFIG_NAME);
    let (config, messages) = match mesh_config(map) {
        Ok(found) => found,
        // Admitted objects cannot be refused here.
        Err(problem) => {
            report.tell(key, Message::new(Level::Error, Code::Invalid, problem.field, problem.cause.to_string()));
            return (mesh, root);
        }
    };
    for message in messages {
        report.tell(key.clone(), message);
    }
    if let Some(domain) = config.trust_domain.as_deref().and_then(|name| TrustDomain::new(name).ok()) {
        mesh.trust_domain = domain;
    }
    mesh.trust_domain_aliases = config.trust_domain_aliases.iter().filter_map(|name| TrustDomain::new(name).ok()).collect();
    if let Some(namespace) = config.root_namespace {
        root = namespace.into();
    }
    if let Some(seconds) = config.hbone_idle_timeout.as_deref().and_then(parse_duration) {
        mesh.hbone_idle_timeout_s = seconds.max(1);
    }
    mesh.outbound_policy = match config.outbound_traffic_policy.and_then(|policy| policy.mode) {
        Some(OutboundMode::RegistryOnly) => OutboundPolicy::RegistryOnly,
        Some(OutboundMode::AllowAny) | None => OutboundPolicy::AllowAny,
        Some(OutboundMode::AllowAnyDynamicDns) => {
            let text = "treated as ALLOW_ANY";
            report.tell(key, Message::new(Level::Warning, Code::NotHonoured, "data.mesh: outboundTrafficPolicy.mode", text));
            OutboundPolicy::AllowAny
        }
    };
    (mesh, root)
}
