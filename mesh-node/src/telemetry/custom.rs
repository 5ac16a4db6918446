//! Metrics whose labels a Telemetry has changed.
//!
//! Values may come from requests, so that both their length and their number are bounded: what does not fit any more is counted
//! under the value `other`, and a workload that uses its share up does so for itself alone.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicU64},
};

use mesh_policy::{
    expression::Facts,
    model::{Metric, Tag},
};

use super::{plan::Group, series::Counts};

/// Bytes of a value.
const MAX_VALUE: usize = 128;
/// Label sets of one workload that hold values of requests.
const MAX_OF_WORKLOAD: usize = 1_000;
/// Label sets of a node, and workloads that have any.
const MAX_SETS: usize = 20_000;
/// What stands for values past these numbers.
const OTHER: &str = "other";
/// What can not be evaluated.
const UNKNOWN: &str = "unknown";

/// Labels in the order in which they are shown.
pub(super) type Labels = Box<[(Arc<str>, Box<str>)]>;

/// Some of Istio's metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct MetricSet(u16);

impl MetricSet {
    pub(super) const NONE: Self = Self(0);
    pub(super) const ALL: Self = Self((1 << Metric::ALL.len()) - 1);

    pub(super) fn contains(self, metric: Metric) -> bool {
        self.0 & Self::bit(metric) != 0
    }

    pub(super) fn with(self, metric: Metric) -> Self {
        Self(self.0 | Self::bit(metric))
    }

    pub(super) fn without(self, metric: Metric) -> Self {
        Self(self.0 & !Self::bit(metric))
    }

    /// Whether requests are counted by any of them when they end.
    pub(super) fn tells_requests(self) -> bool {
        [Metric::RequestCount, Metric::RequestDuration, Metric::RequestSize, Metric::ResponseSize]
            .into_iter()
            .any(|metric| self.contains(metric))
    }

    fn bit(metric: Metric) -> u16 {
        1 << metric as u16
    }
}

/// Something that has labels, one after the other.
pub(super) trait Labelled {
    fn each(&self, tell: &mut dyn FnMut(&'static str, &str));
}

/// What was counted under one set of changed labels.
#[derive(Default)]
pub(super) struct CustomCounts {
    pub(super) counts: Counts,
    pub(super) request_messages: AtomicU64,
    pub(super) response_messages: AtomicU64,
}

/// Every set of changed labels of HTTP metrics.
#[derive(Default)]
pub(super) struct CustomSeries {
    series: RwLock<HashMap<(MetricSet, Labels), Arc<CustomCounts>>>,
    admission: Admission,
}

/// Which sets of labels may be counted.
#[derive(Default)]
pub(super) struct Admission {
    known: Mutex<Known>,
    hashes: RandomState,
}

#[derive(Default)]
struct Known {
    by_owner: HashMap<Arc<str>, HashSet<u64>>,
    count: usize,
}

impl CustomSeries {
    /// The counts for `base` with the changes of `group`. `owner`: whose Telemetry it is. `folded`: the labels where there are
    /// too many.
    pub(super) fn of(
        &self,
        owner: &Arc<str>,
        group: &Group,
        base: &dyn Labelled,
        folded: &dyn Labelled,
        facts: &dyn Facts,
    ) -> Arc<CustomCounts> {
        let key = (group.metrics, self.admission.labels(owner, group, base, folded, facts));
        if let Some(counts) = self.series.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return counts.clone();
        }
        self.series.write().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone()
    }

    pub(super) fn all(&self) -> Vec<(MetricSet, Labels, Arc<CustomCounts>)> {
        let series = self.series.read().unwrap_or_else(PoisonError::into_inner);
        series.iter().map(|((metrics, labels), counts)| (*metrics, labels.clone(), counts.clone())).collect()
    }
}

impl Admission {
    /// The labels of `base`, changed as `group` says; those of `folded` with `other` in place of values where there are too many.
    pub(super) fn labels(
        &self,
        owner: &Arc<str>,
        group: &Group,
        base: &dyn Labelled,
        folded: &dyn Labelled,
        facts: &dyn Facts,
    ) -> Labels {
        let wanted = labels(group, base, &|expression| expression.text(facts));
        if self.admits(owner, &wanted) {
            return wanted;
        }
        labels(group, folded, &|_| Some(OTHER.to_owned()))
    }

