//! Status in files beside the objects: only what differs is written, what is no longer wanted removed.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use mesh_config::status::{Condition, Message, ParentStatus};
use serde::Serialize;
use tokio::sync::watch;
use tracing::warn;

use super::desired::{Desired, ObjectStatus};
use crate::{
    disk::{self, Secrecy},
    source::FileProblem,
    telemetry::Telemetry,
};

#[derive(Serialize)]
struct Document<'a> {
    status: Status<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    /// Of the object's text as it was judged: tells which version the rest is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_hash: Option<String>,
    conditions: &'a [Condition],
    /// Of a route of the Gateway API, at each parent in the mesh.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    parents: &'a [ParentStatus],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    validation_messages: &'a [Message],
}

#[derive(Serialize)]
struct Errors<'a> {
    errors: Vec<FileErrorText<'a>>,
}

#[derive(Serialize)]
struct FileErrorText<'a> {
    file: String,
    error: &'a str,
}

/// The content of every status file, by its path below `.status/keelson`.
pub(super) fn files(desired: &Desired) -> BTreeMap<PathBuf, Arc<str>> {
    let Desired { objects, ignored, problems, pods: _ } = desired;
    let mut files: BTreeMap<PathBuf, Arc<str>> = BTreeMap::new();
    // What many objects share is rendered once.
    let mut rendered: BTreeMap<*const ObjectStatus, Arc<str>> = BTreeMap::new();
    for (key, status) in objects {
        let text = rendered.entry(Arc::as_ptr(status)).or_insert_with(|| render(status).into());
        files.insert(path(key.kind.as_str(), &key.name.namespace, &key.name.name), text.clone());
    }
    for ((kind, namespace, name), message) in ignored {
        if ![kind, namespace, name].iter().all(|part| is_file_name(part)) {
            continue;
        }
        let conditions = &[Condition::new("Accepted", false, "UnsupportedKind", message.text.clone())];
        let validation_messages = std::slice::from_ref(message);
        let status = Status { observed_hash: None, conditions, parents: &[], validation_messages };
        files.insert(path(kind, namespace, name), yaml(&Document { status }).into());
    }
    if !problems.is_empty() {
        let text = |problem: &FileProblem| problem.path.display().to_string();
        let errors = problems.iter().map(|problem| FileErrorText { file: text(problem), error: &problem.text });
        files.insert("errors.yaml".into(), yaml(&Errors { errors: errors.collect() }).into());
    }
    files
}

fn render(status: &ObjectStatus) -> String {
    let ObjectStatus { observed_hash, api_version: _, generation: _, conditions, parents, messages, differs: _ } = status;
    let observed_hash = observed_hash.clone();
    yaml(&Document { status: Status { observed_hash, conditions, parents, validation_messages: messages } })
}

fn path(kind: &str, namespace: &str, name: &str) -> PathBuf {
    let file = format!("{name}.yaml");
    if namespace.is_empty() { [kind, &file].iter().collect() } else { [kind, namespace, &file].iter().collect() }
}

/// Text from a document that may become part of a path.
fn is_file_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    !text.is_empty() && text.len() <= 200 && !text.starts_with('.') && text.bytes().all(allowed)
}

fn yaml(value: &impl Serialize) -> String {
    serde_saphyr::to_string(value).expect("statuses are YAML")
}

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
        let wanted = files(desired);
        for (path, text) in &wanted {
            if self.written.get(path) == Some(text) {
                continue;
            }
            match disk::replace(&self.folder.join(path), text.as_bytes(), Secrecy::Public) {
                Ok(()) => drop(self.written.insert(path.clone(), text.clone())),
                Err(error) => failure = Some(error),
            }
        }
        let gone: Vec<PathBuf> = self.written.keys().filter(|path| !wanted.contains_key(*path)).cloned().collect();
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
