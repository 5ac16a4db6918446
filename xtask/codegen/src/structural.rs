//! From what schemars writes to what an API server takes as a structural schema
//! (kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions).

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

/// Rewrites a schema and all below it. No default stays: an API server would write it into people's objects.
pub(crate) fn structural(schema: &mut Value) {
    let Value::Object(object) = schema else {
        // `true`: anything.
        *schema = json!({ "x-kubernetes-preserve-unknown-fields": true });
        return;
    };
    for key in ["$schema", "title", "default", "nullable", "examples"] {
        object.remove(key);
    }
    without_null(object);
    alternatives_to_enum(object);
    bounds(object);
    if let Some(value) = object.remove("const") {
        object.insert("enum".to_owned(), json!([value]));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(key) {
            structural(inner);
        }
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(structural);
    }
    let says_nothing = ["type", "properties", "enum", "additionalProperties"].iter().all(|key| !object.contains_key(*key));
    if says_nothing {
        object.insert("x-kubernetes-preserve-unknown-fields".to_owned(), Value::Bool(true));
    }
}

/// What may be absent may not be null: that is how Istio's own definitions have it.
fn without_null(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|one| one != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            object.insert("type".to_owned(), one);
        }
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|one| !one.is_null());
    }
    for key in ["anyOf", "allOf", "oneOf"] {
        let Some(Value::Array(mut choices)) = object.remove(key) else { continue };
        choices.retain(|choice| !is_null(choice));
        match choices.as_mut_slice() {
            [Value::Object(only)] => {
                let mut only = std::mem::take(only);
                without_null(&mut only);
                // What is said of the field goes before what is said of its type.
                for (key, value) in only {
                    object.entry(key).or_insert(value);
                }
            }
            _ => drop(object.insert(key.to_owned(), Value::Array(choices))),
        }
    }
}

fn is_null(choice: &Value) -> bool {
    choice["type"] == "null" || choice.get("const").is_some_and(Value::is_null) || choice["enum"] == json!([null])
}

/// Values that have a description each.
fn alternatives_to_enum(object: &mut Map<String, Value>) {
    for key in ["oneOf", "anyOf"] {
        let Some(Value::Array(choices)) = object.get(key) else { continue };
        let mut values = Vec::new();
        for choice in choices {
            match (choice.get("const"), &choice["enum"]) {
                (Some(value), _) => values.push(value.clone()),
                (None, Value::Array(several)) => values.extend(several.iter().cloned()),
                (None, _) => return,
            }
        }
        object.remove(key);
        object.insert("type".to_owned(), "string".into());
        object.insert("enum".to_owned(), values.into());
    }
}

/// An API server knows no unsigned formats.
fn bounds(object: &mut Map<String, Value>) {
    let unsigned = object.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint"));
    if unsigned {
        object.remove("format");
        object.insert("minimum".to_owned(), 0.into());
    }
}

/// With its keys in alphabetical order, whatever features the reader of JSON was built with.
pub(crate) struct Sorted<'a>(pub(crate) &'a Value);

impl Serialize for Sorted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(object) => {
                serializer.collect_map(object.iter().map(|(key, value)| (key, Sorted(value))).collect::<BTreeMap<_, _>>())
            }
            Value::Array(items) => serializer.collect_seq(items.iter().map(Sorted)),
            other => other.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_become_structural() {
        for (schema, expected) in [
            (json!(true), json!({ "x-kubernetes-preserve-unknown-fields": true })),
            (json!({ "type": ["string", "null"], "default": null }), json!({ "type": "string" })),
            (
                json!({ "anyOf": [{ "type": "object", "properties": { "a": { "type": "integer", "format": "uint32", "minimum": 0 } } }, { "type": "null" }], "description": "x" }),
                json!({ "type": "object", "properties": { "a": { "type": "integer", "minimum": 0 } }, "description": "x" }),
            ),
            (
                json!({ "oneOf": [{ "type": "string", "const": "A", "description": "x" }, { "type": "string", "enum": ["B", "C"] }] }),
                json!({ "type": "string", "enum": ["A", "B", "C"] }),
            ),
            (
                json!({ "type": "object", "additionalProperties": true }),
                json!({ "type": "object", "additionalProperties": { "x-kubernetes-preserve-unknown-fields": true } }),
            ),
        ] {
            let mut found = schema;
            structural(&mut found);
            assert_eq!(found, expected);
        }
    }
}
