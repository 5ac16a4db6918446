//! How a kind's `.status` says what its object is told, and what has to be written for it.

use mesh_config::{
    kinds::Kind,
    status::{CONTROLLER, Condition, Level, Message, ParentStatus},
};
use serde_json::{Map, Value, json};

use super::super::desired::{ObjectStatus, texts};

/// The specification allows 32768 characters; nobody reads them.
const LONGEST_TEXT: usize = 2048;
/// Of validation messages.
const MOST_MESSAGES: usize = 32;

/// The shape of a kind's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::status) enum Form {
    /// `conditions`, `validationMessages` and `observedGeneration`.
    Istio,
    /// `conditions`: Gateways and GatewayClasses.
    Conditions,
    /// `parents`, each with the controller that has written it.
    Route,
}

impl Form {
    /// None: the kind has no status of ours. `ours`: the object is one that this mesh carries out.
    pub(in crate::status) fn of(kind: Kind, ours: bool) -> Option<Self> {
        match kind {
            Kind::ServiceEntry
            | Kind::WorkloadEntry
            | Kind::AuthorizationPolicy
            | Kind::PeerAuthentication
            | Kind::VirtualService
            | Kind::DestinationRule
            | Kind::Telemetry => Some(Self::Istio),
            Kind::Gateway | Kind::GatewayClass => ours.then_some(Self::Conditions),
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => Some(Self::Route),
            Kind::Namespace
            | Kind::Node
            | Kind::ServiceAccount
            | Kind::ConfigMap
            | Kind::Pod
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::ReferenceGrant => None,
        }
    }

    /// Whether the status that an object has is not what it should be.
    pub(in crate::status) fn differs(self, found: Option<&Value>, wanted: &ObjectStatus) -> bool {
        self.patch(found, wanted, "").is_some()
    }

    /// What to merge into an object's status (RFC 7396); None: it is right. `now`: RFC 3339.
    pub(super) fn patch(self, found: Option<&Value>, wanted: &ObjectStatus, now: &str) -> Option<Value> {
        let none = Value::Null;
        let found = found.unwrap_or(&none);
        match self {
            Self::Istio => istio(found, wanted, now),
            // Whoever said the same of the same version may have said it in other words: classes are shared.
            Self::Conditions if wanted.conditions.iter().all(|condition| is_said(&found["conditions"], condition)) => None,
            Self::Conditions => {
                let conditions = merged(&found["conditions"], &wanted.conditions, now);
                (conditions != list(&found["conditions"])).then(|| json!({ "conditions": conditions }))
            }
            Self::Route => {
                let parents = parents(&found["parents"], &wanted.parents, now);
                (parents != list(&found["parents"])).then(|| json!({ "parents": parents }))
            }
        }
    }
}

fn is_said(found: &Value, condition: &Condition) -> bool {
    list(found).iter().any(|known| {
        let of_version =
            condition.observed_generation.is_none_or(|generation| is_number(&known["observedGeneration"], generation));
        known["type"] == condition.r#type && known["status"] == condition.status && of_version
    })
}

fn istio(found: &Value, wanted: &ObjectStatus, now: &str) -> Option<Value> {
    // Readers of conditions are to find the cause there: not everybody looks at validation messages.
    let full = |condition: &Condition| match &wanted.messages[..] {
        [] => condition.clone(),
        messages => Condition { message: format!("{}: {}", condition.message, texts(messages)), ..condition.clone() },
    };
    let wanted_conditions: Vec<Condition> = wanted.conditions.iter().map(full).collect();
    let conditions = merged(&found["conditions"], &wanted_conditions, now);
    let messages: Vec<Value> = wanted.messages.iter().take(MOST_MESSAGES).map(message).collect();
    let mut patch = Map::new();
    if conditions != list(&found["conditions"]) {
        patch.insert("conditions".into(), conditions.into());
    }
    if messages != list(&found["validationMessages"]) {
        // None at all is said by absence.
        let messages = if messages.is_empty() { Value::Null } else { messages.into() };
        patch.insert("validationMessages".into(), messages);
    }
    if let Some(generation) = wanted.generation.filter(|generation| !is_number(&found["observedGeneration"], *generation)) {
        patch.insert("observedGeneration".into(), generation.into());
    }
    (!patch.is_empty()).then_some(patch.into())
}

