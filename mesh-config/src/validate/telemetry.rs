//! Telemetry and the providers of MeshConfig (istio's `ValidateTelemetry`, `ValidateMeshConfig`).

use std::collections::{BTreeMap, BTreeSet};

use http::HeaderName;
use mesh_policy::{expression::Expression, model::LogLine};
use serde_json::Value;

use super::{
    policy,
    problem::{Cause, Problem},
};
use crate::kinds::{
    MeshConfig, TelemetrySpec,
    telemetry::{AccessLogging, CustomTag, LogFormat, MeshProvider, Metrics, ProviderRef, TagOperation, TagOverride, Tracing},
};

/// Labels of one metric that may be added or changed.
const MAX_TAGS: usize = 32;
/// Letters of a label's name.
const MAX_TAG_NAME: usize = 64;
/// Tags of a span that may be added, and keys of a log's object.
const MAX_KEYS: usize = 64;
const MAX_PROVIDERS: usize = 256;

pub(super) fn telemetry(spec: &TelemetrySpec) -> Vec<Problem> {
    let mut problems = policy::attachment(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs);
    let out = &mut problems;
    for (index, found) in spec.tracing.iter().enumerate() {
        tracing(&format!("spec.tracing[{index}]"), found, out);
    }
    for (index, found) in spec.metrics.iter().enumerate() {
        metrics(&format!("spec.metrics[{index}]"), found, out);
    }
    for (index, found) in spec.access_logging.iter().enumerate() {
        access_logging(&format!("spec.accessLogging[{index}]"), found, out);
    }
    problems
}

/// The first fault of what MeshConfig says of telemetry.
pub(super) fn mesh_config(config: &MeshConfig) -> Option<Problem> {
    let mut problems = Vec::new();
    let out = &mut problems;
    if config.extension_providers.len() > MAX_PROVIDERS {
        let cause = Cause::TooMany { found: config.extension_providers.len(), limit: MAX_PROVIDERS };
        out.push(Problem::new("extensionProviders", cause));
    }
    let mut names = BTreeSet::new();
    for (index, found) in config.extension_providers.iter().enumerate() {
        let at = format!("extensionProviders[{index}]");
        if found.name.is_empty() {
            out.push(Problem::new(format!("{at}.name"), Cause::Missing));
        } else if !names.insert(&found.name) {
            out.push(Problem::new(format!("{at}.name"), Cause::Duplicate { found: found.name.clone() }));
        }
        provider(&at, found, out);
    }
    if let Some(format) = config.access_log_format.as_deref().filter(|format| !format.is_empty())
        && let Err(message) = mesh_log_format(config, format)
    {
        out.push(Problem::new("accessLogFormat", Cause::Type { message }));
    }
    if let Some(tracing) = &config.default_config.tracing {
        percentage("defaultConfig.tracing.sampling", tracing.sampling, out);
        custom_tags("defaultConfig.tracing.customTags", tracing.custom_tags.as_ref(), out);
    }
    problems.into_iter().next()
}

fn mesh_log_format(config: &MeshConfig, format: &str) -> Result<(), String> {
    use crate::kinds::telemetry::AccessLogEncoding;
    match config.access_log_encoding.unwrap_or_default() {
        AccessLogEncoding::Text => LogLine::new(format).map(drop).map_err(|error| error.to_string()),
        AccessLogEncoding::Json => match serde_json::from_str(format) {
            Ok(Value::Object(labels)) => {
                let mut problems = Vec::new();
                keys("", &labels.into_iter().collect(), &mut problems);
                problems.first().map_or(Ok(()), |problem| Err(problem.to_string()))
            }
            Ok(_) => Err("not a JSON object".into()),
            Err(error) => Err(error.to_string()),
        },
    }
}

fn provider(at: &str, found: &MeshProvider, out: &mut Vec<Problem>) {
    if let Some(LogFormat { text, labels }) = found.envoy_file_access_log.as_ref().and_then(|log| log.log_format.as_ref()) {
        let at = format!("{at}.envoyFileAccessLog.logFormat");
        if text.is_some() && labels.is_some() {
            out.push(Problem::new(format!("{at}.text"), Cause::Exclusive { other: "labels" }));
        }
        if let Some(error) = text.as_deref().and_then(|text| LogLine::new(text).err()) {
            out.push(Problem::new(format!("{at}.text"), Cause::Type { message: error.to_string() }));
        }
        if let Some(labels) = labels {
            keys(&format!("{at}.labels"), labels, out);
        }
    }
    if let Some(collector) = &found.opentelemetry {
        let at = format!("{at}.opentelemetry");
        let host = collector.service.rsplit('/').next().unwrap_or_default();
        if host.is_empty() || host.len() > 253 {
            out.push(Problem::new(format!("{at}.service"), Cause::form(&collector.service, "`host` or `namespace/host`")));
        }
        if collector.port == 0 {
            out.push(Problem::new(format!("{at}.port"), Cause::Missing));
        }
    }
}

/// The labels of a log in JSON: texts.
fn keys(at: &str, labels: &BTreeMap<String, Value>, out: &mut Vec<Problem>) {
    if labels.len() > MAX_KEYS {
        out.push(Problem::new(at, Cause::TooMany { found: labels.len(), limit: MAX_KEYS }));
    }
    for (key, value) in labels {
        let at = format!("{at}.{key}");
        match value {
            Value::String(text) => {
                if let Err(error) = LogLine::new(text) {
                    out.push(Problem::new(at, Cause::Type { message: error.to_string() }));
                }
            }
            other => out.push(Problem::new(at, Cause::form(other.to_string(), "a text"))),
        }
    }
}

