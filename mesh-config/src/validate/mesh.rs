//! MeshConfig inside its ConfigMap.

use k8s_openapi::api::core::v1::ConfigMap;
use mesh_policy::model::TrustDomain;
use serde_json::{Map, Value};

use super::{
    destination_rule, from_value,
    problem::{Cause, Problem},
    span::{duration, duration_or_off},
    telemetry,
    virtual_service::retries,
};
use crate::{
    document::{Format, Limits, documents},
    kinds::{MeshConfig, ObjectKey, Span, known_but_not_honoured},
    status::{Code, Level, Message},
};

/// Where the mesh's own configuration lives.
pub const ROOT_NAMESPACE: &str = "istio-system";
/// The ConfigMap that holds MeshConfig …
pub const MESH_CONFIG_NAME: &str = "istio";
/// … and the key that it is under.
pub const MESH_CONFIG_KEY: &str = "mesh";

pub(super) fn config_map(key: &ObjectKey, map: &ConfigMap) -> Vec<Problem> {
    if &*key.name.namespace != ROOT_NAMESPACE || &*key.name.name != MESH_CONFIG_NAME {
        return Vec::new();
    }
    mesh_config(map).err().into_iter().collect()
}

/// MeshConfig and remarks on the fields of it that have no effect; the default where the key is missing.
pub fn mesh_config(map: &ConfigMap) -> Result<(MeshConfig, Vec<Message>), Problem> {
    let at = |field: &str| format!("data.{MESH_CONFIG_KEY}: {field}");
    let Some(text) = map.data.as_ref().and_then(|data| data.get(MESH_CONFIG_KEY)) else {
        return Ok((MeshConfig::default(), Vec::new()));
    };
    let parsed = documents(text.as_bytes(), Format::Yaml, Limits::default())
        .map_err(|error| Problem::new(at(""), Cause::Type { message: error.to_string() }))?;
    let fields = match parsed.into_iter().next() {
        Some(Value::Object(fields)) => camel_case(fields),
        _ => Map::new(),
    };
    let (config, unknown): (MeshConfig, _) =
        from_value(Value::Object(fields)).map_err(|problem| Problem::new(at(&problem.field), problem.cause))?;
    check(&config).map_err(|problem| Problem::new(at(&problem.field), problem.cause))?;

    let mut messages: Vec<Message> = unknown.into_iter().map(|field| not_honoured(&at(&field), &field)).collect();
    if let Some(policy) = &config.outbound_traffic_policy
        && policy.tls.is_some()
    {
        messages.push(not_honoured(&at("outboundTrafficPolicy.tls"), "defaultConfig"));
    }
    messages.sort();
    Ok((config, messages))
}

fn check(config: &MeshConfig) -> Result<(), Problem> {
    let domains = config.trust_domain.iter().map(|domain| ("trustDomain", domain));
    let aliases = config.trust_domain_aliases.iter().map(|domain| ("trustDomainAliases", domain));
    for (field, domain) in domains.chain(aliases) {
        TrustDomain::new(domain).map_err(|_| Problem::new(field, Cause::form(domain, "a trust domain")))?;
    }
    if let Some(timeout) = &config.hbone_idle_timeout {
        parse_duration(timeout)
            .filter(|seconds| *seconds > 0)
            .ok_or_else(|| Problem::new("hboneIdleTimeout", Cause::form(timeout, "a duration of at least one second")))?;
    }
    if config.root_namespace.as_ref().is_some_and(String::is_empty) {
        return Err(Problem::new("rootNamespace", Cause::Empty));
    }
    traffic(config).into_iter().next().or_else(|| telemetry::mesh_config(config)).map_or(Ok(()), Err)
}

/// The parts that DestinationRule and VirtualService have too.
fn traffic(config: &MeshConfig) -> Vec<Problem> {
    let mut out = Vec::new();
    if let Some(policy) = &config.default_http_retry_policy {
        retries("defaultHttpRetryPolicy", policy, &mut out);
    }
    if let Some(setting) = &config.locality_lb_setting {
        destination_rule::locality("localityLbSetting", setting, &mut out);
    }
    if let Some(policy) = &config.default_traffic_policy {
        if let Some(pool) = &policy.connection_pool {
            destination_rule::connection_pool("defaultTrafficPolicy.connectionPool", pool, &mut out);
        }
        if let Some(outlier) = &policy.outlier_detection {
            destination_rule::outlier_detection("defaultTrafficPolicy.outlierDetection", outlier, &mut out);
        }
    }
    duration("connectTimeout", config.connect_timeout, &mut out);
    duration_or_off("protocolDetectionTimeout", config.protocol_detection_timeout, &mut out);
    out
}

fn not_honoured(at: &str, field: &str) -> Message {
    let first = field.split('.').next().unwrap_or(field);
    if known_but_not_honoured(first) {
        Message::new(Level::Warning, Code::NotHonoured, at, "this version does not follow it")
    } else {
        Message::new(Level::Warning, Code::UnknownField, at, "not a field of MeshConfig")
    }
}

/// Istio reads MeshConfig in both spellings of proto fields.
fn camel_case(fields: Map<String, Value>) -> Map<String, Value> {
    let rename = |name: String| {
        let mut parts = name.split('_');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |mut name, part| {
            let mut letters = part.chars();
            name.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
            name + letters.as_str()
        })
    };
    fields.into_iter().map(|(name, value)| (rename(name), value)).collect()
}

/// Whole seconds of a duration in Go's form (`1h30m`, `300s`, `1.5s` rounded down).
pub fn parse_duration(text: &str) -> Option<u64> {
    Span::parse(text).map(|Span(duration)| duration.as_secs())
}
