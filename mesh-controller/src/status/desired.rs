//! What every object is to be told: one description, which is written into files or into the objects' own status.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_config::{
    enrolment::{Enrolment, Refusal},
    kinds::{Kind, Name, ObjectKey, Objects, gateway::ParentRef},
    status::{CONTROLLER, Condition, Conditions, Level, Message, ParentStatus},
    translate::Settings,
};
use mesh_policy::model::WorkloadUid;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::api::{Form, POD_CONDITION};
use crate::{
    placement::Placement,
    source::{Admission, FileProblem, Standing},
};

/// Everything that is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    pub objects: BTreeMap<ObjectKey, Arc<ObjectStatus>>,
    /// Documents of kinds that have no effect, by kind, namespace and name.
    pub ignored: BTreeMap<(String, String, String), Message>,
    /// Files and documents that are wrong as a whole.
    pub problems: Vec<FileProblem>,
    /// Pods whose condition is not what it should be.
    pub pods: BTreeMap<Name, PodNews>,
}

/// What one object is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectStatus {
    /// Of the object's text as it was judged, for those who have no generations to count.
    pub observed_hash: Option<String>,
    /// As the API server has the object: `networking.istio.io/v1`.
    pub api_version: Option<Box<str>>,
    /// `metadata.generation` of what was judged.
    pub generation: Option<i64>,
    pub conditions: Vec<Condition>,
    /// Of a route of the Gateway API, at each parent in the mesh.
    pub parents: Vec<ParentStatus>,
    pub messages: Vec<Message>,
    /// Whether the object's own status, as the API server has it, says something else.
    pub differs: bool,
}

/// What has to be written into a pod's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNews {
    /// `metadata.uid`.
    pub uid: String,
    /// Why it is not captured, as reason and message; None: nothing is in its way any more.
    pub refused: Option<(&'static str, String)>,
}

/// What pods are told.
#[derive(Clone, Copy)]
pub enum PodsTold<'a> {
    /// Each one whether it is captured.
    Captured(&'a BTreeSet<WorkloadUid>),
    /// Those that ask and cannot be taken in, why.
    Refused(&'a Placement),
}

/// What translation tells the objects.
#[derive(Clone, Copy)]
pub struct Told<'a> {
    pub messages: &'a BTreeMap<ObjectKey, Vec<Message>>,
    pub conditions: &'a BTreeMap<ObjectKey, Conditions>,
}

/// The status of every object that has something to be told.
pub fn desired(admission: &Admission, told: &Told<'_>, pods: PodsTold<'_>, settings: &Settings) -> Desired {
    let mut objects: BTreeMap<ObjectKey, Arc<ObjectStatus>> = BTreeMap::new();
    // Most pods have nothing to be told but this: made once, shared by all.
    let [not_captured, is_captured] =
        [false, true].map(|captured| Arc::new(ObjectStatus { conditions: vec![capture(captured)], ..ObjectStatus::default() }));
    for (key, mut messages) in admission.messages() {
        messages.extend(told.messages.get(key).into_iter().flatten().cloned());
        let of_pod = match pods {
            PodsTold::Captured(captured) if key.kind == Kind::Pod => {
                Some(captured.contains(&settings.pod_uid(&key.name.namespace, &key.name.name)))
            }
            _ => None,
        };
        if let Some(captured) = of_pod.filter(|_| messages.is_empty()) {
            objects.insert(key.clone(), if captured { is_captured.clone() } else { not_captured.clone() });
            continue;
        }
        if messages.is_empty() && !key.kind.has_status() {
            continue;
        }
        let Some(standing) = admission.standing(key) else { continue };
        let translated = told.conditions.get(key);
        objects.insert(key.clone(), Arc::new(of_object(key, standing, translated, messages, pods, of_pod)));
    }
    let pods = match pods {
        PodsTold::Captured(_) => BTreeMap::new(),
        PodsTold::Refused(placement) => refused(admission.objects(), placement),
    };
    Desired { objects, ignored: admission.ignored().clone(), problems: admission.problems().to_vec(), pods }
}