fn tracing(at: &str, tracing: &Tracing, out: &mut Vec<Problem>) {
    if tracing.providers.len() > 1 {
        let cause = Cause::TooMany { found: tracing.providers.len(), limit: 1 };
        out.push(Problem::new(format!("{at}.providers"), cause));
    }
    providers(at, &tracing.providers, out);
    percentage(format!("{at}.randomSamplingPercentage"), tracing.random_sampling_percentage, out);
    custom_tags(&format!("{at}.customTags"), tracing.custom_tags.as_ref(), out);
}

fn custom_tags(at: &str, tags: Option<&BTreeMap<String, CustomTag>>, out: &mut Vec<Problem>) {
    let Some(tags) = tags else { return };
    if tags.len() > MAX_KEYS {
        out.push(Problem::new(at, Cause::TooMany { found: tags.len(), limit: MAX_KEYS }));
    }
    for (name, tag) in tags {
        let at = format!("{at}.{name}");
        if name.is_empty() || name.len() > 128 {
            out.push(Problem::new(&at, Cause::form(name, "a name of at most 128 letters")));
        }
        let CustomTag { literal, environment, header, formatter } = tag;
        let kinds = [literal.is_some(), environment.is_some(), header.is_some(), formatter.is_some()];
        match kinds.iter().filter(|kind| **kind).count() {
            0 => out.push(Problem::new(&at, Cause::Missing)),
            1 => {}
            _ => out.push(Problem::new(&at, Cause::Exclusive { other: "another kind of tag" })),
        }
        if literal.as_ref().is_some_and(|literal| literal.value.is_empty()) {
            out.push(Problem::new(format!("{at}.literal.value"), Cause::Missing));
        }
        if environment.as_ref().is_some_and(|found| found.name.is_empty()) {
            out.push(Problem::new(format!("{at}.environment.name"), Cause::Missing));
        }
        if let Some(found) = header.as_ref().filter(|found| HeaderName::from_bytes(found.name.as_bytes()).is_err()) {
            out.push(Problem::new(format!("{at}.header.name"), Cause::form(&found.name, "the name of a header")));
        }
    }
}

fn percentage(at: impl Into<String>, found: Option<f64>, out: &mut Vec<Problem>) {
    if let Some(found) = found.filter(|found| !(0.0..=100.0).contains(found)) {
        out.push(Problem::new(at, Cause::form(found.to_string(), "a percentage from 0 to 100")));
    }
}

fn metrics(at: &str, metrics: &Metrics, out: &mut Vec<Problem>) {
    providers(at, &metrics.providers, out);
    for (index, found) in metrics.overrides.iter().enumerate() {
        let at = format!("{at}.overrides[{index}]");
        if let Some(selector) = &found.r#match {
            if selector.metric.is_some() && selector.custom_metric.is_some() {
                out.push(Problem::new(format!("{at}.match.metric"), Cause::Exclusive { other: "customMetric" }));
            }
            if selector.custom_metric.as_ref().is_some_and(String::is_empty) {
                out.push(Problem::new(format!("{at}.match.customMetric"), Cause::Empty));
            }
        }
        if found.tag_overrides.len() > MAX_TAGS {
            let cause = Cause::TooMany { found: found.tag_overrides.len(), limit: MAX_TAGS };
            out.push(Problem::new(format!("{at}.tagOverrides"), cause));
        }
        for (name, tag) in &found.tag_overrides {
            tag_override(&format!("{at}.tagOverrides.{name}"), name, tag, out);
        }
    }
}

fn tag_override(at: &str, name: &str, TagOverride { operation, value }: &TagOverride, out: &mut Vec<Problem>) {
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let is_label = name.bytes().next().is_some_and(letter) && name.bytes().all(|byte| letter(byte) || byte.is_ascii_digit());
    if !is_label || name.len() > MAX_TAG_NAME || name.starts_with("__") {
        out.push(Problem::new(at, Cause::form(name, "a label's name (letters, digits, `_`; at most 64)")));
    }
    let at = format!("{at}.value");
    match operation {
        TagOperation::Remove if !value.is_empty() => out.push(Problem::new(at, Cause::Exclusive { other: "REMOVE" })),
        TagOperation::Remove => {}
        TagOperation::Upsert if value.is_empty() => out.push(Problem::new(at, Cause::Missing)),
        TagOperation::Upsert => expression(at, value, out),
    }
}

fn access_logging(at: &str, logging: &AccessLogging, out: &mut Vec<Problem>) {
    providers(at, &logging.providers, out);
    if let Some(filter) = &logging.filter {
        expression(format!("{at}.filter.expression"), &filter.expression, out);
    }
}

fn expression(at: String, source: &str, out: &mut Vec<Problem>) {
    if let Err(error) = Expression::new(source) {
        out.push(Problem::new(at, Cause::Type { message: error.to_string() }));
    }
}

fn providers(at: &str, providers: &[ProviderRef], out: &mut Vec<Problem>) {
    let nameless = providers.iter().enumerate().filter(|(_, provider)| provider.name.is_empty());
    out.extend(nameless.map(|(index, _)| Problem::new(format!("{at}.providers[{index}].name"), Cause::Missing)));
}
