//! Documents to objects, each in its last good version.
//!
//! A refused document changes nothing but its status. What was good before it is kept, over a restart too: the
//! documents behind refused ones are written to the state folder for as long as they are needed.
//!
//! Whole states and changes go the same way: each document is judged by itself, and what is found to be as it was changes
//! nothing. The text of an object is kept only where its status speaks of it, or where a folder has it in memory anyway.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use mesh_config::{
    kinds::{Kind, Name, ObjectKey, Objects},
    status::{Code, Level, Message},
    validate::{Ignored, Rejection, Verdict, admit, key_of},
};
use serde_json::Value;
use tracing::{error, info, warn};

use super::{
    news::{Changed, Found},
    scan::{FileProblem, Sources},
};
use crate::disk::{self, Secrecy};

/// In the state folder: the good documents behind refused ones.
pub const HELD_FILE: &str = "last-good.json";

/// Objects that are not as they were.
pub type Touched = BTreeSet<ObjectKey>;

static NO_TEXT: LazyLock<Arc<Value>> = LazyLock::new(Arc::default);

/// What changes come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    #[default]
    Nothing,
    /// Only what is written in objects' own status.
    Statuses,
    /// Objects, or what is wrong with them.
    Objects,
}

/// All objects that count, and everything that is wrong with the rest.
#[derive(Default)]
pub struct Admission {
    held_file: Option<PathBuf>,
    entries: BTreeMap<ObjectKey, Entry>,
    /// Good documents from before a restart, until they are needed or replaced.
    held: BTreeMap<ObjectKey, Value>,
    objects: Objects,
    touched: Touched,
    ignored: BTreeMap<(String, String, String), Message>,
    problems: Vec<FileProblem>,
}

struct Entry {
    /// Empty where objects do not come from files.
    file: PathBuf,
    /// What the source says now; None where nobody asks.
    document: Option<Arc<Value>>,
    good: Good,
    rejection: Option<Rejection>,
    messages: Vec<Message>,
    status: Option<Arc<Value>>,
}

/// What counts: the document itself, or the last good one before it.
#[derive(Clone, Debug)]
enum Good {
    Nothing,
    /// Its text is not kept.
    Object,
    Document(Arc<Value>),
}

