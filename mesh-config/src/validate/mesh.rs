//! MeshConfig inside its ConfigMap.

use k8s_openapi::api::core::v1::ConfigMap;
use mesh_policy::model::TrustDomain;
use serde_json::{Map, Value};

use super::{
    from_value,
    problem::{Cause, Problem},
};
use crate::{
    document::{Format, Limits, documents},
    kinds::{MeshConfig, ObjectKey, known_but_not_honoured},
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
    Ok(())
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
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        seconds += number
            * match &unit[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &unit[end..];
    }
    // Ten years is more than any timeout means.
    #[allow(clippy::cast_sign_loss, reason = "sums of parsed digits are not negative")]
    (!text.is_empty() && seconds < 3.2e8).then_some(seconds as u64)
}
