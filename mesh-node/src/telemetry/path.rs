//! The way that requests of one connection take to one endpoint: what all of them have in common in metrics and logs.

use std::{fmt, sync::Arc};

use super::{Flow, series::Series};

/// Between two workloads, for one service, as one half sees it. Made once for a connection and an endpoint and shared by the
/// requests that go that way: finding its metrics costs a look-up, each request after that none.
pub struct Path {
    flow: Flow,
    cluster: Cluster,
    series: Arc<Series>,
}

impl Path {
    pub(super) fn new(flow: Flow, cluster: Cluster, series: Arc<Series>) -> Arc<Self> {
        Arc::new(Self { flow, cluster, series })
    }

    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(super) fn series(&self) -> &Series {
        &self.series
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Path").field("flow", &self.flow).field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// Where requests go, by the name that Istio gives an upstream cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cluster {
    /// Nowhere: answered here, or not routed yet.
    #[default]
    None,
    /// A port of a service.
    Outbound { port: u16, subset: Option<Arc<str>>, host: Arc<str> },
    /// The application's port.
    Inbound { port: u16 },
    /// The address that was dialled, outside the mesh.
    Passthrough,
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("-"),
            Self::Outbound { port, subset, host } => {
                write!(f, "outbound|{port}|{}|{host}", subset.as_deref().unwrap_or_default())
            }
            Self::Inbound { port } => write!(f, "inbound|{port}||"),
            Self::Passthrough => f.write_str("PassthroughCluster"),
        }
    }
}
