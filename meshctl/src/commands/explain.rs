//! `meshctl explain`: what comes of a request, and why.

use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use mesh_policy::model::Workload;

use crate::{
    Outcome,
    ask::Call,
    discover::Search,
    mesh::{FromFiles, Known},
    output::Printer,
};

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Who asks: NAMESPACE/NAME of a pod or service, a host name, or an address
    from: String,

    /// Who is asked: NAMESPACE/NAME of a service or pod, a host name as the client writes it, or an address
    to: String,

    /// The request's method
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    method: String,

    /// The request's path, with its query
    #[arg(long, value_name = "PATH", default_value = "/")]
    path: String,

    /// A header of the request; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,

    /// The port that is dialled [default: the first HTTP port of what is asked, else its first]
    #[arg(long)]
    port: Option<u16>,

    #[command(flatten)]
    files: FromFiles,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("NAME: VALUE, such as 'end-user: jason'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

pub(crate) async fn explain(search: &Search, arguments: ExplainArgs, printer: &Printer) -> Result<Outcome> {
    let ExplainArgs { from, to, method, path, headers, port, files } = arguments;
    let known = files.models(search, printer).await?;
    let call = Call { from, to, port, method, path, headers };
    let (known, source) = at_its_node(&known, &call)?;
    let answer = call.put_by(&known.snapshot, &source)?;
    printer.done(answer.text().trim_end(), &serde_json::to_value(&answer)?)?;
    Ok(Outcome::Complete)
}

/// The model of the node where the client runs, else the first that knows it.
fn at_its_node<'a>(known: &'a [Known], call: &Call) -> Result<(&'a Known, Arc<Workload>)> {
    let mut found = None;
    let mut unknown = None;
    for one in known {
        match call.source(&one.snapshot) {
            Ok(source) if one.node.is_empty() || *source.node == *one.node => return Ok((one, source)),
            Ok(source) => found = found.or(Some((one, source))),
            Err(error) => unknown = unknown.or(Some(error)),
        }
    }
    found.ok_or_else(|| unknown.unwrap_or_else(|| anyhow::anyhow!("no node answered")))
}
