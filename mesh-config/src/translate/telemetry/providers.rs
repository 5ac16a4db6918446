//! What MeshConfig says of telemetry: providers, which of them are the default, and what holds where no Telemetry speaks.

use std::{collections::BTreeMap, sync::Arc};

use mesh_policy::model::{AccessLog, Collector, LogForm, LogLine, Logs, Percent, SpanTag, TraceTo, Tracing, Variable};
use serde_json::Value;

use crate::{
    kinds::telemetry::{
        AccessLogEncoding, CustomTag, DefaultProviders, FileAccessLog, LogFormat, MeshProvider, NamedTag, OpenTelemetry,
        ProxyTracing,
    },
    status::{Code, Level, Message},
};

/// Those that Istio has without configuration.
const PROMETHEUS: &str = "prometheus";
const ENVOY: &str = "envoy";

/// The keys of Istio's log in JSON.
const JSON: &[(&str, &str)] = &[
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
];

/// What a provider's name stands for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Provider {
    Prometheus,
    Log(LogForm),
    Traces(Collector),
    /// Of a kind that is known and not carried out.
    NotHonoured(&'static str),
}

/// What MeshConfig says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    pub(crate) extension_providers: Vec<MeshProvider>,
    pub(crate) default_providers: DefaultProviders,
    pub(crate) tracing: Option<ProxyTracing>,
    pub(crate) enable_tracing: Option<bool>,
    pub(crate) access_log_file: Option<String>,
    pub(crate) access_log_format: Option<String>,
    pub(crate) access_log_encoding: Option<AccessLogEncoding>,
}

/// The mesh's providers and defaults, read.
#[derive(Debug)]
pub(crate) struct Providers {
    by_name: BTreeMap<String, Provider>,
    pub(super) default_metrics: Vec<String>,
    /// None: as the mesh's own settings have it.
    pub(super) default_logs: Option<Vec<String>>,
    pub(super) default_tracing: Option<String>,
    /// Without any Telemetry and default provider.
    pub(super) logs: Logs,
    pub(super) tracing: Tracing,
}

