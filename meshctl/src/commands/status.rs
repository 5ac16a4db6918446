//! `meshctl status`: one line a node.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Outcome,
    answer::Status,
    client::{ask_all, get},
    discover::Node,
    output::Printer,
    table::{Cell, Table, Tone, age},
};

const HEADERS: &[&str] =
    &["NODE", "READY", "CONTROLLER", "WORKLOADS", "SERVICES", "POLICIES", "PODS", "CONNECTIONS", "BUSY", "UPTIME", "VERSION"];

pub(crate) async fn status(nodes: &[Node], printer: &Printer) -> Result<Outcome> {
    let answers = ask_all(nodes, |node| async move {
        let raw: Value = get(&node, "/status").await?;
        let status =
            Status::deserialize(&raw).context("its status is not what this meshctl understands: do the versions differ?")?;
        Ok((raw, status))
    })
    .await?;
    let mut table = Table::new(HEADERS);
    let mut values = Vec::new();
    for (_, (raw, status)) in &answers.given {
        table.add_row(cells(status));
        values.push(raw.clone());
    }
    for (node, error) in &answers.missing {
        let mut row = vec![node.into(), Cell::new("no answer").tone(Tone::Bad)];
        row.resize(HEADERS.len(), Cell::new(""));
        table.add_row(row);
        values.push(json!({ "node": node, "error": format!("{error:#}") }));
    }
    printer.list(&table, values)?;
    for (_, (_, status)) in &answers.given {
        if !status.ready {
            printer.warn(&format!("{} is not ready: {}", status.node, status.reasons.join("; ")));
        }
    }
    Ok(answers.warn_of_missing(printer))
}

fn cells(status: &Status) -> Vec<Cell> {
    let Status {
        node,
        version,
        ready,
        reasons: _,
        controller_connected,
        workloads,
        services,
        policies,
        connections,
        pods,
        worker_busy_permille,
        uptime_seconds,
    } = status;
    let judged = |good: bool, yes: &str, no: &str, bad: Tone| {
        if good { Cell::new(yes).tone(Tone::Good) } else { Cell::new(no).tone(bad) }
    };
    let busiest = worker_busy_permille.iter().max().copied().unwrap_or_default();
    vec![
        node.into(),
        judged(*ready, "yes", "no", Tone::Bad),
        judged(*controller_connected, "connected", "away", Tone::Doubtful),
        workloads.into(),
        services.into(),
        policies.into(),
        pods.into(),
        connections.into(),
        format!("{}%", (busiest + 5) / 10).into(),
        age(Duration::from_secs(*uptime_seconds)).into(),
        version.into(),
    ]
}
