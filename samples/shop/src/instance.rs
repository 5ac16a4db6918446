//! Who we are: what every answer carries, so that a test can tell which pod it came from.

use std::env;

use serde::Serialize;

/// One running copy of a service.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Instance {
    /// The role, `reviews` for instance.
    pub(crate) service: &'static str,
    /// As given by `--version`.
    pub(crate) version: String,
    /// From the environment (`POD_NAME` and so on); empty outside a cluster.
    pub(crate) pod: String,
    pub(crate) namespace: String,
    pub(crate) node: String,
}

impl Instance {
    pub(crate) fn new(service: &'static str, version: &str) -> Self {
        let variable = |name| env::var(name).unwrap_or_default();
        Self {
            service,
            version: version.to_owned(),
            pod: variable("POD_NAME"),
            namespace: variable("POD_NAMESPACE"),
            node: variable("NODE_NAME"),
        }
    }
}