impl Providers {
    /// With the remarks on what is not followed, at fields of MeshConfig.
    pub(crate) fn new(written: Written) -> (Self, Vec<Message>) {
        let mut out = Vec::new();
        let Written {
            extension_providers,
            default_providers,
            tracing,
            enable_tracing,
            access_log_file,
            access_log_format,
            access_log_encoding,
        } = written;
        let builtin = [(PROMETHEUS.to_owned(), Provider::Prometheus), (ENVOY.to_owned(), Provider::Log(LogForm::Usual))];
        let mut by_name = BTreeMap::from(builtin);
        for (index, found) in extension_providers.iter().enumerate() {
            if let Some(provider) = provider(&format!("extensionProviders[{index}]"), found, &mut out) {
                by_name.insert(found.name.clone(), provider);
            }
        }
        let DefaultProviders { tracing: for_traces, metrics, access_logging } = default_providers;
        let named = [("tracing", &for_traces), ("metrics", &metrics), ("accessLogging", &access_logging)];
        for (field, names) in named {
            for name in names.iter().filter(|name| !by_name.contains_key(*name)) {
                let text = format!("there is no provider {name}");
                out.push(message(Code::TargetNotFound, &format!("defaultProviders.{field}"), text));
            }
        }
        let form = mesh_form(access_log_format.as_deref(), access_log_encoding);
        let logs = match access_log_file.as_deref() {
            Some("") => Logs::As(Vec::new()),
            _ if form == LogForm::Usual => Logs::Usual,
            _ => Logs::As(vec![AccessLog { provider: "mesh".into(), form, filter: None }]),
        };
        if let Some(file) = access_log_file.as_deref().filter(|file| !is_output(file)) {
            out.push(message(Code::NotHonoured, "accessLogFile", format!("written to the node's output, not to {file}")));
        }
        let ProxyTracing { sampling, custom_tags } = tracing.unwrap_or_default();
        let tags = custom_tags.map(|tags| span_tags("defaultConfig.tracing.customTags", &tags, &mut out)).unwrap_or_default();
        let tracing = Tracing {
            to: if enable_tracing == Some(false) { TraceTo::Nowhere } else { TraceTo::Usual },
            share: sampling.map(Percent::of),
            without_istio_tags: false,
            tags,
        };
        let providers = Self {
            by_name,
            default_metrics: if metrics.is_empty() { vec![PROMETHEUS.into()] } else { metrics },
            default_logs: (!access_logging.is_empty()).then_some(access_logging),
            default_tracing: for_traces.into_iter().next(),
            logs,
            tracing,
        };
        (providers, out)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Provider> {
        self.by_name.get(name)
    }
}

fn message(code: Code, field: &str, text: impl Into<String>) -> Message {
    Message::new(Level::Warning, code, format!("data.mesh: {field}"), text)
}

fn is_output(path: &str) -> bool {
    matches!(path, "" | "/dev/stdout" | "/dev/stderr")
}

/// None: of no kind at all.
fn provider(at: &str, found: &MeshProvider, out: &mut Vec<Message>) -> Option<Provider> {
    let MeshProvider {
        name: _,
        prometheus,
        envoy_file_access_log,
        opentelemetry,
        zipkin,
        lightstep,
        datadog,
        skywalking,
        opencensus,
        stackdriver,
        envoy_http_als,
        envoy_tcp_als,
        envoy_otel_als,
        envoy_ext_authz_http,
        envoy_ext_authz_grpc,
        sds,
    } = found;
    if prometheus.is_some() {
        return Some(Provider::Prometheus);
    }
    if let Some(log) = envoy_file_access_log {
        return Some(Provider::Log(file_log(at, log, out)));
    }
    if let Some(collector) = opentelemetry {
        return Some(Provider::Traces(open_telemetry(at, collector, out)));
    }
    let others = [
        ("zipkin", zipkin),
        ("lightstep", lightstep),
        ("datadog", datadog),
        ("skywalking", skywalking),
        ("opencensus", opencensus),
        ("stackdriver", stackdriver),
        ("envoyHttpAls", envoy_http_als),
        ("envoyTcpAls", envoy_tcp_als),
        ("envoyOtelAls", envoy_otel_als),
        ("envoyExtAuthzHttp", envoy_ext_authz_http),
        ("envoyExtAuthzGrpc", envoy_ext_authz_grpc),
        ("sds", sds),
    ];
    let (kind, _) = others.into_iter().find(|(_, found)| found.is_some())?;
    out.push(message(Code::NotHonoured, &format!("{at}.{kind}"), "this version has no such provider"));
    Some(Provider::NotHonoured(kind))
}

fn file_log(at: &str, log: &FileAccessLog, out: &mut Vec<Message>) -> LogForm {
    let FileAccessLog { path, log_format, omit_empty_values } = log;
    let at = format!("{at}.envoyFileAccessLog");
    if !is_output(path) {
        let text = format!("written to the node's output, not to {path}");
        out.push(message(Code::NotHonoured, &format!("{at}.path"), text));
    }
    if *omit_empty_values {
        let text = "empty values are left out of JSON anyway, and written `-` in text";
        out.push(message(Code::NotHonoured, &format!("{at}.omitEmptyValues"), text));
    }
    let form = match log_format {
        Some(LogFormat { text: Some(text), .. }) if !text.is_empty() => line(text).map_or(LogForm::Usual, LogForm::Text),
        Some(LogFormat { labels: Some(labels), .. }) => json(labels),
        Some(_) | None => LogForm::Usual,
    };
    for operator in unknown_operators(&form) {
        let text = format!("%{operator}% is not known here and written `-`");
        out.push(message(Code::NotHonoured, &format!("{at}.logFormat"), text));
    }
    form
}

fn unknown_operators(form: &LogForm) -> Vec<Arc<str>> {
    match form {
        LogForm::Usual => Vec::new(),
        LogForm::Text(line) => line.unknown().to_vec(),
        LogForm::Json(labels) => labels.values().flat_map(|line| line.unknown().to_vec()).collect(),
    }
}

/// A format that was admitted.
fn line(text: &str) -> Option<LogLine> {
    LogLine::new(text).ok()
}

fn json(labels: &BTreeMap<String, Value>) -> LogForm {
    let read = |(key, value): (&String, &Value)| Some((key.as_str().into(), line(value.as_str()?)?));
    let labels: BTreeMap<Arc<str>, LogLine> = labels.iter().filter_map(read).collect();
    if !labels.is_empty() {
        return LogForm::Json(labels);
    }
    LogForm::Json(JSON.iter().filter_map(|(key, text)| Some(((*key).into(), line(text)?))).collect())
}

fn mesh_form(format: Option<&str>, encoding: Option<AccessLogEncoding>) -> LogForm {
    let format = format.filter(|format| !format.is_empty());
    match (encoding.unwrap_or_default(), format) {
        (AccessLogEncoding::Text, None) => LogForm::Usual,
        (AccessLogEncoding::Text, Some(format)) => line(format).map_or(LogForm::Usual, LogForm::Text),
        (AccessLogEncoding::Json, format) => {
            let labels = format.and_then(|format| serde_json::from_str(format).ok()).unwrap_or_default();
            json(&labels)
        }
    }
}

fn open_telemetry(at: &str, collector: &OpenTelemetry, out: &mut Vec<Message>) -> Collector {
    let OpenTelemetry {
        service,
        port,
        max_tag_length,
        http,
        grpc,
        resource_detectors,
        service_attribute_enrichment,
        dynatrace_sampler,
    } = collector;
    let not_followed = [
        ("maxTagLength", max_tag_length, "a tag has at most 4096 bytes"),
        ("http", http, "spans are sent by gRPC"),
        ("grpc", grpc, "spans are sent without further headers"),
        ("resourceDetectors", resource_detectors, "no resource is looked for"),
        ("serviceAttributeEnrichment", service_attribute_enrichment, "services are named by workload and namespace"),
        ("dynatraceSampler", dynatrace_sampler, "traces are sampled by their share"),
    ];
    for (field, _, text) in not_followed.into_iter().filter(|(_, found, _)| found.is_some()) {
        out.push(message(Code::NotHonoured, &format!("{at}.opentelemetry.{field}"), text));
    }
    let host = service.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    Collector { host: host.into(), port: *port, service: None }
}

/// Custom tags, with remarks on those that are not followed.
pub(super) fn span_tags(at: &str, tags: &BTreeMap<String, CustomTag>, out: &mut Vec<Message>) -> BTreeMap<Arc<str>, SpanTag> {
    let mut read = |(name, tag): (&String, &CustomTag)| {
        let CustomTag { literal, environment, header, formatter } = tag;
        let at = format!("{at}.{name}");
        if let Some(literal) = literal {
            return Some((name.as_str().into(), SpanTag::Literal(literal.value.as_str().into())));
        }
        if let Some(NamedTag { name: header, default_value }) = header {
            let default = default_value.as_deref().map(Arc::from);
            return Some((name.as_str().into(), SpanTag::Header { name: header.to_ascii_lowercase().into(), default }));
        }
        if let Some(NamedTag { name: wanted, default_value }) = environment {
            let default: Option<Arc<str>> = default_value.as_deref().map(Arc::from);
            if let Some(variable) = Variable::named(wanted) {
                return Some((name.as_str().into(), SpanTag::Environment { variable, default }));
            }
            let text = format!("no workload has a proxy with an environment of its own: {wanted} is unknown, its default counts");
            out.push(Message::new(Level::Warning, Code::NotHonoured, format!("{at}.environment"), text));
            return default.map(|default| (name.as_str().into(), SpanTag::Literal(default)));
        }
        if formatter.is_some() {
            let text = "the tag is left out";
            out.push(Message::new(Level::Warning, Code::NotHonoured, format!("{at}.formatter"), text));
        }
        None
    };
    tags.iter().filter_map(&mut read).collect()
}
