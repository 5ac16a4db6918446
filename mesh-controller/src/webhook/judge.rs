//! One AdmissionReview to one answer.

use mesh_config::validate::{Verdict, admit};
use serde::Deserialize;
use serde_json::{Value, json};

/// Of all warnings of one answer; the API server passes on 4096 characters.
const LONGEST_WARNING: usize = 256;
const MOST_WARNINGS: usize = 16;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    request: Request,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    operation: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

/// What becomes of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Allowed {
        warnings: Vec<String>,
    },
    /// Names the field at fault and the cause.
    Refused {
        text: String,
    },
}

/// Judges the body of a request and gives that of its answer; an error means that the body is no review.
pub fn judge(body: &[u8]) -> Result<(Answer, Value), serde_json::Error> {
    let Review { api_version, request } = serde_json::from_slice(body)?;
    let Request { uid, operation, object, old_object } = request;
    let answer = match &*operation {
        "CREATE" => of_object(object),
        "UPDATE" => of_update(object, &old_object),
        // What goes away or is connected to is nobody's concern here.
        _ => Answer::Allowed { warnings: Vec::new() },
    };
    let response = match &answer {
        Answer::Allowed { warnings } => json!({ "uid": uid, "allowed": true, "warnings": warnings }),
        Answer::Refused { text } => json!({
            "uid": uid, "allowed": false, "status": { "code": 422, "reason": "Invalid", "message": text },
        }),
    };
    Ok((answer, json!({ "apiVersion": api_version, "kind": "AdmissionReview", "response": response })))
}

fn of_update(object: Value, old: &Value) -> Answer {
    // What is refused already, by another version's rules, can still be labelled and let go of its finalizers.
    let leaves = object.pointer("/metadata/deletionTimestamp").is_some();
    let same = object.get("spec") == old.get("spec");
    match of_object(object) {
        Answer::Refused { text } if leaves || same => Answer::Allowed { warnings: vec![short(&text)] },
        answer => answer,
    }
}

fn of_object(mut object: Value) -> Answer {
    if is_foreign_route(&object) {
        return Answer::Allowed { warnings: Vec::new() };
    }
    // A name that is still to be made is a good one.
    let generated = object.pointer("/metadata/generateName").and_then(Value::as_str).map(|prefix| format!("{prefix}x"));
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(name) = generated
    {
        metadata.entry("name").or_insert_with(|| name.into());
    }
    match admit(&object) {
        Verdict::Rejected(rejection) => Answer::Refused { text: rejection.to_string() },
        Verdict::Admitted(admitted) => {
            let warnings = admitted.warnings.iter().take(MOST_WARNINGS);
            Answer::Allowed { warnings: warnings.map(|warning| short(&format!("{}: {}", warning.field, warning.text))).collect() }
        }
        Verdict::Ignored(ignored) => {
            Answer::Allowed { warnings: ignored.message.iter().map(|message| short(&message.text)).collect() }
        }
    }
}

/// A route of Gateways alone is their controllers' business.
fn is_foreign_route(object: &Value) -> bool {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    let is_of_mesh = |parent: &Value| matches!(parent["kind"].as_str(), Some("Service" | "ServiceEntry"));
    let parents = object.pointer("/spec/parentRefs").and_then(Value::as_array);
    matches!(kind, "HTTPRoute" | "GRPCRoute" | "TCPRoute" | "TLSRoute")
        && !parents.is_some_and(|parents| parents.iter().any(is_of_mesh))
}

fn short(text: &str) -> String {
    if text.len() <= LONGEST_WARNING {
        return text.to_owned();
    }
    let end = (0..=LONGEST_WARNING - 4).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{} …", &text[..end])
}
