//! The content of every status file.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use mesh_config::{
    kinds::{Kind, ObjectKey, gateway::ParentRef},
    status::{Condition, Conditions, Level, Message, ParentStatus},
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

/// What translation tells the objects.
#[derive(Clone, Copy)]
pub struct Told<'a> {
    pub messages: &'a BTreeMap<ObjectKey, Vec<Message>>,
    pub conditions: &'a BTreeMap<ObjectKey, Conditions>,
}

/// The status of every object that has something to be told.
pub fn desired(admission: &Admission, told: &Told<'_>, captured: &BTreeSet<WorkloadUid>, settings: &Settings) -> Desired {
    let mut files: BTreeMap<PathBuf, Arc<str>> = BTreeMap::new();
    // Most pods have nothing to be told but this: rendered once, shared by all.
    let [not_captured, is_captured] = [false, true].map(|captured| -> Arc<str> {
        let status = Status { observed_hash: None, conditions: vec![capture(captured)], parents: &[], validation_messages: &[] };
        yaml(&Document { status }).into()
    });
    for (key, mut messages) in admission.messages() {
        messages.extend(told.messages.get(key).into_iter().flatten().cloned());
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
        let translated = told.conditions.get(key);
        let own = translated.map(|conditions| &conditions.own[..]).unwrap_or_default();
        // What a kind says of its own acceptance stands in place of the general form.
        let said = !standing.refused && own.iter().any(|condition| condition.r#type == "Accepted");
        let mut conditions: Vec<Condition> = (!said).then(|| accepted(standing, &messages)).into_iter().collect();
        if is_pod {
            conditions.push(capture(captured));
        }
        conditions.extend(own.iter().filter(|condition| said || condition.r#type != "Accepted").cloned());
        let parents = match translated {
            _ if standing.refused => refused_parents(standing, &messages),
            Some(translated) => translated.parents.clone(),
            None => Vec::new(),
        };
        let observed_hash = key.kind.has_status().then(|| hash(standing.document));
        let status = Status { observed_hash, conditions, parents: &parents, validation_messages: &messages };
        let text = yaml(&Document { status });
        files.insert(file, text.into());
    }
    for ((kind, namespace, name), message) in admission.ignored() {
        if ![kind, namespace, name].iter().all(|part| is_file_name(part)) {
            continue;
        }
        let conditions = vec![Condition::new("Accepted", false, "UnsupportedKind", message.text.clone())];
        let messages = std::slice::from_ref(message);
        let status = Status { observed_hash: None, conditions, parents: &[], validation_messages: messages };
        let text = yaml(&Document { status });
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
        (true, true) => (false, "Invalid", "refused; the last good version stays in force".to_owned()),
        (true, false) => (false, "Invalid", "refused; it has no effect".to_owned()),
        (false, _) if messages.iter().any(|message| message.level <= Level::Warning) => {
            (true, "PartiallyHonoured", format!("{count} remark(s): see validationMessages"))
        }
        (false, _) => (true, "Accepted", "in force".to_owned()),
    };
    Condition::new("Accepted", status, reason, message)
}

/// A refused route says so at each of its parents in the mesh, as the Gateway API has it for values that are not known.
fn refused_parents(standing: Standing<'_>, messages: &[Message]) -> Vec<ParentStatus> {
    let is_of_mesh = |parent: &ParentRef| matches!(parent.kind.as_str(), "Service" | "ServiceEntry");
    let parents = standing.document.pointer("/spec/parentRefs").and_then(serde_json::Value::as_array);
    let parents = parents.into_iter().flatten().filter_map(|parent| serde_json::from_value(parent.clone()).ok());
    let texts: Vec<String> = messages.iter().map(|message| format!("{}: {}", message.field, message.text)).collect();
    let kept = if standing.kept { "; the last good version stays in force" } else { "" };
    let condition = Condition::new("Accepted", false, "UnsupportedValue", format!("{}{kept}", texts.join("; ")));
    parents.filter(is_of_mesh).map(|parent| ParentStatus::new(parent, vec![condition.clone()])).collect()
}

fn capture(captured: bool) -> Condition {
    if captured {
        let message = "the node reports that the capture stands: reached by HBONE".to_owned();
        return Condition::new("Captured", true, "Reported", message);
    }
    let message = "no node has reported a capture: reached in plain TCP".to_owned();
    Condition::new("Captured", false, "NotReported", message)
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