fn of_object(
    key: &ObjectKey,
    standing: Standing<'_>,
    translated: Option<&Conditions>,
    messages: Vec<Message>,
    pods: PodsTold<'_>,
    captured: Option<bool>,
) -> ObjectStatus {
    let own = translated.map(|conditions| &conditions.own[..]).unwrap_or_default();
    // What a kind says of its own acceptance stands in place of the general form.
    let said = !standing.refused && own.iter().any(|condition| condition.r#type == "Accepted");
    let generation = standing.document.pointer("/metadata/generation").and_then(Value::as_i64);
    let general = || Condition { observed_generation: generation, ..accepted(standing, &messages) };
    let mut conditions: Vec<Condition> = (!said).then(general).into_iter().collect();
    conditions.extend(captured.map(capture));
    conditions.extend(own.iter().filter(|condition| said || condition.r#type != "Accepted").cloned());
    let parents = match translated {
        _ if standing.refused => refused_parents(standing, generation, &messages),
        Some(translated) => translated.parents.clone(),
        None => Vec::new(),
    };
    let in_files = matches!(pods, PodsTold::Captured(_));
    let observed_hash = (in_files && key.kind.has_status()).then(|| hash(standing.document));
    let api_version = standing.document.get("apiVersion").and_then(Value::as_str).map(Into::into);
    let mut status = ObjectStatus { observed_hash, api_version, generation, conditions, parents, messages, differs: false };
    // A class of another controller's name is carried out, but that controller speaks of it.
    let of_others = standing.document.pointer("/spec/controllerName").is_some_and(|name| name != CONTROLLER);
    let form = Form::of(key.kind, !own.is_empty() && !of_others).filter(|_| !in_files);
    status.differs = form.is_some_and(|form| form.differs(standing.status, &status));
    status
}

fn hash(document: &Value) -> String {
    let digest = Sha256::digest(document.to_string().as_bytes());
    digest[..8].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
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
fn refused_parents(standing: Standing<'_>, generation: Option<i64>, messages: &[Message]) -> Vec<ParentStatus> {
    let is_of_mesh = |parent: &ParentRef| matches!(parent.kind.as_str(), "Service" | "ServiceEntry");
    let parents = standing.document.pointer("/spec/parentRefs").and_then(Value::as_array);
    let parents = parents.into_iter().flatten().filter_map(|parent| serde_json::from_value(parent.clone()).ok());
    let kept = if standing.kept { "; the last good version stays in force" } else { "" };
    let condition = Condition::new("Accepted", false, "UnsupportedValue", format!("{}{kept}", texts(messages)));
    let condition = Condition { observed_generation: generation, ..condition };
    parents.filter(is_of_mesh).map(|parent| ParentStatus::new(parent, vec![condition.clone()])).collect()
}

/// All remarks in one line.
pub(super) fn texts(messages: &[Message]) -> String {
    let text = |message: &Message| match &*message.field {
        "" => message.text.clone(),
        field => format!("{field}: {}", message.text),
    };
    messages.iter().map(text).collect::<Vec<_>>().join("; ")
}

fn capture(captured: bool) -> Condition {
    if captured {
        let message = "the node reports that the capture stands: reached by HBONE".to_owned();
        return Condition::new("Captured", true, "Reported", message);
    }
    let message = "no node has reported a capture: reached in plain TCP".to_owned();
    Condition::new("Captured", false, "NotReported", message)
}

/// Pods that ask to be captured and cannot be, and those that were told so and can now.
fn refused(objects: &Objects, placement: &Placement) -> BTreeMap<Name, PodNews> {
    let refusals: BTreeMap<&Name, &Refusal> = (placement.pods())
        .filter_map(|(name, placed)| match &placed.enrolment {
            Enrolment::Refused(refusal) if refusal.is_news() => Some((name, refusal)),
            Enrolment::Refused(_) | Enrolment::Enrolled | Enrolment::NotAsked => None,
        })
        .collect();
    let news = objects.pods.iter().filter_map(|(name, pod)| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let shown = conditions.into_iter().flatten().find(|condition| condition.type_ == POD_CONDITION);
        let refusal = refusals.get(name);
        let is_said = match (refusal, shown) {
            (None, None) => true,
            (Some(refusal), Some(shown)) => shown.reason.as_deref() == Some(refusal.reason()),
            _ => false,
        };
        let refused = refusal.map(|refusal| (refusal.reason(), refusal.to_string()));
        let uid = pod.metadata.uid.clone().filter(|_| !is_said)?;
        Some((name.clone(), PodNews { uid, refused }))
    });
    news.collect()
}
