//! Which labels a selector matches, without asking every selector about every object.

use std::collections::{BTreeMap, HashMap};

pub(super) type Labels = BTreeMap<String, String>;

/// Whether every pair of the selector is among the labels.
pub(super) fn matches(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Non-empty selectors, each found by its first pair.
pub(super) struct SelectorIndex<'a, T> {
    by_pair: HashMap<(&'a str, &'a str), Vec<(&'a Labels, T)>>,
}

impl<T> Default for SelectorIndex<'_, T> {
    fn default() -> Self {
        Self { by_pair: HashMap::new() }
    }
}

impl<'a, T: Copy> SelectorIndex<'a, T> {
    /// An empty selector matches nothing here.
    pub(super) fn insert(&mut self, selector: &'a Labels, value: T) {
        if let Some((key, wanted)) = selector.first_key_value() {
            self.by_pair.entry((key, wanted)).or_default().push((selector, value));
        }
    }

    pub(super) fn matching(&self, labels: &Labels) -> Vec<T> {
        let candidates = labels.iter().filter_map(|(key, value)| self.by_pair.get(&(key.as_str(), value.as_str())));
        candidates.flatten().filter(|(selector, _)| matches(selector, labels)).map(|(_, value)| *value).collect()
    }
}
