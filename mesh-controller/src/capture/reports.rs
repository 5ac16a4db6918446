//! Reports in a file of the controller's own, kept over a restart.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use mesh_config::{kinds::Objects, translate::Settings};
use mesh_policy::model::WorkloadUid;
use tracing::warn;

use crate::disk::{self, Secrecy};

const FILE: &str = "captured.json";

/// What every node has last reported.
#[derive(Debug, Default)]
pub struct Reports {
    file: Option<PathBuf>,
    by_node: BTreeMap<String, BTreeSet<String>>,
}

impl Reports {
    /// Reads the last state; one that cannot be read is as if nothing had been reported, until nodes report again.
    pub fn load(state: &Path) -> Self {
        let file = state.join(FILE);
        let by_node = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                warn!(file = %file.display(), %error, "the reports of captured pods are not readable: waiting for new ones");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Self { file: Some(file), by_node }
    }

    /// Records that a capture stands or is about to be released; true when that is news.
    pub fn set(&mut self, node: &str, uid: &str, captured: bool) -> bool {
        let of_node = self.by_node.entry(node.to_owned()).or_default();
        let changed = if captured { of_node.insert(uid.to_owned()) } else { of_node.remove(uid) };
        if changed {
            self.save();
        }
        changed
    }

    /// Replaces all that a node has reported; true when that is news.
    pub fn replace(&mut self, node: &str, uids: BTreeSet<String>) -> bool {
        if self.by_node.get(node).unwrap_or(&BTreeSet::new()) == &uids {
            return false;
        }
        self.by_node.insert(node.to_owned(), uids);
        self.save();
        true
    }

    /// The workloads that count as captured.
    pub fn standing(&self, objects: &Objects, settings: &Settings) -> BTreeSet<WorkloadUid> {
        let captured = objects.pods.iter().filter_map(|(name, pod)| {
            let node = pod.spec.as_ref()?.node_name.as_deref()?;
            let uid = settings.pod_uid(&name.namespace, &name.name);
            self.by_node.get(node)?.contains(&*uid.0).then_some(uid)
        });
        captured.collect()
    }

    fn save(&self) {
        let Some(file) = &self.file else { return };
        let text = serde_json::to_vec_pretty(&self.by_node).expect("strings are JSON");
        if let Err(error) = disk::replace(file, &text, Secrecy::Secret) {
            warn!(file = %file.display(), %error, "the reports of captured pods are not saved");
        }
    }
}
