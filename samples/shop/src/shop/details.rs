//! `/details/ID`: what is known about a book.

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
    common::run("details", &options.server, |question, instance| async move {
        let Some(id) = question.path.strip_prefix("/details/") else { return Reply::NotFound };
        Reply::Json(json!({
            "id": id, "title": "The Comedy of Errors", "author": "William Shakespeare", "year": 1595, "pages": 200,
            "language": "English", "served_by": instance,
        }))
    })
    .await
}
