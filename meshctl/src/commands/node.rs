//! What each node has for itself, and what it is told to do.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::list::{Columns, from_dump, per_node};
use crate::{
    Outcome,
    answer::{CertificateEntry, Connection, Pod},
    client::{ask_all, get, get_text, post},
    discover::{Node, Search},
    filter::Filter,
    log_filter::LogChange,
    merge::Row,
    output::Printer,
    table::{Cell, Table, Tone, age, bytes},
};

pub(crate) async fn connections(nodes: &[Node], filter: Filter, printer: &Printer) -> Result<Outcome> {
    let headers = &["NODE", "SOURCE", "DESTINATION", "DIRECTION", "PROTOCOL", "SECURITY", "BYTES", "AGE"];
    let answers = ask_all(nodes, |node| async move { get::<Vec<Value>>(&node, "/connections").await }).await?;
    per_node(&answers, &filter, &Columns { headers, cells: connection }, printer)?;
    Ok(answers.warn_of_missing(printer))
}

/// Bytes are those of the client, then those of the server.
fn connection(row: &Row<Connection>) -> Vec<Cell> {
    let Connection { direction, protocol, security, source, destination, bytes_sent, bytes_received, age_ms, .. } = &row.view;
    let to: SocketAddr = row.view.destination_address.unwrap_or(row.view.original_destination);
    let source = source.clone().unwrap_or_else(|| row.view.source_address.to_string());
    let destination = destination.as_ref().map_or_else(|| to.to_string(), |name| format!("{name}:{}", to.port()));
    let tone = if security == "mutual_tls" { Tone::Good } else { Tone::Plain };
    vec![
        (&row.nodes[0]).into(),
        source.into(),
        destination.into(),
        direction.into(),
        protocol.into(),
        Cell::new(security).tone(tone),
        format!("{} / {}", bytes(*bytes_sent), bytes(*bytes_received)).into(),
        age(Duration::from_millis(*age_ms)).into(),
    ]
}

pub(crate) async fn certificates(nodes: &[Node], filter: Filter, printer: &Printer) -> Result<Outcome> {
    let headers = &["CERTIFICATE NAME", "STATUS", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE", "NODE"];
    let answers = from_dump(nodes, "certificates").await?;
    let rows = per_node(&answers, &filter, &Columns { headers, cells: certificate }, printer)?;
    for row in rows {
        let CertificateEntry { identity, last_error, .. } = row.view;
        if let Some(error) = last_error {
            printer.warn(&format!("{}: {identity}: the last request for a certificate failed: {error}", row.nodes[0]));
        }
    }
    Ok(answers.warn_of_missing(printer))
}

fn certificate(row: &Row<CertificateEntry>) -> Vec<Cell> {
    let CertificateEntry { identity, state, last_error: _, cert_chain } = &row.view;
    let tone = match state.as_str() {
        "Ready" => Tone::Good,
        "Pending" => Tone::Doubtful,
        _ => Tone::Bad,
    };
    let leaf = cert_chain.iter().flatten().next();
    let fact = |text: Option<&String>| Cell::new(text.map_or("", String::as_str));
    vec![
        identity.into(),
        Cell::new(state).tone(tone),
        fact(leaf.map(|leaf| &leaf.serial_number)),
        fact(leaf.map(|leaf| &leaf.expiration_time)),
        fact(leaf.map(|leaf| &leaf.valid_from)),
        (&row.nodes[0]).into(),
    ]
}

pub(crate) async fn pods(nodes: &[Node], filter: Filter, printer: &Printer) -> Result<Outcome> {
    let headers = &["NAMESPACE", "NAME", "ADDRESS", "SERVICE ACCOUNT", "NODE", "STATE", "CONNECTIONS", "CPU"];
    let answers = from_dump(nodes, "pods").await?;
    per_node(&answers, &filter, &Columns { headers, cells: pod }, printer)?;
    Ok(answers.warn_of_missing(printer))
}

fn pod(row: &Row<Pod>) -> Vec<Cell> {
    let Pod { uid: _, namespace, name, service_account, addresses, state, connections, cpu_seconds } = &row.view;
    let tone = if state == "Captured" { Tone::Good } else { Tone::Doubtful };
    vec![
        namespace.into(),
        name.into(),
        addresses.join(",").into(),
        service_account.into(),
        (&row.nodes[0]).into(),
        Cell::new(state).tone(tone),
        connections.into(),
        format!("{cpu_seconds:.3}s").into(),
    ]
}

pub(crate) async fn config_dump(nodes: &[Node], printer: &Printer) -> Result<Outcome> {
    let answers = ask_all(nodes, |node| async move { get::<Value>(&node, "/config_dump").await }).await?;
    let dumps: Vec<_> = answers.given.iter().map(|(_, dump)| dump.clone()).collect();
    printer.documents(&dumps)?;
    Ok(answers.warn_of_missing(printer))
}

/// Without a change: what is logged now.
pub(crate) async fn log(nodes: &[Node], change: Option<LogChange>, printer: &Printer) -> Result<Outcome> {
    let answers = ask_all(nodes, |node| {
        let change = change.clone();
        async move {
            match change {
                Some(change) => post(&node, &format!("/logging?{}", change.query())).await,
                None => get_text(&node, "/logging").await,
            }
        }
    })
    .await?;
    let mut table = Table::new(&["NODE", "LOG"]);
    let mut values = Vec::new();
    for (node, filter) in &answers.given {
        table.add_row(vec![node.into(), filter.into()]);
        values.push(json!({ "node": node, "log": filter }));
    }
    printer.list(&table, values)?;
    Ok(answers.warn_of_missing(printer))
}

/// Not for all nodes by accident: a node that drains serves nobody afterwards.
pub(crate) async fn drain(search: &Search, all: bool, printer: &Printer) -> Result<Outcome> {
    let nodes = search.find().await?;
    if nodes.len() > 1 && !all && !search.names_nodes() {
        let names: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
        bail!("a node that drains exits: say which with --node NAME, or --all. There are {}", names.join(", "));
    }
    let answers = ask_all(&nodes, |node| async move { post(&node, "/drain").await }).await?;
    let mut table = Table::new(&["NODE", "STATE"]);
    let mut values = Vec::new();
    for (node, state) in &answers.given {
        table.add_row(vec![node.into(), state.into()]);
        values.push(json!({ "node": node, "state": state }));
    }
    printer.list(&table, values)?;
    Ok(answers.warn_of_missing(printer))
}
