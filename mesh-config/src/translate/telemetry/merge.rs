//! How the levels come together, for one half of the path: as Istio merges them (`mergeMetrics`, `mergeLogs`, `Tracing`).

use std::collections::{BTreeMap, BTreeSet};

use mesh_policy::{
    expression::Expression,
    model::{AccessLog, Half, LogForm, Logs, Metric, MetricOverride, MetricSettings, Percent, Tag, TraceTo, Tracing},
};

use super::providers::{Provider, Providers, span_tags};
use crate::kinds::{
    TelemetrySpec,
    telemetry::{IstioMetric, MetricSelector, ModeSelector, ProviderRef, TagOperation, TagOverride, WorkloadMode},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Client,
    Server,
}

impl Mode {
    fn is_in(self, written: WorkloadMode) -> bool {
        match written {
            WorkloadMode::ClientAndServer => true,
            WorkloadMode::Client => self == Self::Client,
            WorkloadMode::Server => self == Self::Server,
        }
    }

    fn is_meant(self, written: Option<&ModeSelector>) -> bool {
        self.is_in(written.map_or(WorkloadMode::default(), |selector| selector.mode))
    }
}

/// The objects of all levels, the widest first.
pub(super) struct Levels<'a> {
    pub(super) specs: &'a [&'a TelemetrySpec],
    pub(super) providers: &'a Providers,
}

