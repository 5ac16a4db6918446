//! Who has which address. Every cluster has the same: each lives in network namespaces of its own.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Nodes are told apart by one digit of their addresses.
pub(super) const MAX_NODES: u8 = 9;

/// The port of the API server, in the control plane's namespace.
pub(super) const API_PORT: u16 = 6443;

/// Something in both address families.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dual {
    pub(crate) v4: String,
    pub(crate) v6: String,
}

fn dual(v4: impl Into<String>, v6: impl Into<String>) -> Dual {
    Dual { v4: v4.into(), v6: v6.into() }
}

/// Which families the cluster has: both, where the kernel has IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Families {
    V4AndV6,
    V4,
}

impl Families {
    pub(super) fn of_this_machine() -> Self {
        if Path::new("/proc/sys/net/ipv6/conf/all").exists() { Self::V4AndV6 } else { Self::V4 }
    }

    /// Those of both that the cluster has, the first family first.
    pub(super) fn each(self, of: &Dual) -> Vec<String> {
        match self {
            Self::V4AndV6 => vec![of.v4.clone(), of.v6.clone()],
            Self::V4 => vec![of.v4.clone()],
        }
    }

    /// The same as Kubernetes' flags have it.
    pub(super) fn list(self, of: &Dual) -> String {
        self.each(of).join(",")
    }
}

/// The control plane's own address on the bridge.
pub(super) fn control() -> Dual {
    dual("172.29.0.1", "fd29::1")
}

/// The addresses of services. The sample shop's manifests choose theirs from the beginning of these.
pub(super) fn services() -> Dual {
    dual("10.96.0.0/16", "fd96::/112")
}

/// The API server's as a service: the first of each range.
pub(super) fn api_service() -> Dual {
    dual("10.96.0.1", "fd96::1")
}

/// The name server's as a service.
pub(super) fn dns_service() -> Dual {
    dual("10.96.255.10", "fd96::ff0a")
}

/// The addresses of all pods.
pub(super) fn pods() -> Dual {
    dual("10.244.0.0/16", "fd44::/56")
}

/// A node's own address, by its number from 1.
pub(super) fn node(number: u8) -> Dual {
    dual(format!("172.29.0.{}", 10 + number), format!("fd29::1{number}"))
}

/// The addresses of the pods of a node.
pub(super) fn pods_of(number: u8) -> Dual {
    dual(format!("10.244.{number}.0/24"), format!("fd44:0:0:{number}::/64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_lists_of_flags() {
        assert_eq!(Families::V4AndV6.list(&node(2)), "172.29.0.12,fd29::12");
        assert_eq!(Families::V4.list(&services()), "10.96.0.0/16");
    }
}