/// Istio writes it as a text or a number.
fn is_number(found: &Value, number: i64) -> bool {
    found.as_i64() == Some(number) || found.as_str().is_some_and(|text| text == number.to_string())
}

/// As Istio's analyzers write them (`AnalysisMessageBase`); the text has no other place in its schema.
fn message(message: &Message) -> Value {
    let level = match message.level {
        Level::Error => "ERROR",
        Level::Warning => "WARNING",
        Level::Info => "INFO",
    };
    let code = serde_json::to_value(message.code).expect("codes are JSON");
    json!({ "level": level, "type": { "code": code, "name": short(&texts(std::slice::from_ref(message))) } })
}

/// Conditions with ours in their places, in the order in which they are found.
fn merged(found: &Value, wanted: &[Condition], now: &str) -> Vec<Value> {
    let mut conditions = list(found).to_vec();
    for condition in wanted {
        let place = conditions.iter().position(|known| known["type"] == condition.r#type);
        match place {
            Some(place) => conditions[place] = written(Some(&conditions[place]), condition, now),
            None => conditions.push(written(None, condition, now)),
        }
    }
    conditions
}

/// The condition as it is to be written. Its time moves only when the condition turns.
fn written(found: Option<&Value>, condition: &Condition, now: &str) -> Value {
    let Condition { r#type, status, reason, message, observed_generation } = condition;
    let stayed = found.filter(|found| found["status"] == *status);
    let since = stayed.and_then(|found| found["lastTransitionTime"].as_str()).unwrap_or(now);
    let mut value = json!({
        "type": r#type, "status": status, "reason": reason, "message": short(message), "lastTransitionTime": since,
    });
    if let Some(generation) = observed_generation {
        let known = found.map(|found| &found["observedGeneration"]).filter(|known| is_number(known, *generation));
        value["observedGeneration"] = known.cloned().unwrap_or_else(|| (*generation).into());
    }
    value
}

/// Parents with ours in their places: those of others stay, ours that are no longer wanted go.
fn parents(found: &Value, wanted: &[ParentStatus], now: &str) -> Vec<Value> {
    let key = |parent: &ParentStatus| serde_json::to_value(&parent.parent_ref).expect("parents are JSON");
    let ours = |parent: &Value| parent["controllerName"] == CONTROLLER;
    let mut left: Vec<(Value, &ParentStatus)> = wanted.iter().map(|parent| (key(parent), parent)).collect();
    let mut parents = Vec::new();
    for known in list(found) {
        if !ours(known) {
            parents.push(known.clone());
        } else if let Some(at) = left.iter().position(|(key, _)| *key == known["parentRef"]) {
            let (key, parent) = left.remove(at);
            parents.push(of_parent(&key, parent, &known["conditions"], now));
        }
    }
    parents.extend(left.into_iter().map(|(key, parent)| of_parent(&key, parent, &Value::Null, now)));
    parents
}

fn of_parent(key: &Value, parent: &ParentStatus, found: &Value, now: &str) -> Value {
    let known = |condition: &Condition| list(found).iter().find(|known| known["type"] == condition.r#type);
    let conditions: Vec<Value> = parent.conditions.iter().map(|condition| written(known(condition), condition, now)).collect();
    json!({ "parentRef": key, "controllerName": parent.controller_name, "conditions": conditions })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// At most [`LONGEST_TEXT`] bytes, cut between characters.
pub(super) fn short(text: &str) -> String {
    if text.len() <= LONGEST_TEXT {
        return text.to_owned();
    }
    let end = (0..=LONGEST_TEXT - 4).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{} …", &text[..end])
}
