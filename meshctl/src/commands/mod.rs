//! One function for each command: ask, print, say whether all went well.

mod analyze;
mod cluster;
mod enrol;
mod explain;
mod help;
mod list;
mod node;
mod routes;
mod status;
pub(crate) mod test;

pub(crate) use analyze::{AnalyzeArgs, analyze};
pub(crate) use cluster::{policies, services, workloads};
pub(crate) use enrol::{enrol, unenrol};
pub(crate) use explain::{ExplainArgs, explain};
pub(crate) use help::{completion, version};
pub(crate) use node::{certificates, config_dump, connections, drain, log, pods};
pub(crate) use routes::{RoutesArgs, routes};
pub(crate) use status::status;
pub(crate) use test::{TestArgs, test};
