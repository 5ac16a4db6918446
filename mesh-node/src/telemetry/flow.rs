//! One connection, described for people and dashboards.

use std::{net::SocketAddr, sync::Arc};

use mesh_policy::model::{Identity, Service, Workload};
use serde::Serialize;

/// Which half of the path reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The client's half (`reporter="source"`).
    Outbound,
    /// The server's half (`reporter="destination"`).
    Inbound,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }

    pub(super) fn reporter(self) -> &'static str {
        match self {
            Self::Outbound => "source",
            Self::Inbound => "destination",
        }
    }
}

/// What carries the bytes between the two halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    Tcp,
    Hbone,
}

/// The `connection_security_policy` label. Traffic that stays on the node has verified identities but no TLS, and
/// says `none`: a dashboard must not show a lock that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    None,
    MutualTls,
}

impl Security {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::MutualTls => "mutual_tls",
        }
    }
}

/// One end as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Party {
    pub workload: Option<Arc<Workload>>,
    /// Verified by TLS, or by where the connection entered the kernel. Never taken from an address.
    pub identity: Option<Identity>,
}

#[derive(Clone, Debug)]
pub struct Flow {
    pub direction: Direction,
    pub transport: Transport,
    pub security: Security,
    pub source_address: SocketAddr,
    /// What the client dialled.
    pub original_destination: SocketAddr,
    /// The endpoint's address and port, once it is chosen.
    pub destination_address: Option<SocketAddr>,
    pub source: Party,
    pub destination: Party,
    pub service: Option<Arc<Service>>,
}

impl Flow {
    /// The end that reports.
    pub(super) fn near(&self) -> &Party {
        match self.direction {
            Direction::Outbound => &self.source,
            Direction::Inbound => &self.destination,
        }
    }
}
