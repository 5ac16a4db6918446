//! One function for each command: ask, print, say whether all went well.

mod analyze;
mod bug_report;
mod check;
mod cluster;
mod enrol;
mod explain;
mod help;
mod install;
mod list;
mod node;
mod routes;
mod status;
pub(crate) mod test;

pub(crate) use analyze::{AnalyzeArgs, analyze};
pub(crate) use bug_report::{BugReportArgs, bug_report};
pub(crate) use check::{CheckArgs, check};
pub(crate) use cluster::{policies, services, workloads};
pub(crate) use enrol::{enrol, unenrol};
pub(crate) use explain::{ExplainArgs, explain};
pub(crate) use help::{completion, version};
pub(crate) use install::{InstallArgs, UninstallArgs, install, uninstall, upgrade};
pub(crate) use node::{certificates, config_dump, connections, drain, log, pods};
pub(crate) use routes::{RoutesArgs, routes};
pub(crate) use status::status;
pub(crate) use test::{TestArgs, test};
