//! The content of every status file.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use mesh_config::{
    kinds::{Kind, ObjectKey},
    status::{Level, Message},
    translate::Settings,
};
use mesh_policy::model::WorkloadUid;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::source::{Admission, FileProblem, Standing};

/// Path below `.status/keelson` and content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    pub files: BTreeMap<PathBuf, Arc<str>>,
}

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
    conditions: Vec<Condition>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    validation_messages: &'a [Message],
}

#[derive(Serialize)]
struct Condition {
    r#type: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
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

/// The status of every object that has something to be told.
pub fn desired(
    admission: &Admission,
    translated: &BTreeMap<ObjectKey, Vec<Message>>,
    captured: &BTreeSet<WorkloadUid>,
    settings: &Settings,
) -> Desired {
    let mut files: BTreeMap<PathBuf, Arc<str>> = BTreeMap::new();
    // Most pods have nothing to be told but this: rendered once, shared by all.
    let [not_captured, is_captured] = [false, true].map(|captured| -> Arc<str> {
        let status = Status { observed_hash: None, conditions: vec![capture(captured)], validation_messages: &[] };
        yaml(&Document { status }).into()
    });
    for (key, mut messages) in admission.messages() {
        messages.extend(translated.get(key).into_iter().flatten().cloned());
        let Some(standing) = admission.standing(key) else { continue };
        let is_pod = key.kind == Kind::Pod;
        if messages.is_empty() && !is_pod && !key.kind.has_status() {
            continue;
        }
        let file = path(key.kind.as_str(), &key.name.namespace, &key.name.name);
        let captured = is_pod && captured.contains(&settings.pod_uid(&key.name.namespace, &key.name.name));
        if is_pod && messages.is_empty() {
            files.insert(file, if captured { is_captured.clone() } else { not_captured.clone() });
            continue;
        }
        let mut conditions = vec![accepted(standing, &messages)];
        if is_pod {
            conditions.push(capture(captured));
        }
        let observed_hash = key.kind.has_status().then(|| hash(standing.document));
        let text = yaml(&Document { status: Status { observed_hash, conditions, validation_messages: &messages } });
        files.insert(file, text.into());
    }
    for ((kind, namespace, name), message) in admission.ignored() {
        if ![kind, namespace, name].iter().all(|part| is_file_name(part)) {
            continue;
        }
        let conditions =
            vec![Condition { r#type: "Accepted", status: "False", reason: "UnsupportedKind", message: message.text.clone() }];
        let messages = std::slice::from_ref(message);
        let text = yaml(&Document { status: Status { observed_hash: None, conditions, validation_messages: messages } });
        files.insert(path(kind, namespace, name), text.into());
    }
    if !admission.problems().is_empty() {
        let text = |problem: &'_ FileProblem| problem.path.display().to_string();
        let errors = admission.problems().iter().map(|problem| FileErrorText { file: text(problem), error: &problem.text });
        files.insert("errors.yaml".into(), yaml(&Errors { errors: errors.collect() }).into());
    }
    Desired { files }
}

fn accepted(standing: Standing<'_>, messages: &[Message]) -> Condition {
    let count = messages.len();
    let (status, reason, message) = match (standing.refused, standing.kept) {
        (true, true) => ("False", "Invalid", "refused; the last good version stays in force".to_owned()),
        (true, false) => ("False", "Invalid", "refused; it has no effect".to_owned()),
        (false, _) if messages.iter().any(|message| message.level <= Level::Warning) => {
            ("True", "PartiallyHonoured", format!("{count} remark(s): see validationMessages"))
        }
        (false, _) => ("True", "Accepted", "in force".to_owned()),
    };
    Condition { r#type: "Accepted", status, reason, message }
}

fn capture(captured: bool) -> Condition {
    if captured {
        let message = "the node reports that the capture stands: reached by HBONE".to_owned();
        return Condition { r#type: "Captured", status: "True", reason: "Reported", message };
    }
    let message = "no node has reported a capture: reached in plain TCP".to_owned();
    Condition { r#type: "Captured", status: "False", reason: "NotReported", message }
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

fn hash(document: &serde_json::Value) -> String {
    let digest = Sha256::digest(document.to_string().as_bytes());
    digest[..8].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn yaml(value: &impl Serialize) -> String {
    serde_saphyr::to_string(value).expect("statuses are YAML")
}
