//! One list of what several nodes hold.
//!
//! What the controller distributes is the same on every node, once it has arrived: it is listed once. Where nodes hold
//! different versions of a thing, or some do not hold it, each version is a row that says on which nodes it is.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::answer::Listed;

/// A thing, and the nodes that hold it in this form.
#[derive(Debug)]
pub(crate) struct Row<T> {
    /// As the node gave it.
    pub(crate) raw: Value,
    pub(crate) view: T,
    /// Never empty, in the order of the answers.
    pub(crate) nodes: Vec<String>,
}

/// How many things a difference names before it only counts them.
const NAMED: usize = 5;

/// Things that are the same become one row. Sorted by namespace and name.
///
/// # Errors
///
/// When a node's answer is not understood: nodes and `meshctl` may differ in version.
pub(crate) fn merge<T: Listed>(answers: &[(String, Vec<Value>)]) -> Result<Vec<Row<T>>> {
    let mut rows: BTreeMap<(String, String), Row<T>> = BTreeMap::new();
    for row in separate::<T>(answers)? {
        let mut same = row.raw.clone();
        sort_lists(&mut same);
        match rows.entry((row.view.id(), same.to_string())) {
            std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(row)),
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut().nodes.extend(row.nodes),
        }
    }
    let mut rows: Vec<_> = rows.into_values().collect();
    rows.sort_by(|a, b| a.view.order().cmp(&b.view.order()).then_with(|| a.nodes.cmp(&b.nodes)));
    Ok(rows)
}

/// A row for each thing of each node, sorted within the node.
pub(crate) fn separate<T: Listed>(answers: &[(String, Vec<Value>)]) -> Result<Vec<Row<T>>> {
    let mut rows = Vec::new();
    for (node, values) in answers {
        let first = rows.len();
        for raw in values {
            let view = T::deserialize(raw)
                .with_context(|| format!("{node} describes a {} in a way that this meshctl does not understand", T::ONE))?;
            rows.push(Row { raw: raw.clone(), view, nodes: vec![node.clone()] });
        }
        rows[first..].sort_by(|a: &Row<T>, b| a.view.order().cmp(&b.view.order()));
    }
    Ok(rows)
}

/// What nodes do not agree on, in one sentence.
pub(crate) fn difference<T: Listed>(rows: &[Row<T>], all_nodes: usize) -> Option<String> {
    let mut versions: BTreeMap<String, Vec<&Row<T>>> = BTreeMap::new();
    for row in rows {
        versions.entry(row.view.id()).or_default().push(row);
    }
    let things = versions.len();
    versions.retain(|_, rows| rows.iter().any(|row| row.nodes.len() != all_nodes));
    if versions.is_empty() {
        return None;
    }
    let told = versions.values().take(NAMED).map(|rows| tell(rows)).collect::<Vec<_>>().join(", ");
    let more = versions.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("the nodes differ on {} of {things} {}: {told}{more}", versions.len(), T::MANY))
}

fn tell<T: Listed>(versions: &[&Row<T>]) -> String {
    let name = versions[0].view.names().first().map_or_else(|| versions[0].view.id(), |(space, name)| format!("{space}/{name}"));
    let nodes: BTreeSet<_> = versions.iter().flat_map(|row| &row.nodes).map(String::as_str).collect();
    let nodes = nodes.into_iter().collect::<Vec<_>>().join(", ");
    match versions.len() {
        1 => format!("{name} (only on {nodes})"),
        _ => format!("{name} (not the same on {nodes})"),
    }
}

/// The order in a list says nothing in what nodes hold, and may differ between them.
fn sort_lists(value: &mut Value) {
    match value {
        Value::Array(list) => {
            list.iter_mut().for_each(sort_lists);
            list.sort_by_cached_key(Value::to_string);
        }
        Value::Object(object) => object.values_mut().for_each(sort_lists),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::answer::Policy;

    fn policy(name: &str, action: &str, rules: &Value) -> Value {
        json!({ "name": name, "namespace": "shop", "action": action, "scope": "Namespace", "dryRun": false, "rules": rules })
    }

    fn check(answers: &[(&str, Vec<Value>)], rows: &[(&str, &[&str])], told: Option<&str>) {
        let answers: Vec<_> = answers.iter().map(|(node, values)| ((*node).to_owned(), values.clone())).collect();
        let merged = merge::<Policy>(&answers).unwrap();
        let found: Vec<_> =
            merged.iter().map(|row| (&*row.view.name, row.nodes.iter().map(|n| &**n).collect::<Vec<_>>())).collect();
        let rows: Vec<_> = rows.iter().map(|(name, nodes)| (*name, nodes.to_vec())).collect();
        assert_eq!(found, rows);
        assert_eq!(difference(&merged, answers.len()).as_deref(), told);
    }

    #[test]
    fn the_same_is_listed_once() {
        let (a, b) = (policy("a", "Allow", &json!([[["x"]], [["y"]]])), policy("b", "Deny", &json!([])));
        let turned = policy("a", "Allow", &json!([[["y"]], [["x"]]]));
        check(&[("n1", vec![b.clone(), a]), ("n2", vec![turned, b])], &[("a", &["n1", "n2"]), ("b", &["n1", "n2"])], None);
        check(&[("n1", vec![])], &[], None);
    }

    #[test]
    fn differences_are_told() {
        let (allow, deny) = (policy("a", "Allow", &json!([])), policy("a", "Deny", &json!([])));
        check(
            &[("n1", vec![allow.clone()]), ("n2", vec![deny])],
            &[("a", &["n1"]), ("a", &["n2"])],
            Some("the nodes differ on 1 of 1 policies: shop/a (not the same on n1, n2)"),
        );
        check(
            &[("n1", vec![allow.clone()]), ("n2", vec![]), ("n3", vec![allow])],
            &[("a", &["n1", "n3"])],
            Some("the nodes differ on 1 of 1 policies: shop/a (only on n1, n3)"),
        );
    }

    #[test]
    fn many_differences_are_counted() {
        let many: Vec<_> = (0..8).map(|i| policy(&format!("p{i}"), "Deny", &json!([]))).collect();
        let rows = merge::<Policy>(&[("n1".into(), many), ("n2".into(), vec![])]).unwrap();
        let told = difference(&rows, 2).unwrap();
        assert!(told.ends_with("shop/p4 (only on n1) and 3 more"), "{told}");
    }

    #[test]
    fn what_is_not_understood_names_the_node() {
        let error = merge::<Policy>(&[("n1".into(), vec![json!({ "name": "a" })])]).unwrap_err();
        assert!(format!("{error:#}").contains("n1 describes a policy"), "{error:#}");
    }
}
