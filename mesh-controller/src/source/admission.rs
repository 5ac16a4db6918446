//! Documents to objects, each in its last good version.
//!
//! A refused document changes nothing but its status. What was good before it is kept, over a restart too: the
//! documents behind refused ones are written to the state folder for as long as they are needed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use mesh_config::{
    kinds::{ObjectKey, Objects},
    status::{Code, Level, Message},
    validate::{Ignored, Rejection, Verdict, admit, key_of},
};
use serde_json::Value;
use tracing::{error, info, warn};

use super::scan::{FileProblem, Sources};
use crate::disk::{self, Secrecy};

/// In the state folder: the good documents behind refused ones.
pub const HELD_FILE: &str = "last-good.json";

/// All objects that count, and everything that is wrong with the rest.
#[derive(Default)]
pub struct Admission {
    held_file: Option<PathBuf>,
    entries: BTreeMap<ObjectKey, Entry>,
    /// Good documents from before a restart, until they are needed or replaced.
    held: BTreeMap<ObjectKey, Value>,
    objects: Objects,
    ignored: BTreeMap<(String, String, String), Message>,
    problems: Vec<FileProblem>,
}

struct Entry {
    file: PathBuf,
    /// What the file says now.
    document: Arc<Value>,
    /// What counts: the document itself, or the last good one before it.
    good: Option<Arc<Value>>,
    rejection: Option<Rejection>,
    messages: Vec<Message>,
}

impl Admission {
    /// Reads what was good before the restart.
    pub fn load(state: &Path) -> Self {
        let file = state.join(HELD_FILE);
        let mut held = BTreeMap::new();
        if let Ok(text) = std::fs::read(&file) {
            match serde_json::from_slice::<Vec<Value>>(&text) {
                Ok(documents) => {
                    held = documents.into_iter().filter_map(|document| Some((key_of(&document)?, document))).collect();
                }
                Err(error) => warn!(%error, file = %file.display(), "the last good documents are not readable"),
            }
        }
        Self { held_file: Some(file), held, ..Self::default() }
    }

    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Takes a whole new set of documents; true when objects or messages changed.
    pub fn apply(&mut self, sources: Sources) -> bool {
        let mut changed = false;
        let mut problems = sources.problems;
        let mut ignored = BTreeMap::new();
        let mut seen: BTreeSet<ObjectKey> = BTreeSet::new();
        for (file, document) in sources.documents {
            let Some(key) = key_of(&document) else {
                match admit(&document) {
                    Verdict::Ignored(Ignored { kind, namespace, name, message }) => {
                        ignored.extend(message.map(|message| ((kind, namespace, name), message)));
                    }
                    Verdict::Rejected(rejection) => problems.push(FileProblem { path: file, text: rejection.to_string() }),
                    Verdict::Admitted(_) => {}
                }
                continue;
            };
            if !seen.insert(key.clone()) {
                let first = self.entries.get(&key).map(|entry| entry.file.display().to_string()).unwrap_or_default();
                problems.push(FileProblem { path: file, text: format!("{key} is there already, from {first}: passed over") });
                continue;
            }
            if self.entries.get(&key).is_some_and(|entry| {
                (Arc::ptr_eq(&entry.document, &document) || entry.document == document) && entry.file == file
            }) {
                continue;
            }
            changed = true;
            self.judge(&key, file, document);
        }
        let gone: Vec<ObjectKey> = self.entries.keys().filter(|key| !seen.contains(key)).cloned().collect();
        for key in gone {
            changed = true;
            self.entries.remove(&key);
            self.objects.remove(&key);
        }
        self.held.retain(|key, _| seen.contains(key));
        changed |= problems != self.problems || ignored != self.ignored;
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            error!(file = %problem.path.display(), "{}", problem.text);
        }
        (self.problems, self.ignored) = (problems, ignored);
        if changed {
            self.save();
        }
        changed
    }

    fn judge(&mut self, key: &ObjectKey, file: PathBuf, document: Arc<Value>) {
        let before = self.entries.remove(key);
        match admit(&document) {
            Verdict::Admitted(admitted) => {
                if before.is_some_and(|entry| entry.rejection.is_some()) {
                    info!(object = %key, "accepted again");
                }
                self.objects.insert(key.name.clone(), admitted.object);
                let good = Some(document.clone());
                let entry = Entry { file, document, good, rejection: None, messages: admitted.warnings };
                self.entries.insert(key.clone(), entry);
            }
            Verdict::Rejected(rejection) => {
                let good = before.and_then(|entry| entry.good).or_else(|| self.revive(key));
                let kept = if good.is_some() { "its last good version stays in force" } else { "it has no effect" };
                error!(file = %file.display(), "{rejection}; {kept}");
                self.entries
                    .insert(key.clone(), Entry { file, document, good, rejection: Some(rejection), messages: Vec::new() });
            }
            // A document with a key is of a kind that counts.
            Verdict::Ignored(_) => {}
        }
    }

    /// The good version from before a restart.
    fn revive(&mut self, key: &ObjectKey) -> Option<Arc<Value>> {
        let document = self.held.remove(key)?;
        let Verdict::Admitted(admitted) = admit(&document) else { return None };
        self.objects.insert(key.name.clone(), admitted.object);
        Some(Arc::new(document))
    }

    fn save(&self) {
        let Some(file) = &self.held_file else { return };
        let needed = self.entries.values().filter(|entry| entry.rejection.is_some()).filter_map(|entry| entry.good.as_ref());
        let needed: Vec<&Arc<Value>> = needed.collect();
        let result = if needed.is_empty() {
            disk::remove(file)
        } else {
            let text = serde_json::to_vec(&needed).expect("values are JSON");
            disk::replace(file, &text, Secrecy::Secret)
        };
        if let Err(error) = result {
            warn!(%error, file = %file.display(), "the last good documents are not saved");
        }
    }

    /// What each object is told by admission.
    pub fn messages(&self) -> impl Iterator<Item = (&ObjectKey, Vec<Message>)> {
        self.entries.iter().map(|(key, entry)| {
            let refused = entry.rejection.iter().flat_map(|rejection| &rejection.problems);
            let refused = refused
                .map(|problem| Message::new(Level::Error, Code::Invalid, problem.field.clone(), problem.cause.to_string()));
            (key, refused.chain(entry.messages.iter().cloned()).collect())
        })
    }

    /// Whether the object counts in its present form; None: there is no such object.
    pub fn standing(&self, key: &ObjectKey) -> Option<Standing<'_>> {
        self.entries.get(key).map(|entry| Standing {
            document: &entry.document,
            refused: entry.rejection.is_some(),
            kept: entry.rejection.is_some() && entry.good.is_some(),
        })
    }

    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.entries.keys()
    }

    /// Kind, namespace and name of documents whose kind has no effect though users expect it.
    pub fn ignored(&self) -> &BTreeMap<(String, String, String), Message> {
        &self.ignored
    }

    /// Files and documents that are wrong as a whole.
    pub fn problems(&self) -> &[FileProblem] {
        &self.problems
    }

    /// How many objects are refused.
    pub fn refused(&self) -> usize {
        self.entries.values().filter(|entry| entry.rejection.is_some()).count()
    }
}

/// How an object stands.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    pub document: &'a Value,
    pub refused: bool,
    /// Refused, with an older version in force.
    pub kept: bool,
}
