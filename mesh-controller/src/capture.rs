//! Which pods are captured, as their nodes report it.
//!
//! A report counts for a pod only while the pod is placed on the node that reported it. From a folder the controller keeps the reports
//! itself; in Kubernetes they are the pods' own annotation, so that every replica knows them.

mod annotations;
mod annotator;
mod reports;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

pub use annotations::{Annotations, Mark, Marks};
pub use annotator::Annotator;
use mesh_config::{enrolment::Ownership, kinds::Objects, translate::Settings};
use mesh_policy::model::WorkloadUid;
pub use reports::Reports;
use tokio::sync::oneshot;

/// What a report is judged by.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    pub objects: &'a Objects,
    pub settings: &'a Settings,
    pub ownership: Ownership,
}

/// Where reports are kept.
pub enum Captures {
    Reports(Reports),
    Annotations(Annotations),
}

/// What became of a report.
#[derive(Debug, Default)]
pub struct Taken {
    /// Whether anything is other than before.
    pub changed: bool,
    /// True once every replica is told, false when that can not be brought about; None: there is nobody to tell.
    pub told: Option<oneshot::Receiver<bool>>,
    /// Whether other replicas serve nodes.
    pub others_serve: bool,
}

impl Captures {
    /// Records that a capture stands or is about to be released.
    pub fn set(&mut self, node: &str, uid: &str, captured: bool, surroundings: Surroundings<'_>) -> Taken {
        match self {
            Self::Reports(reports) => Taken { changed: reports.set(node, uid, captured), ..Taken::default() },
            Self::Annotations(annotations) => annotations.set(node, uid, captured, surroundings),
        }
    }

    /// Replaces all that a node has reported; true when that is news.
    pub fn replace(&mut self, node: &str, uids: BTreeSet<String>, surroundings: Surroundings<'_>) -> bool {
        match self {
            Self::Reports(reports) => reports.replace(node, uids),
            Self::Annotations(annotations) => annotations.replace(node, &uids, surroundings),
        }
    }

    /// Looks at what reports have come to; true when there are some that wait for something still.
    pub fn settle(&mut self, objects: &Objects) -> bool {
        match self {
            Self::Reports(_) => false,
            Self::Annotations(annotations) => annotations.settle(objects),
        }
    }

    /// The workloads that count as captured.
    pub fn standing(&self, objects: &Objects, settings: &Settings) -> BTreeSet<WorkloadUid> {
        match self {
            Self::Reports(reports) => reports.standing(objects, settings),
            Self::Annotations(annotations) => annotations.standing(objects, settings),
        }
    }
}
