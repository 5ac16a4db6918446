//! A mesh from files alone: what a cluster that has these manifests would do, with nothing running.
//!
//! The files are read ([`read`]), completed with what a cluster would add ([`complete`]: pods of Deployments, addresses), and
//! judged and translated as the controller does it.

mod complete;
mod read;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use mesh_config::{
    kinds::{ObjectKey, Objects},
    status::{Level, Message},
    translate::{Settings, Translation, translate},
    validate::{Ignored, Verdict, admit},
};
use mesh_policy::model::Snapshot;
use serde_json::Value;

/// What the files amount to.
pub(crate) struct Files {
    pub(crate) snapshot: Snapshot,
    /// What each object, or file, is told about itself.
    pub(crate) findings: Vec<Finding>,
    /// What was assumed because the files do not say it.
    pub(crate) assumptions: Vec<String>,
    pub(crate) objects: usize,
}

/// A remark on an object, or on a file that could not be read.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) file: Option<PathBuf>,
    /// `Kind namespace/name`; empty for a whole file.
    pub(crate) object: String,
    pub(crate) level: Level,
    pub(crate) code: String,
    pub(crate) field: String,
    pub(crate) text: String,
}

impl Files {
    /// Reads files and folders. What is wrong with one object is a finding, and the rest goes on.
    pub(crate) fn load(paths: &[PathBuf]) -> Result<Self> {
        let mut findings = Vec::new();
        let mut documents = read::documents(paths, &mut findings)?;
        ensure!(
            !documents.is_empty(),
            "no manifest in {}",
            paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
        );
        let assumptions = complete::complete(&mut documents);
        let mut objects = Objects::default();
        let mut files = std::collections::BTreeMap::new();
        for (file, document) in &documents {
            match admit(document) {
                Verdict::Admitted(admitted) => {
                    let known = files.insert(admitted.key.clone(), file.clone());
                    if known.is_some() {
                        findings.push(Finding::of_object(
                            file,
                            &admitted.key,
                            "CONFLICT",
                            "is there more than once: the last one counts",
                        ));
                    }
                    findings.extend(admitted.warnings.iter().map(|message| Finding::of(file, &admitted.key, message)));
                    objects.insert(admitted.key.name.clone(), admitted.object);
                }
                Verdict::Ignored(Ignored { kind, namespace, name, message }) => {
                    findings.extend(message.map(|message| Finding::new(file, format!("{kind} {namespace}/{name}"), &message)));
                }
                Verdict::Rejected(rejection) => {
                    let object = rejection.key.as_ref().map_or_else(|| described(document), ToString::to_string);
                    findings.extend(rejection.problems.iter().map(|problem| Finding {
                        file: Some(file.clone()),
                        object: object.clone(),
                        level: Level::Error,
                        code: "INVALID".into(),
                        field: String::new(),
                        text: problem.to_string(),
                    }));
                }
            }
        }
        let settings = Settings::default();
        let captured = complete::captured(&objects, &settings);
        let Translation { model, messages, .. } = translate(&objects, &settings, &captured);
        for (key, messages) in &messages {
            let file = files.get(key).cloned().unwrap_or_default();
            findings.extend(messages.iter().map(|message| Finding::of(&file, key, message)));
        }
        findings.sort_by(|a, b| (a.level, &a.object, &a.field).cmp(&(b.level, &b.object, &b.field)));
        let count = files.len();
        Ok(Self { snapshot: model.snapshot(), findings, assumptions, objects: count })
    }

    /// Objects that were refused: what the others amount to is not what was meant.
    pub(crate) fn refused(&self) -> BTreeSet<&str> {
        self.findings.iter().filter(|finding| finding.code == "INVALID").map(|finding| finding.object.as_str()).collect()
    }
}

impl Finding {
    fn of(file: &Path, key: &ObjectKey, message: &Message) -> Self {
        Self::new(file, key.to_string(), message)
    }

    fn new(file: &Path, object: String, message: &Message) -> Self {
        let Message { level, code, field, text } = message;
        let code = serde_json::to_value(code).ok().and_then(|code| code.as_str().map(Into::into)).unwrap_or_default();
        Self { file: Some(file.to_owned()), object, level: *level, code, field: field.clone(), text: text.clone() }
    }

    fn of_object(file: &Path, key: &ObjectKey, code: &str, text: &str) -> Self {
        let (code, text) = (code.to_owned(), text.to_owned());
        Self { file: Some(file.to_owned()), object: key.to_string(), level: Level::Warning, code, field: String::new(), text }
    }
}

/// A document that can not even be named rightly.
fn described(document: &Value) -> String {
    let text = |pointer| document.pointer(pointer).and_then(Value::as_str).unwrap_or("?").to_owned();
    format!("{} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

#[cfg(test)]
mod tests;
