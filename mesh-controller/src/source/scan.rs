//! One look at a folder: every file that changed is read again, the rest is known.
//!
//! A file that cannot be read or parsed keeps the documents that it had, over a restart too; an absent file has none. Hidden files are
//! passed over but for `.status/Pod` and `.status/Node`, whose `status` is laid over the objects, as a kubelet
//! would write it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use mesh_config::document::{DocumentError, Format, Limits, documents};
use serde_json::Value;
use tracing::warn;

use crate::disk::{self, Secrecy};

/// Folders within folders; deeper ones are an error.
const MAX_DEPTH: usize = 32;
const MAX_FILES: usize = 200_000;

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot be read: {source}")]
    Read { source: io::Error },
    #[error(transparent)]
    Document { source: DocumentError },
    #[error("is a loop of links: passed over")]
    LinkLoop,
    #[error("is more than {MAX_DEPTH} folders deep: passed over")]
    TooDeep,
    #[error("the folder has more than {MAX_FILES} files: this and further ones are passed over")]
    TooMany,
}

/// A file and what is wrong with it. The documents that it had before stay in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    pub path: PathBuf,
    pub text: String,
}

/// All documents of a folder, in the order of their files' names.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub documents: Vec<(PathBuf, Arc<Value>)>,
    pub problems: Vec<FileProblem>,
}

/// Remembers what it has read.
pub struct Scanner {
    root: PathBuf,
    limits: Limits,
    files: BTreeMap<PathBuf, File>,
    overlays: BTreeMap<PathBuf, File>,
    held: Held,
    /// What the last scan gave; None before the first.
    problems: Option<Vec<FileProblem>>,
}

#[derive(Default)]
struct File {
    seen: Option<Fingerprint>,
    documents: Vec<Arc<Value>>,
    error: Option<String>,
}

/// A file whose fingerprint has not changed has not changed: any write moves its change time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
    modified: (i64, i64),
}

impl Fingerprint {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl Scanner {
    /// `state` is the folder where documents behind broken files are kept.
    pub fn new(root: PathBuf, state: &Path, limits: Limits) -> Self {
        Self { root, limits, files: BTreeMap::new(), overlays: BTreeMap::new(), held: Held::load(state), problems: None }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Looks at the folder: its new state, or None when nothing has changed. An error means that the folder itself
    /// cannot be read: nothing has changed then either.
    pub fn scan(&mut self) -> io::Result<Option<Sources>> {
        let mut walk = Walk::default();
        walk.folder(&self.root, 0)?;
        let mut overlays = Walk::default();
        for kind in ["Pod", "Node"] {
            let folder = self.root.join(".status").join(kind);
            if folder.is_dir() {
                overlays.folder(&folder, 0)?;
            }
        }
        let files_changed = refresh(&mut self.files, walk.files, self.limits, &mut self.held.documents);
        let overlays_changed = refresh(&mut self.overlays, overlays.files, self.limits, &mut self.held.documents);

        let mut problems = walk.problems;
        problems.extend(overlays.problems);
        for (path, file) in self.files.iter().chain(&self.overlays) {
            problems.extend(file.error.iter().map(|text| FileProblem { path: path.clone(), text: text.clone() }));
        }
        problems.sort_by(|a, b| a.path.cmp(&b.path));
        if !files_changed && !overlays_changed && self.problems.as_ref() == Some(&problems) {
            return Ok(None);
        }
        self.problems = Some(problems.clone());
        self.held.save(self.files.iter().chain(&self.overlays));

        let statuses = self.statuses();
        let of_file = |(path, file): (&PathBuf, &File)| {
            let path = path.clone();
            let documents: Vec<_> = file.documents.iter().map(|document| (path.clone(), overlaid(document, &statuses))).collect();
            documents
        };
        Ok(Some(Sources { documents: self.files.iter().flat_map(of_file).collect(), problems }))
    }

    /// `status` by kind, namespace and name, as the path says them.
    fn statuses(&self) -> HashMap<(String, String, String), Value> {
        let base = self.root.join(".status");
        let key = |path: &Path| {
            let mut parts: Vec<String> =
                path.strip_prefix(&base).ok()?.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            let name = Path::new(&parts.pop()?).file_stem()?.to_string_lossy().into_owned();
            match parts.as_slice() {
                [kind] => Some((kind.clone(), String::new(), name)),
                [kind, namespace] => Some((kind.clone(), namespace.clone(), name)),
                _ => None,
            }
        };
        (self.overlays.iter())
            .filter_map(|(path, file)| Some((key(path)?, file.documents.first()?.get("status")?.clone())))
            .collect()
    }
}

fn overlaid(document: &Arc<Value>, statuses: &HashMap<(String, String, String), Value>) -> Arc<Value> {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
    let kind = text("/kind").unwrap_or_default();
    if !matches!(kind, "Pod" | "Node") || text("/apiVersion") != Some("v1") {
        return document.clone();
    }
    let namespace = if kind == "Pod" { text("/metadata/namespace").unwrap_or("default") } else { "" };
    let key = (kind.to_owned(), namespace.to_owned(), text("/metadata/name").unwrap_or_default().to_owned());
    let Some(status) = statuses.get(&key) else {
        return document.clone();
    };
    let mut with_status = Value::clone(document);
    if let Value::Object(fields) = &mut with_status {
        fields.insert("status".into(), status.clone());
    }
    Arc::new(with_status)
}

/// Reads again what changed and forgets what is gone; true when there was any of that.
fn refresh(
    known: &mut BTreeMap<PathBuf, File>,
    found: BTreeMap<PathBuf, Fingerprint>,
    limits: Limits,
    held: &mut BTreeMap<PathBuf, Vec<Arc<Value>>>,
) -> bool {
    let before = known.len();
    known.retain(|path, _| found.contains_key(path));
    let mut changed = known.len() != before;
    for (path, fingerprint) in found {
        let file = known.entry(path.clone()).or_default();
        if file.seen == Some(fingerprint) {
            continue;
        }
        changed = true;
        let first = file.seen.replace(fingerprint).is_none();
        let from_before = held.remove(&path).filter(|_| first);
        match read(&path, fingerprint, limits) {
            Ok(documents) => (file.documents, file.error) = (documents.into_iter().map(Arc::new).collect(), None),
            Err(error) => {
                file.error = Some(error.to_string());
                file.documents.extend(from_before.into_iter().flatten());
            }
        }
    }
    changed
}

/// The good documents of broken files, on disk for as long as they are needed.
struct Held {
    file: PathBuf,
    documents: BTreeMap<PathBuf, Vec<Arc<Value>>>,
    saved: bool,
}

impl Held {
    fn load(state: &Path) -> Self {
        let file = state.join("last-good-files.json");
        let documents = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { saved: file.exists(), file, documents }
    }

