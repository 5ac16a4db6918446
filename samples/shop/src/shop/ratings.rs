//! `/ratings/ID`: how many stars readers gave.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::common::{self, Reply, ServerOptions};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    server: ServerOptions,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    common::run("ratings", &options.server, |question, instance| async move {
        let Some(id) = question.path.strip_prefix("/ratings/") else { return Reply::NotFound };
        Reply::Json(json!({ "id": id, "ratings": { "Reviewer1": 5, "Reviewer2": 4 }, "served_by": instance }))
    })
    .await
}
