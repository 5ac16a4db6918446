//! Whom an object is exported to.

use std::{collections::BTreeSet, sync::Arc};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exports {
    Everyone,
    Only(BTreeSet<Arc<str>>),
}

impl Exports {
    /// From `exportTo`, else the mesh's default, else everyone.
    pub(super) fn of(targets: &[String], default: &[String], namespace: &Arc<str>) -> Self {
        let targets = if targets.is_empty() { default } else { targets };
        if targets.is_empty() || targets.iter().any(|target| target == "*") {
            return Self::Everyone;
        }
        let meant = |target: &String| if target == "." { namespace.clone() } else { target.as_str().into() };
        Self::Only(targets.iter().filter(|target| *target != "~").map(meant).collect())
    }

    pub(super) fn include(&self, namespace: &str) -> bool {
        match self {
            Self::Everyone => true,
            Self::Only(namespaces) => namespaces.contains(namespace),
        }
    }
}