/// A document on its way to be judged.
struct Case {
    file: PathBuf,
    document: Arc<Value>,
    status: Option<Arc<Value>>,
    keep_text: bool,
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
            let is_same = |known: &Arc<Value>| Arc::ptr_eq(known, &document) || *known == document;
            if self.entries.get(&key).is_some_and(|entry| entry.document.as_ref().is_some_and(is_same) && entry.file == file) {
                continue;
            }
            changed = true;
            self.judge(key, Case { file, document, status: None, keep_text: true });
        }
        let gone: Vec<ObjectKey> = self.entries.keys().filter(|key| !seen.contains(key)).cloned().collect();
        for key in gone {
            changed |= self.forget(key);
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

    /// Takes what has changed, in its order.
    pub fn update(&mut self, changes: Vec<Changed>) -> Effect {
        let (mut changed, mut restated) = (false, false);
        let refused = self.refused_documents();
        for change in changes {
            match change {
                Changed::Present(Found { document, status }) => {
                    // The API server has no objects without a name.
                    let Some(key) = key_of(&document) else { continue };
                    let keep_text = key.kind.has_status();
                    restated |= self.entries.get(&key).is_some_and(|entry| entry.status != status);
                    changed |= self.judge(key, Case { file: PathBuf::new(), document, status, keep_text });
                }
                Changed::Gone(key) => changed |= self.forget(key),
                Changed::Only { kind, names } => {
                    let of_kind = self.of_kind(kind);
                    let gone: Vec<ObjectKey> = of_kind.filter(|key| !names.contains(&key.name)).cloned().collect();
                    for key in gone {
                        changed |= self.forget(key);
                    }
                    self.held.retain(|key, _| key.kind != kind || names.contains(&key.name));
                }
            }
        }
        if changed && refused != self.refused_documents() {
            self.save();
        }
        match (changed, restated) {
            (true, _) => Effect::Objects,
            (false, true) => Effect::Statuses,
            (false, false) => Effect::Nothing,
        }
    }

    /// What has changed since this was last asked.
    pub fn take_touched(&mut self) -> Touched {
        mem::take(&mut self.touched)
    }

    /// Judges a document; true when the object or what it is told changed.
    fn judge(&mut self, key: ObjectKey, case: Case) -> bool {
        let Case { file, document, status, keep_text } = case;
        let before = self.entries.remove(&key);
        let (entry, changed) = match admit(&document) {
            Verdict::Admitted(admitted) => {
                let was_refused = before.as_ref().is_some_and(|entry| entry.rejection.is_some());
                if was_refused {
                    info!(object = %key, "accepted again");
                }
                let same = self.objects.holds(&key.name, &admitted.object);
                let told = before.is_some_and(|entry| entry.messages == admitted.warnings) && !was_refused;
                if !same {
                    self.objects.insert(key.name.clone(), admitted.object);
                    self.touched.insert(key.clone());
                }
                let document = keep_text.then_some(document);
                let good = document.clone().map_or(Good::Object, Good::Document);
                (Entry { file, document, good, rejection: None, messages: admitted.warnings, status }, !(same && told))
            }
            Verdict::Rejected(rejection) => {
                let told = before.as_ref().is_some_and(|entry| entry.rejection.as_ref() == Some(&rejection));
                let good = before.map_or(Good::Nothing, |entry| entry.good);
                let good = if matches!(good, Good::Nothing) { self.revive(&key) } else { good };
                if !told {
                    let kept =
                        if matches!(good, Good::Nothing) { "it has no effect" } else { "its last good version stays in force" };
                    if file.as_os_str().is_empty() {
                        error!("{rejection}; {kept}");
                    } else {
                        error!(file = %file.display(), "{rejection}; {kept}");
                    }
                }
                let document = Some(document);
                (Entry { file, document, good, rejection: Some(rejection), messages: Vec::new(), status }, !told)
            }
            // A document with a key is of a kind that counts.
            Verdict::Ignored(_) => return false,
        };
        self.entries.insert(key, entry);
        changed
    }

    fn forget(&mut self, key: ObjectKey) -> bool {
        let known = self.entries.remove(&key).is_some();
        if known {
            self.objects.remove(&key);
            self.touched.insert(key);
        }
        known
    }

    /// The good version from before a restart.
    fn revive(&mut self, key: &ObjectKey) -> Good {
        let Some(document) = self.held.remove(key) else { return Good::Nothing };
        let Verdict::Admitted(admitted) = admit(&document) else { return Good::Nothing };
        self.objects.insert(key.name.clone(), admitted.object);
        self.touched.insert(key.clone());
        Good::Document(Arc::new(document))
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &ObjectKey> {
        let first = ObjectKey { kind, name: Name::new("", "") };
        self.entries.range(first..).map(|(key, _)| key).take_while(move |key| key.kind == kind)
    }

    /// The good documents behind refused ones: what a restart needs.
    fn refused_documents(&self) -> Vec<Arc<Value>> {
        let refused = self.entries.values().filter(|entry| entry.rejection.is_some());
        let good = refused.filter_map(|entry| match &entry.good {
            Good::Document(document) => Some(document.clone()),
            Good::Nothing | Good::Object => None,
        });
        good.collect()
    }

    fn save(&self) {
        let Some(file) = &self.held_file else { return };
        let needed = self.refused_documents();
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
            document: entry.document.as_ref().unwrap_or(&NO_TEXT),
            refused: entry.rejection.is_some(),
            kept: entry.rejection.is_some() && !matches!(entry.good, Good::Nothing),
            status: entry.status.as_deref(),
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
    /// Null where its text is not kept: of Kubernetes' own kinds, read from the API server.
    pub document: &'a Arc<Value>,
    pub refused: bool,
    /// Refused, with an older version in force.
    pub kept: bool,
    /// As the API server has it at present, whoever wrote it.
    pub status: Option<&'a Value>,
}