    fn admits(&self, owner: &Arc<str>, labels: &Labels) -> bool {
        let hash = self.hashes.hash_one(labels);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { by_owner, count } = &mut *known;
        if let Some(of_owner) = by_owner.get(owner) {
            if of_owner.contains(&hash) {
                return true;
            }
            if of_owner.len() >= MAX_OF_WORKLOAD {
                return false;
            }
        }
        if *count >= MAX_SETS {
            return false;
        }
        *count += 1;
        by_owner.entry(owner.clone()).or_default().insert(hash)
    }
}

fn labels(
    Group { metrics: _, tags }: &Group,
    base: &dyn Labelled,
    value: &dyn Fn(&mesh_policy::expression::Expression) -> Option<String>,
) -> Labels {
    let mut out: Vec<(Arc<str>, Box<str>)> = Vec::with_capacity(32);
    base.each(&mut |name, text| {
        if !tags.contains_key(name) {
            out.push((name.into(), text.into()));
        }
    });
    for (name, tag) in tags {
        if let Tag::Set(expression) = tag {
            let found = value(expression).filter(|found| !found.is_empty());
            out.push((name.clone(), found.as_deref().map_or(UNKNOWN, clip).into()));
        }
    }
    out.into()
}

/// To a bounded length, at the border of a character.
fn clip(text: &str) -> &str {
    let mut end = text.len().min(MAX_VALUE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use mesh_policy::expression::{Attribute, Expression, Fact};

    use super::*;

    struct Base;

    impl Labelled for Base {
        fn each(&self, tell: &mut dyn FnMut(&'static str, &str)) {
            tell("reporter", "source");
            tell("response_code", "200");
        }
    }

    struct Path(String);

    impl Facts for Path {
        fn fact(&self, attribute: Attribute) -> Option<Fact<'_>> {
            (attribute == Attribute::RequestPath).then(|| Fact::Text(Cow::Borrowed(&self.0)))
        }

        fn request_header(&self, _: &str) -> Option<Cow<'_, str>> {
            None
        }

        fn response_header(&self, _: &str) -> Option<Cow<'_, str>> {
            None
        }
    }

    fn group(tags: &[(&str, Option<&str>)]) -> Group {
        let tag = |source: Option<&str>| source.map_or(Tag::Remove, |source| Tag::Set(Expression::new(source).unwrap()));
        let tags = tags.iter().map(|(name, source)| ((*name).into(), tag(*source))).collect();
        Group { metrics: MetricSet::NONE.with(Metric::RequestCount), tags }
    }

    fn shown(labels: &Labels) -> String {
        labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn labels_are_added_replaced_and_removed() {
        let admission = Admission::default();
        let facts = Path("/a".into());
        for (tags, expected) in [
            (&[("path", Some("request.path"))][..], "reporter=source response_code=200 path=/a"),
            (&[("reporter", Some("'me'"))], "response_code=200 reporter=me"),
            (&[("response_code", None)], "reporter=source"),
            (&[("host", Some("request.host"))], "reporter=source response_code=200 host=unknown"),
        ] {
            let found = admission.labels(&"shop/page".into(), &group(tags), &Base, &Base, &facts);
            assert_eq!(shown(&found), expected);
        }
    }

    #[test]
    fn whatever_is_asked_for_makes_few_label_sets() {
        let series = CustomSeries::default();
        let group = group(&[("path", Some("request.path"))]);
        for number in 0..3 * MAX_OF_WORKLOAD {
            let facts = Path(format!("/{number}/{}", "x".repeat(1000)));
            series.of(&"shop/page".into(), &group, &Base, &Base, &facts);
        }
        assert_eq!(series.all().len(), MAX_OF_WORKLOAD + 1);
        assert!(series.all().iter().any(|(_, labels, _)| shown(labels).ends_with(" path=other")));
        assert!(series.all().iter().all(|(_, labels, _)| labels.iter().all(|(_, value)| value.len() <= MAX_VALUE)));
        series.of(&"shop/cart".into(), &group, &Base, &Base, &Path("/mine".into()));
        assert_eq!(series.all().len(), MAX_OF_WORKLOAD + 2, "another workload has room of its own");
    }
}
