//! The model that a question is put to: that of a running node, or what manifests amount to.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use mesh_policy::model::Snapshot;
use mesh_proto::convert::unarchive;

use crate::{
    client::{ask_all, get_bytes},
    discover::Search,
    files::Files,
    output::Printer,
};

#[derive(Debug, Default, Args)]
pub(crate) struct FromFiles {
    /// Ask these manifests, files and folders, in place of a running mesh; may be repeated
    #[arg(long = "from-files", value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
}

/// What one node knows; files stand for a mesh whose nodes all know the same.
pub(crate) struct Known {
    /// The node's name; empty for files.
    pub(crate) node: String,
    pub(crate) snapshot: Snapshot,
}

impl FromFiles {
    /// At least one. What was assumed, refused or did not answer is said on standard error.
    pub(crate) async fn models(&self, search: &Search, printer: &Printer) -> Result<Vec<Known>> {
        if self.paths.is_empty() { of_nodes(search, printer).await } else { Ok(vec![of_files(&self.paths, printer)?]) }
    }
}

/// The mesh that manifests describe.
pub(crate) fn of_files(paths: &[PathBuf], printer: &Printer) -> Result<Known> {
    let files = Files::load(paths)?;
    for assumption in &files.assumptions {
        printer.note(assumption);
    }
    let refused: Vec<_> = files.refused().into_iter().map(|object| if object.is_empty() { "a file" } else { object }).collect();
    if !refused.is_empty() {
        printer.warn(&format!("refused, and left out: {}; `meshctl analyze` says why", refused.join(", ")));
    }
    Ok(Known { node: String::new(), snapshot: files.snapshot })
}

async fn of_nodes(search: &Search, printer: &Printer) -> Result<Vec<Known>> {
    let nodes = search.find().await.context("nothing to ask; --from-files asks manifests")?;
    let answers = ask_all(&nodes, |node| async move {
        let bytes = get_bytes(&node, "/model").await?;
        unarchive(&bytes).context("its model is not what this meshctl understands: do the versions differ?")
    })
    .await?;
    answers.warn_of_missing(printer);
    let known = |(node, model): (String, mesh_policy::model::Model)| Known { node, snapshot: model.snapshot() };
    Ok(answers.given.into_iter().map(known).collect())
}
