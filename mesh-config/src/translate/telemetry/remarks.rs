//! What a Telemetry says that is not followed, or not in the way that it reads.

use mesh_policy::expression::Expression;

use super::providers::{Provider, Providers, span_tags};
use crate::{
    kinds::{
        TelemetrySpec,
        telemetry::{AccessLogging, Metrics, ProviderRef, Tracing},
    },
    status::{Code, Level, Message},
};

pub(super) fn remarks(spec: &TelemetrySpec, providers: &Providers) -> Vec<Message> {
    let mut out = Remarks { messages: Vec::new(), providers };
    for (index, found) in spec.tracing.iter().enumerate() {
        out.tracing(&format!("spec.tracing[{index}]"), found);
    }
    for (index, found) in spec.metrics.iter().enumerate() {
        out.metrics(&format!("spec.metrics[{index}]"), found);
    }
    for (index, found) in spec.access_logging.iter().enumerate() {
        out.access_logging(&format!("spec.accessLogging[{index}]"), found);
    }
    out.messages
}

struct Remarks<'a> {
    messages: Vec<Message>,
    providers: &'a Providers,
}

impl Remarks<'_> {
    fn tell(&mut self, level: Level, code: Code, field: impl Into<String>, text: impl Into<String>) {
        self.messages.push(Message::new(level, code, field, text));
    }

    fn not_honoured(&mut self, field: impl Into<String>, text: impl Into<String>) {
        self.tell(Level::Warning, Code::NotHonoured, field, text);
    }

    fn tracing(&mut self, at: &str, tracing: &Tracing) {
        let Tracing {
            r#match: _,
            providers,
            random_sampling_percentage: _,
            disable_span_reporting: _,
            custom_tags,
            use_request_id_for_trace_sampling,
            enable_istio_tags: _,
            disable_context_propagation,
        } = tracing;
        let is_right = |provider: &Provider| matches!(provider, Provider::Traces(_));
        self.providers(at, providers, is_right, "no spans are sent");
        if let Some(tags) = custom_tags {
            span_tags(&format!("{at}.customTags"), tags, &mut self.messages);
        }
        if *use_request_id_for_trace_sampling == Some(true) {
            let text = "x-request-id says nothing of a trace: what a sender decided is in the trace's own headers";
            self.tell(Level::Info, Code::NotHonoured, format!("{at}.useRequestIdForTraceSampling"), text);
        }
        if *disable_context_propagation == Some(true) {
            self.not_honoured(format!("{at}.disableContextPropagation"), "the next hop is always told of a trace");
        }
    }

    fn metrics(&mut self, at: &str, metrics: &Metrics) {
        let Metrics { providers, overrides, reporting_interval } = metrics;
        self.providers(at, providers, |provider| *provider == Provider::Prometheus, "no metrics go there");
        if reporting_interval.is_some() {
            let text = "connections are counted as they go, messages of gRPC every five seconds";
            self.not_honoured(format!("{at}.reportingInterval"), text);
        }
        for (index, found) in overrides.iter().enumerate() {
            let at = format!("{at}.overrides[{index}]");
            if let Some(name) = found.r#match.as_ref().and_then(|selector| selector.custom_metric.as_ref()) {
                self.not_honoured(format!("{at}.match.customMetric"), format!("there is no metric {name}"));
            }
            for (name, tag) in &found.tag_overrides {
                self.unknown_names(&format!("{at}.tagOverrides.{name}.value"), &tag.value, "the label is `unknown`");
            }
        }
    }

    fn access_logging(&mut self, at: &str, logging: &AccessLogging) {
        let AccessLogging { r#match: _, providers, disabled: _, filter } = logging;
        self.providers(at, providers, |provider| matches!(provider, Provider::Log(_)), "lines go to the node's own log");
        if let Some(filter) = filter {
            self.unknown_names(&format!("{at}.filter.expression"), &filter.expression, "it never holds where it depends on that");
        }
    }

    fn unknown_names(&mut self, at: &str, source: &str, consequence: &str) {
        let Ok(expression) = Expression::new(source) else { return };
        for name in expression.unknown() {
            self.not_honoured(at, format!("{name} is no attribute here: {consequence}"));
        }
    }

    fn providers(&mut self, at: &str, named: &[ProviderRef], is_right: impl Fn(&Provider) -> bool, consequence: &str) {
        for (index, provider) in named.iter().enumerate() {
            let field = format!("{at}.providers[{index}].name");
            match self.providers.get(&provider.name) {
                None => {
                    let text = format!("MeshConfig has no provider {}", provider.name);
                    self.tell(Level::Error, Code::TargetNotFound, field, text);
                }
                Some(found) if is_right(found) => {}
                Some(Provider::NotHonoured(kind)) => {
                    self.not_honoured(field, format!("this version has no {kind}: {consequence}"));
                }
                Some(_) => {
                    let text = format!("{} is not a provider of this: {consequence}", provider.name);
                    self.tell(Level::Error, Code::NotHonoured, field, text);
                }
            }
        }
    }
}