    fn save<'a>(&mut self, files: impl Iterator<Item = (&'a PathBuf, &'a File)>) {
        let broken = files.filter(|(_, file)| file.error.is_some() && !file.documents.is_empty());
        let needed: BTreeMap<&PathBuf, &Vec<Arc<Value>>> = broken.map(|(path, file)| (path, &file.documents)).collect();
        let result = match (needed.is_empty(), self.saved) {
            (true, false) => return,
            (true, true) => disk::remove(&self.file),
            (false, _) => {
                let text = serde_json::to_vec(&needed).expect("paths from a folder listing and values are JSON");
                disk::replace(&self.file, &text, Secrecy::Secret)
            }
        };
        match result {
            Ok(()) => self.saved = !needed.is_empty(),
            Err(error) => warn!(%error, file = %self.file.display(), "the documents of broken files are not saved"),
        }
    }
}

fn read(path: &Path, fingerprint: Fingerprint, limits: Limits) -> Result<Vec<Value>, FileError> {
    let refuse = |source| FileError::Document { source };
    if fingerprint.size > limits.file as u64 {
        return Err(refuse(DocumentError::FileTooLarge { bytes: fingerprint.size, limit: limits.file }));
    }
    let format = if path.extension().is_some_and(|extension| extension == "json") { Format::Json } else { Format::Yaml };
    let bytes = fs::read(path).map_err(|source| FileError::Read { source })?;
    documents(&bytes, format, limits).map_err(refuse)
}

#[derive(Default)]
struct Walk {
    files: BTreeMap<PathBuf, Fingerprint>,
    problems: Vec<FileProblem>,
    /// Device and inode of the folders from the root to here.
    open: HashSet<(u64, u64)>,
}

impl Walk {
    fn folder(&mut self, folder: &Path, depth: usize) -> io::Result<()> {
        let metadata = fs::metadata(folder)?;
        let identity = (metadata.dev(), metadata.ino());
        if !self.open.insert(identity) {
            self.problem(folder, &FileError::LinkLoop);
            return Ok(());
        }
        let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            self.entry(&entry.path(), depth);
        }
        self.open.remove(&identity);
        Ok(())
    }

    fn entry(&mut self, path: &Path, depth: usize) {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            // Gone between listing and looking, or a link to nowhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => return,
            Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => return self.problem(path, &FileError::LinkLoop),
            Err(source) => return self.problem(path, &FileError::Read { source }),
        };
        if metadata.is_dir() {
            if depth >= MAX_DEPTH {
                return self.problem(path, &FileError::TooDeep);
            }
            if let Err(source) = self.folder(path, depth + 1) {
                self.problem(path, &FileError::Read { source });
            }
            return;
        }
        let wanted = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json");
        // A pipe or device would never end.
        if !wanted || !metadata.is_file() {
            return;
        }
        if self.files.len() >= MAX_FILES {
            return self.problem(path, &FileError::TooMany);
        }
        self.files.insert(path.to_path_buf(), Fingerprint::of(&metadata));
    }

    fn problem(&mut self, path: &Path, error: &FileError) {
        self.problems.push(FileProblem { path: path.to_path_buf(), text: error.to_string() });
    }
}
