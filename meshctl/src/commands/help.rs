//! What needs no node: completion scripts, and the version.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use crate::{
    Outcome,
    answer::Status,
    cli::Cli,
    client::{ask_all, get},
    discover::Search,
    output::{Printer, write},
    table::Table,
};

pub(crate) fn completion(shell: Shell) -> Result<Outcome> {
    // Into memory first: the generator panics when its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "meshctl", &mut script);
    write(&String::from_utf8(script)?)?;
    Ok(Outcome::Complete)
}

/// The nodes' versions too, where there are nodes: that none is found is an error only if some were named.
pub(crate) async fn version(search: &Search, printer: &Printer) -> Result<Outcome> {
    const OWN: &str = env!("CARGO_PKG_VERSION");
    let mut table = Table::new(&["PROGRAM", "NODE", "VERSION"]);
    table.add_row(vec!["meshctl".into(), "".into(), OWN.into()]);
    let mut values = vec![json!({ "program": "meshctl", "version": OWN })];
    let answers = match search.find().await {
        Ok(nodes) => ask_all(&nodes, |node| async move { get::<Status>(&node, "/status").await }).await,
        Err(error) => Err(error),
    };
    let outcome = match answers {
        Ok(answers) => {
            for (node, status) in &answers.given {
                table.add_row(vec!["mesh-node".into(), node.into(), (&status.version).into()]);
                values.push(json!({ "program": "mesh-node", "node": node, "version": status.version }));
            }
            answers.warn_of_missing(printer)
        }
        Err(error) if search.is_explicit() => return Err(error),
        Err(_) => Outcome::Complete,
    };
    printer.list(&table, values)?;
    Ok(outcome)
}
