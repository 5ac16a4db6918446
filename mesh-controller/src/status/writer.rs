//! Brings the status files to what they should say: only what differs is written, what is no longer wanted removed.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::watch;
use tracing::warn;

use super::Desired;
use crate::{
    disk::{self, Secrecy},
    telemetry::Telemetry,
};

/// The owner of `.status/keelson`.
pub struct Writer {
    folder: PathBuf,
    written: BTreeMap<PathBuf, Arc<str>>,
    telemetry: Arc<Telemetry>,
    failed: bool,
}

impl Writer {
    /// `root` is the folder of objects. What an earlier controller wrote is taken up.
    pub fn new(root: &Path, telemetry: Arc<Telemetry>) -> Self {
        let folder = root.join(".status/keelson");
        let mut written = BTreeMap::new();
        collect(&folder, &folder, &mut written);
        Self { folder, written, telemetry, failed: false }
    }

    /// Follows the desired state until its sender is gone.
    pub async fn run(mut self, mut desired: watch::Receiver<Arc<Desired>>) {
        loop {
            let wanted = desired.borrow_and_update().clone();
            let applied = tokio::task::spawn_blocking(move || {
                self.apply(&wanted);
                self
            })
            .await;
            match applied {
                Ok(writer) => self = writer,
                Err(_) => return,
            }
            if desired.changed().await.is_err() {
                return;
            }
        }
    }

    /// Writes and removes what differs. A file that cannot be written is tried again at the next change.
    pub fn apply(&mut self, desired: &Desired) {
        let mut failure = None;
        for (path, text) in &desired.files {
            if self.written.get(path) == Some(text) {
                continue;
            }
            match disk::replace(&self.folder.join(path), text.as_bytes(), Secrecy::Public) {
                Ok(()) => drop(self.written.insert(path.clone(), text.clone())),
                Err(error) => failure = Some(error),
            }
        }
        let gone: Vec<PathBuf> = self.written.keys().filter(|path| !desired.files.contains_key(*path)).cloned().collect();
        for path in gone {
            match disk::remove(&self.folder.join(&path)) {
                Ok(()) => {
                    self.written.remove(&path);
                    self.prune(&path);
                }
                Err(error) => failure = Some(error),
            }
        }
        self.note(failure.as_ref());
    }

    /// Removes folders that have become empty.
    fn prune(&self, path: &Path) {
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            if fs::remove_dir(self.folder.join(parent)).is_err() {
                return;
            }
        }
    }

    fn note(&mut self, failure: Option<&io::Error>) {
        if let Some(error) = failure {
            self.telemetry.metrics.status_errors.inc();
            if !self.failed {
                warn!(folder = %self.folder.display(), %error, "status files cannot be written");
            }
        }
        self.failed = failure.is_some();
    }
}

fn collect(base: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, Arc<str>>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(base, &path, found);
        } else if let Ok(own) = path.strip_prefix(base) {
            found.insert(own.to_path_buf(), fs::read_to_string(&path).unwrap_or_default().into());
        }
    }
}
