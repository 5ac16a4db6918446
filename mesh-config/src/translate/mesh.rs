//! Mesh-wide settings from MeshConfig.

use std::{sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_policy::model::{HttpSettings, Mesh, OutboundPolicy, PathNormalization, TrustDomain};

use super::{Report, protocol, retry, telemetry, traffic};
use crate::{
    kinds::{Kind, MeshConfig, Name, NormalizationType, ObjectKey, Objects, OutboundMode, Span},
    status::{Code, Level, Message},
    validate::{MESH_CONFIG_NAME, ROOT_NAMESPACE, mesh_config, parse_duration},
};

/// What MeshConfig says, by who needs it.
#[derive(Debug)]
pub(super) struct MeshSettings {
    /// Without its prefixes.
    pub(super) mesh: Mesh,
    pub(super) root: Arc<str>,
    pub(super) http: HttpSettings,
    pub(super) traffic: traffic::Defaults,
    pub(super) telemetry: telemetry::Providers,
    pub(super) virtual_service_exports: Vec<String>,
    pub(super) destination_rule_exports: Vec<String>,
}

pub(super) fn settings(objects: &Objects, report: &mut Report) -> MeshSettings {
    let key = ObjectKey::new(Kind::ConfigMap, ROOT_NAMESPACE, MESH_CONFIG_NAME);
    let Some(map) = objects.config_maps.get(&Name::new(ROOT_NAMESPACE, MESH_CONFIG_NAME)) else {
        return of(MeshConfig::default(), None, &key, report);
    };
    match mesh_config(map) {
        Ok((config, messages)) => {
            for message in messages {
                report.tell(key.clone(), message);
            }
            of(config, Some(&map.metadata), &key, report)
        }
        // Admitted objects cannot be refused here.
        Err(problem) => {
            report.tell(key.clone(), Message::new(Level::Error, Code::Invalid, problem.field, problem.cause.to_string()));
            of(MeshConfig::default(), None, &key, report)
        }
    }
}

fn of(config: MeshConfig, metadata: Option<&ObjectMeta>, key: &ObjectKey, report: &mut Report) -> MeshSettings {
    let MeshConfig {
        trust_domain,
        trust_domain_aliases,
        root_namespace,
        outbound_traffic_policy,
        hbone_idle_timeout,
        path_normalization,
        default_http_retry_policy,
        protocol_detection_timeout,
        locality_lb_setting,
        default_traffic_policy,
        connect_timeout,
        tcp_keepalive,
        h2_upgrade_policy,
        default_virtual_service_export_to,
        default_destination_rule_export_to,
        extension_providers,
        default_providers,
        default_config,
        enable_tracing,
        access_log_file,
        access_log_format,
        access_log_encoding,
    } = config;
    let (providers, remarks) = telemetry::Providers::new(telemetry::Written {
        extension_providers,
        default_providers,
        tracing: default_config.tracing,
        enable_tracing,
        access_log_file,
        access_log_format,
        access_log_encoding,
    });
    for remark in remarks {
        report.tell(key.clone(), remark);
    }
    let mut mesh = Mesh::default();
    if let Some(domain) = trust_domain.as_deref().and_then(|name| TrustDomain::new(name).ok()) {
        mesh.trust_domain = domain;
    }
    mesh.trust_domain_aliases = trust_domain_aliases.iter().filter_map(|name| TrustDomain::new(name).ok()).collect();
    if let Some(seconds) = hbone_idle_timeout.as_deref().and_then(parse_duration) {
        mesh.hbone_idle_timeout_s = seconds.max(1);
    }
    mesh.outbound_policy = match outbound_traffic_policy.and_then(|policy| policy.mode) {
        Some(OutboundMode::RegistryOnly) => OutboundPolicy::RegistryOnly,
        Some(OutboundMode::AllowAny) | None => OutboundPolicy::AllowAny,
        Some(OutboundMode::AllowAnyDynamicDns) => {
            let (field, text) = ("data.mesh: outboundTrafficPolicy.mode", "treated as ALLOW_ANY");
            report.tell(key.clone(), Message::new(Level::Warning, Code::NotHonoured, field, text));
            OutboundPolicy::AllowAny
        }
    };
    let default_policy = default_traffic_policy.unwrap_or_default();
    MeshSettings {
        mesh,
        root: root_namespace.map_or_else(|| ROOT_NAMESPACE.into(), Into::into),
        http: HttpSettings {
            enabled: protocol::http_enabled(metadata, None),
            normalization: path_normalization.map_or_else(PathNormalization::default, |how| normalization(how.normalization)),
            retry: default_http_retry_policy.as_ref().map(retry::policy).unwrap_or_default(),
            detection_timeout: detection_timeout(protocol_detection_timeout, key, report),
        },
        traffic: traffic::Defaults {
            locality: locality_lb_setting,
            pool: default_policy.connection_pool,
            outlier: default_policy.outlier_detection,
            connect_timeout,
            keepalive: tcp_keepalive,
            upgrade: h2_upgrade_policy,
        },
        telemetry: providers,
        virtual_service_exports: default_virtual_service_export_to,
        destination_rule_exports: default_destination_rule_export_to,
    }
}

fn normalization(how: NormalizationType) -> PathNormalization {
    match how {
        NormalizationType::None => PathNormalization::None,
        NormalizationType::Default | NormalizationType::Base => PathNormalization::Base,
        NormalizationType::MergeSlashes => PathNormalization::MergeSlashes,
        NormalizationType::DecodeAndMergeSlashes => PathNormalization::DecodeAndMergeSlashes,
    }
}

/// Istio waits forever where this is zero; here a server that speaks first is never kept waiting.
fn detection_timeout(found: Option<Span>, key: &ObjectKey, report: &mut Report) -> Duration {
    let default = HttpSettings::default().detection_timeout;
    if found.is_some_and(|span| span.0.is_zero()) {
        let text = format!("detection is always bounded: {default:?}");
        let field = "data.mesh: protocolDetectionTimeout";
        report.tell(key.clone(), Message::new(Level::Info, Code::NotHonoured, field, text));
    }
    found.map(|span| span.0).filter(|span| !span.is_zero()).unwrap_or(default)
}
