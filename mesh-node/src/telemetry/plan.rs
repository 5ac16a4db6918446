//! What one half of a workload's traffic tells, as its Telemetry has it, ready for requests.
//!
//! A plan is made when a path is first gone with a Telemetry, and shared by all paths that follow it. Where no Telemetry says
//! anything there is none, and nothing is asked of a request for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use http::HeaderName;
use mesh_policy::{
    expression::{Attribute, Expression},
    model::{
        AccessLog, Collector, Half, LogForm, LogLine, Logs, Metric, MetricSettings, Percent, SpanTag, Tag, TraceTo, Tracing,
    },
};

use super::{SpanSink, custom::MetricSet};

pub(super) struct Plan {
    /// Metrics with their usual labels.
    pub(super) usual: MetricSet,
    /// Those with others.
    pub(super) groups: Box<[Group]>,
    /// None: the node's own log.
    pub(super) logs: Option<Box<[Log]>>,
    pub(super) sink: Sink,
    /// None: the node's own.
    pub(super) share: Option<Percent>,
    pub(super) without_istio_tags: bool,
    pub(super) span_tags: BTreeMap<Arc<str>, SpanTag>,
    /// Headers of requests and answers whose values are told.
    pub(super) request_headers: Box<[HeaderName]>,
    pub(super) response_headers: Box<[HeaderName]>,
}

/// Metrics whose labels are changed in the same way.
pub(super) struct Group {
    pub(super) metrics: MetricSet,
    pub(super) tags: BTreeMap<Arc<str>, Tag>,
}

pub(super) struct Log {
    pub(super) form: LogForm,
    pub(super) filter: Option<Expression>,
}

/// Where spans go.
#[derive(Clone)]
pub(super) enum Sink {
    Usual,
    Nowhere,
    To(Arc<dyn SpanSink>),
}

impl Plan {
    /// `sink_of` gives a collector's sink; None: it can have none.
    pub(super) fn new(half: &Half, sink_of: impl FnOnce(&Collector) -> Option<Arc<dyn SpanSink>>) -> Self {
        let Half { metrics, logs, tracing } = half;
        let (usual, groups) = metering(metrics);
        let logs: Option<Box<[Log]>> = match logs {
            Logs::Usual => None,
            Logs::As(logs) => {
                let log =
                    |AccessLog { provider: _, form, filter }: &AccessLog| Log { form: form.clone(), filter: filter.clone() };
                Some(logs.iter().map(log).collect())
            }
        };
        let Tracing { to, share, without_istio_tags, tags } = tracing;
        let sink = match to {
            TraceTo::Usual => Sink::Usual,
            TraceTo::Nowhere => Sink::Nowhere,
            TraceTo::Collector(collector) => sink_of(collector).map_or(Sink::Nowhere, Sink::To),
        };
        let (request_headers, response_headers) = headers(&groups, logs.as_deref().unwrap_or_default(), tags);
        Self {
            usual,
            groups,
            logs,
            sink,
            share: *share,
            without_istio_tags: *without_istio_tags,
            span_tags: tags.clone(),
            request_headers,
            response_headers,
        }
    }

    /// The group that a metric belongs to, if its labels are changed.
    pub(super) fn group(&self, metric: Metric) -> Option<&Group> {
        self.groups.iter().find(|group| group.metrics.contains(metric))
    }
}

fn metering(MetricSettings { off, overrides }: &MetricSettings) -> (MetricSet, Box<[Group]>) {
    if *off {
        return (MetricSet::NONE, Box::default());
    }
    let mut usual = MetricSet::ALL;
    let mut groups: Vec<Group> = Vec::new();
    for (metric, change) in overrides.iter().filter(|(_, change)| change.disabled || !change.tags.is_empty()) {
        usual = usual.without(*metric);
        if change.disabled {
            continue;
        }
        match groups.iter_mut().find(|group| group.tags == change.tags) {
            Some(group) => group.metrics = group.metrics.with(*metric),
            None => groups.push(Group { metrics: MetricSet::NONE.with(*metric), tags: change.tags.clone() }),
        }
    }
    (usual, groups.into())
}

/// The headers that logs, filters, labels and spans speak of: those of requests, those of answers.
fn headers(groups: &[Group], logs: &[Log], tags: &BTreeMap<Arc<str>, SpanTag>) -> (Box<[HeaderName]>, Box<[HeaderName]>) {
    let (mut requests, mut answers) = (BTreeSet::<String>::new(), BTreeSet::<String>::new());
    let set = groups.iter().flat_map(|group| group.tags.values()).filter_map(|tag| match tag {
        Tag::Set(expression) => Some(expression),
        Tag::Remove => None,
    });
    for expression in set.chain(logs.iter().filter_map(|log| log.filter.as_ref())) {
        requests.extend(expression.request_headers().map(str::to_owned));
        answers.extend(expression.response_headers().map(str::to_owned));
        if expression.attributes().any(|attribute| attribute == Attribute::RequestReferer) {
            requests.insert("referer".to_owned());
        }
    }
    let mut of_line = |line: &LogLine| {
        requests.extend(line.request_headers().map(|name| name.as_str().to_owned()));
        answers.extend(line.response_headers().map(|name| name.as_str().to_owned()));
    };
    for log in logs {
        match &log.form {
            LogForm::Usual => {}
            LogForm::Text(line) => of_line(line),
            LogForm::Json(labels) => labels.values().for_each(&mut of_line),
        }
    }
    requests.extend(tags.values().filter_map(|tag| match tag {
        SpanTag::Header { name, default: _ } => Some(name.to_string()),
        SpanTag::Literal(_) | SpanTag::Environment { .. } => None,
    }));
    // A name that is no header's can have no value.
    let names = |found: BTreeSet<String>| found.iter().filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect();
    (names(requests), names(answers))
}

#[cfg(test)]
mod tests;