impl Levels<'_> {
    pub(super) fn half(&self, mode: Mode) -> Half {
        Half { metrics: self.metrics(mode), logs: self.logs(mode), tracing: self.tracing(mode) }
    }

    /// Overrides add up, by metric and label; the providers that were named last are those that are served.
    fn metrics(&self, mode: Mode) -> MetricSettings {
        let all = || self.specs.iter().flat_map(|spec| &spec.metrics);
        let defaults: Vec<&str> = self.providers.default_metrics.iter().map(String::as_str).collect();
        let named = all().map(|metrics| names(&metrics.providers)).rfind(|names| !names.is_empty());
        let is_prometheus = |name: &&str| self.providers.get(name) == Some(&Provider::Prometheus);
        let in_scope: BTreeSet<&str> = named.unwrap_or_else(|| defaults.clone()).into_iter().collect();
        if !in_scope.iter().any(is_prometheus) {
            return MetricSettings { off: true, overrides: BTreeMap::new() };
        }
        let mut overrides: BTreeMap<Metric, MetricOverride> = BTreeMap::new();
        let mut parents = defaults;
        for metrics in all() {
            let named = names(&metrics.providers);
            if !named.is_empty() {
                parents = named;
            }
            if !parents.iter().any(|name| in_scope.contains(name) && is_prometheus(name)) {
                continue;
            }
            for found in &metrics.overrides {
                let selector = found.r#match.clone().unwrap_or_default();
                if !mode.is_in(selector.mode) {
                    continue;
                }
                for metric in selected(&selector) {
                    let of_metric = overrides.entry(metric).or_default();
                    if let Some(disabled) = found.disabled {
                        of_metric.disabled = disabled;
                    }
                    let tags = found.tag_overrides.iter().filter_map(|(name, tag)| Some((name.as_str().into(), tag_of(tag)?)));
                    of_metric.tags.extend(tags);
                }
            }
        }
        overrides.retain(|_, found| *found != MetricOverride::default());
        let off = Metric::ALL.iter().all(|metric| overrides.get(metric).is_some_and(|found| found.disabled));
        MetricSettings { off, overrides: if off { BTreeMap::new() } else { overrides } }
    }

    /// The narrowest level that names providers says which; of each the last word counts, its filter with it.
    fn logs(&self, mode: Mode) -> Logs {
        let all = || self.specs.iter().flat_map(|spec| &spec.access_logging);
        let of_mesh = || match &self.providers.default_logs {
            None => self.providers.logs.clone(),
            Some(names) => self.as_logs(&names.iter().map(|name| (name.as_str(), None)).collect()),
        };
        if all().next().is_none() {
            return of_mesh();
        }
        let defaults: Vec<&str> = match (&self.providers.default_logs, &self.providers.logs) {
            (Some(names), _) => names.iter().map(String::as_str).collect(),
            // Without a provider the mesh's own log is meant, which has no name but Istio's for it.
            (None, Logs::Usual) => vec!["envoy"],
            (None, Logs::As(logs)) => logs.iter().map(|log| &*log.provider).collect(),
        };
        let mut per_level = self.specs.iter().map(|spec| -> BTreeSet<&str> {
            let meant = spec.access_logging.iter().filter(|logging| mode.is_meant(logging.r#match.as_ref()));
            meant.flat_map(|logging| &logging.providers).map(|provider| provider.name.as_str()).collect()
        });
        let in_scope = per_level.rfind(|names| !names.is_empty());
        let in_scope = in_scope.unwrap_or_else(|| defaults.iter().copied().collect());
        let mut served: BTreeMap<&str, Option<&str>> = BTreeMap::new();
        // What the mesh logs anyway goes on where only one half is spoken of.
        if !all().any(|logging| mode.is_meant(logging.r#match.as_ref())) {
            return of_mesh();
        }
        let mut parents = defaults;
        for logging in all() {
            let named = names(&logging.providers);
            if !named.is_empty() {
                parents = named;
            }
            if !mode.is_meant(logging.r#match.as_ref()) {
                continue;
            }
            for name in parents.iter().filter(|name| in_scope.contains(*name)) {
                if logging.disabled == Some(true) {
                    served.remove(name);
                } else {
                    served.insert(name, logging.filter.as_ref().map(|filter| filter.expression.as_str()));
                }
            }
        }
        self.as_logs(&served)
    }

    fn as_logs(&self, served: &BTreeMap<&str, Option<&str>>) -> Logs {
        let usual = |name: &&str| {
            let of_mesh = matches!((*name, &self.providers.logs), ("mesh", Logs::As(_)));
            of_mesh || self.providers.get(name).is_some_and(|found| !matches!(found, Provider::Prometheus | Provider::Traces(_)))
        };
        let mut logs: Vec<AccessLog> = Vec::new();
        for (name, filter) in served.iter().filter(|(name, _)| usual(name)) {
            let form = match (self.providers.get(name), &self.providers.logs) {
                (Some(Provider::Log(form)), _) => form.clone(),
                (None, Logs::As(own)) => own.first().map(|own| own.form.clone()).unwrap_or_default(),
                // A kind that is not there: better logged here than nowhere.
                _ => LogForm::Usual,
            };
            let filter = filter.and_then(|source| Expression::new(source).ok());
            logs.push(AccessLog { provider: (*name).into(), form, filter });
        }
        match &logs[..] {
            [AccessLog { form: LogForm::Usual, filter: None, .. }] => Logs::Usual,
            _ => Logs::As(logs),
        }
    }

    fn tracing(&self, mode: Mode) -> Tracing {
        let of_mesh = &self.providers.tracing;
        let collector = |name: &str| match self.providers.get(name) {
            Some(Provider::Traces(collector)) => TraceTo::Collector(collector.clone()),
            // Of a kind that is not there, or no provider: nothing can be sent.
            _ => TraceTo::Nowhere,
        };
        let mut to = self.providers.default_tracing.as_deref().map_or_else(|| of_mesh.to.clone(), collector);
        let (mut share, mut tags, mut disabled, mut istio_tags) = (of_mesh.share, of_mesh.tags.clone(), false, true);
        let all = self.specs.iter().flat_map(|spec| &spec.tracing);
        for tracing in all.filter(|tracing| mode.is_meant(tracing.r#match.as_ref())) {
            if let Some(provider) = tracing.providers.first() {
                to = collector(&provider.name);
            }
            if let Some(found) = tracing.disable_span_reporting {
                disabled = found;
            }
            if let Some(found) = &tracing.custom_tags {
                tags = span_tags("", found, &mut Vec::new());
            }
            if let Some(found) = tracing.random_sampling_percentage {
                share = Some(Percent::of(found));
            }
            if let Some(found) = tracing.enable_istio_tags {
                istio_tags = found;
            }
        }
        let to = if disabled { TraceTo::Nowhere } else { to };
        Tracing { to, share, without_istio_tags: !istio_tags, tags }
    }
}

fn names(providers: &[ProviderRef]) -> Vec<&str> {
    providers.iter().map(|provider| provider.name.as_str()).collect()
}

/// None of them: a metric of the user's own, which there is none of.
fn selected(selector: &MetricSelector) -> Vec<Metric> {
    if selector.custom_metric.is_some() {
        return Vec::new();
    }
    let one = match selector.metric {
        None | Some(IstioMetric::AllMetrics) => return Metric::ALL.to_vec(),
        Some(IstioMetric::RequestCount) => Metric::RequestCount,
        Some(IstioMetric::RequestDuration) => Metric::RequestDuration,
        Some(IstioMetric::RequestSize) => Metric::RequestSize,
        Some(IstioMetric::ResponseSize) => Metric::ResponseSize,
        Some(IstioMetric::TcpOpenedConnections) => Metric::TcpOpenedConnections,
        Some(IstioMetric::TcpClosedConnections) => Metric::TcpClosedConnections,
        Some(IstioMetric::TcpSentBytes) => Metric::TcpSentBytes,
        Some(IstioMetric::TcpReceivedBytes) => Metric::TcpReceivedBytes,
        Some(IstioMetric::GrpcRequestMessages) => Metric::GrpcRequestMessages,
        Some(IstioMetric::GrpcResponseMessages) => Metric::GrpcResponseMessages,
    };
    vec![one]
}

/// None: an expression that was never admitted.
fn tag_of(written: &TagOverride) -> Option<Tag> {
    match written.operation {
        TagOperation::Remove => Some(Tag::Remove),
        TagOperation::Upsert => Expression::new(&written.value).ok().map(Tag::Set),
    }
}
