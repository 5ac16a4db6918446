//! What must have happened before nodes are sent here.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

/// Names of what is missing. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeSet<&'static str>>>);

impl Readiness {
    /// Waits for these.
    pub fn expecting(what: impl IntoIterator<Item = &'static str>) -> Self {
        Self(Arc::new(Mutex::new(what.into_iter().collect())))
    }

    /// It has happened.
    pub fn done(&self, what: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(what);
    }

    /// What has not happened yet; nothing: ready.
    pub fn missing(&self) -> Vec<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_it_waits_for() {
        assert!(Readiness::default().missing().is_empty());
        let readiness = Readiness::expecting(["webhook", "authority"]);
        assert_eq!(readiness.missing(), ["authority", "webhook"]);
        readiness.clone().done("webhook");
        readiness.done("something else");
        assert_eq!(readiness.missing(), ["authority"]);
    }
}
