//! What all commands that print a list have in common.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    Outcome,
    answer::Listed,
    client::{Answers, ask_all, get},
    discover::Node,
    filter::Filter,
    merge::{Row, difference, merge, separate},
    output::Printer,
    table::{Cell, Table},
};

/// How a list looks as a table.
pub(super) struct Columns<T: 'static> {
    pub(super) headers: &'static [&'static str],
    pub(super) cells: fn(&Row<T>) -> Vec<Cell>,
}

/// Lists what every node should hold alike, and says where they do not.
pub(super) async fn cluster_wide<T: Listed>(
    nodes: &[Node],
    key: &'static str,
    filter: &Filter,
    columns: Columns<T>,
    printer: &Printer,
) -> Result<Outcome> {
    let answers = from_dump(nodes, key).await?;
    let all = answers.given.len();
    let rows = filter.apply(merge::<T>(&answers.given)?)?;
    let difference = difference(&rows, all);
    let mut headers = columns.headers.to_vec();
    headers.extend(difference.as_ref().map(|_| "ON NODES"));
    let mut table = Table::new(&headers);
    for row in &rows {
        let mut cells = (columns.cells)(row);
        cells.extend(difference.as_ref().map(|_| Cell::new(row.nodes.join(","))));
        table.add_row(cells);
    }
    say_if_empty(&rows, filter, printer);
    let value = |row: Row<T>| if row.nodes.len() == all { row.raw } else { with(row.raw, "onNodes", json!(row.nodes)) };
    printer.list(&table, rows.into_iter().map(value).collect())?;
    if let Some(difference) = difference {
        printer
            .warn(&format!("{difference}. Changes take a moment; if it lasts, `meshctl status` shows who lost its controller"));
    }
    Ok(answers.warn_of_missing(printer))
}

/// Lists what each node has for itself; returns the rows for remarks below the list.
pub(super) fn per_node<T: Listed>(
    answers: &Answers<Vec<Value>>,
    filter: &Filter,
    columns: &Columns<T>,
    printer: &Printer,
) -> Result<Vec<Row<T>>> {
    let rows = filter.apply(separate::<T>(&answers.given)?)?;
    let mut table = Table::new(columns.headers);
    for row in &rows {
        table.add_row((columns.cells)(row));
    }
    say_if_empty(&rows, filter, printer);
    printer.list(&table, rows.iter().map(|row| with(row.raw.clone(), "node", json!(row.nodes[0]))).collect())?;
    Ok(rows)
}

/// One of the lists in the nodes' dumps.
pub(super) async fn from_dump(nodes: &[Node], key: &'static str) -> Result<Answers<Vec<Value>>> {
    ask_all(nodes, move |node| async move {
        let mut dump: Value = get(&node, "/config_dump").await?;
        let list = dump.get_mut(key).map(Value::take);
        match list {
            Some(Value::Array(list)) => Ok(list),
            _ => None.with_context(|| format!("its dump has no {key}: do the versions of meshctl and node differ?")),
        }
    })
    .await
}

pub(super) fn with(mut value: Value, key: &str, addition: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.insert(key.to_owned(), addition);
    }
    value
}

fn say_if_empty<T: Listed>(rows: &[Row<T>], filter: &Filter, printer: &Printer) {
    if rows.is_empty() {
        printer.note(&filter.emptiness::<T>());
    }
}
