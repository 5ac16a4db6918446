//! `meshctl check`: whether the mesh in a cluster works, and the remedy for what does not.

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    Outcome,
    check::{Finding, Verdict, components, kinds, nodes, pods, privileges},
    discover::Search,
    output::Printer,
    table::{Cell, Table, Tone},
};

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Only what is not well
    #[arg(long)]
    quiet: bool,
}

pub(crate) async fn check(arguments: &CheckArgs, search: &Search, printer: &Printer) -> Result<Outcome> {
    let cluster = search.cluster.connect().await?;
    let (mut findings, istio_cni) = components(&cluster).await.context("cannot look at the cluster")?;
    findings.push(privileges(&cluster).await?);
    findings.extend(kinds(&cluster).await?);
    match search.in_cluster().await {
        Ok(found) => findings.extend(nodes(&found).await?),
        // What is wrong with them is among the components.
        Err(error) => findings.push(Finding::bad("nodes", format!("{error:#}"), "see the node proxies above")),
    }
    findings.extend(pods(&cluster, istio_cni).await?);
    let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Good);
    findings.retain(|finding| !arguments.quiet || finding.verdict != Verdict::Good);

    let mut table = Table::new(&["RESULT", "WHAT", "HOW IT IS"]);
    for Finding { verdict, what, says, remedy } in &findings {
        let result = match verdict {
            Verdict::Good => Cell::new("ok").tone(Tone::Good),
            Verdict::Warning => Cell::new("look").tone(Tone::Doubtful),
            Verdict::Bad => Cell::new("BAD").tone(Tone::Bad),
        };
        let mut lines = says.lines();
        table.add_row(vec![result, what.into(), Cell::new(lines.next().unwrap_or_default())]);
        let remedy = (!remedy.is_empty()).then(|| format!("remedy: {remedy}"));
        for line in lines.map(|line| line.trim().to_owned()).chain(remedy) {
            table.add_row(vec![Cell::new(" "), Cell::new(" "), Cell::new(line)]);
        }
    }
    let values = findings.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    if !findings.is_empty() {
        printer.list(&table, values)?;
    }
    let bad = findings.iter().filter(|finding| finding.verdict == Verdict::Bad).count();
    if bad > 0 {
        printer.warn(&format!("{bad} findings are bad: their remedies are beside them"));
    }
    Ok(if worst == Verdict::Bad { Outcome::Partial } else { Outcome::Complete })
}
