//! `meshctl test`: whether manifests do what their owner expects of them.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use mesh_policy::model::Snapshot;
use serde_json::{Value, json};

use crate::{
    Outcome,
    ask::Answer,
    expect::{Expectation, read},
    mesh::of_files,
    output::Printer,
    table::{Cell, Table, Tone},
};

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// The expectations
    file: PathBuf,

    /// Manifests, files and folders; may be repeated
    #[arg(long = "from-files", value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
}

/// What one expectation came to.
pub(crate) struct Verdict {
    what: String,
    answer: Option<Answer>,
    /// Empty: it is met.
    differences: Vec<String>,
}

pub(crate) fn test(arguments: &TestArgs, printer: &Printer) -> Result<Outcome> {
    let name = arguments.file.display();
    let text = fs::read_to_string(&arguments.file).with_context(|| format!("{name}"))?;
    let expectations = read(&text).with_context(|| format!("{name}"))?;
    let known = of_files(&arguments.paths, printer)?;
    let verdicts: Vec<_> = expectations.iter().map(|one| judge(one, &known.snapshot)).collect();
    printer.list(&table(&verdicts), verdicts.iter().map(value).collect())?;
    let failed = verdicts.iter().filter(|verdict| !verdict.differences.is_empty()).count();
    if failed > 0 {
        printer.warn(&format!("{failed} of {} expectations are not met", verdicts.len()));
    }
    Ok(if failed == 0 { Outcome::Complete } else { Outcome::Partial })
}

pub(crate) fn judge(expectation: &Expectation, snapshot: &Snapshot) -> Verdict {
    let what = expectation.what.clone();
    match expectation.answer(snapshot) {
        Ok(answer) => Verdict { what, differences: expectation.differences(&answer), answer: Some(answer) },
        Err(error) => Verdict { what, answer: None, differences: vec![format!("{error:#}")] },
    }
}

pub(crate) fn table(verdicts: &[Verdict]) -> Table {
    let mut table = Table::new(&["RESULT", "WHAT", "OUTCOME", "REASON"]);
    for Verdict { what, answer, differences } in verdicts {
        let result = if differences.is_empty() { Cell::new("PASS").tone(Tone::Good) } else { Cell::new("FAIL").tone(Tone::Bad) };
        let outcome = answer.as_ref().map(|answer| answer.outcome.summary.clone()).unwrap_or_default();
        table.add_row(vec![result, what.into(), outcome.into(), differences.join("; ").into()]);
    }
    table
}

fn value(verdict: &Verdict) -> Value {
    let Verdict { what, answer, differences } = verdict;
    json!({ "what": what, "passed": differences.is_empty(), "differences": differences, "answer": answer })
}
