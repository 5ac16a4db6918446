//! Who has which address. Constant: everything lives in namespaces of its own, so labs never meet.
//!
//! | who | IPv4 | IPv6 |
//! |---|---|---|
//! | fabric (bridge, everyone's default gateway) | 10.64.0.1/16 | fd64::1/64 |
//! | controller | 10.64.0.2 | fd64::2 |
//! | node i (from 1) | 10.64.0.(10+i) | fd64::(10+i) |
//! | pods of node i | 10.(64+i).0.0/16 | fd64:0:0:i::/64 |
//! | "the internet": an address in the fabric | 192.0.2.10 | 2001:db8::10 |
//!
//! Service addresses are whatever the folder says; 10.96.0.0/12 and fd96::/16 are free for them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// A host outside the cluster, in the fabric's namespace.
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The same host's IPv6 address.
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);

/// More nodes would run into the service range 10.96.0.0/12.
pub(crate) const MAX_NODES: usize = 31;

const FABRIC: u8 = 64;
const FABRIC_V6: u16 = 0xfd64;

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Family {
    /// IP version 4.
    V4,
    /// IP version 6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// The bridge's own address.
pub(crate) fn gateway(family: Family) -> IpAddr {
    fabric(family, 1)
}

pub(crate) fn controller(family: Family) -> IpAddr {
    fabric(family, 2)
}

/// The address of node `index` (from 1) on the fabric.
pub(crate) fn node(family: Family, index: usize) -> IpAddr {
    fabric(family, 10 + u8::try_from(index).expect("at most MAX_NODES nodes"))
}

/// The range of the pods of node `index`, as text for `ip route`.
pub(crate) fn pod_range(family: Family, index: usize) -> String {
    match family {
        Family::V4 => format!("10.{}.0.0/16", usize::from(FABRIC) + index),
        Family::V6 => format!("fd64:0:0:{index:x}::/64"),
    }
}

/// The address of the `ordinal`th pod (from 0) on node `index`; ordinals repeat after 60,000.
pub(crate) fn pod(family: Family, index: usize, ordinal: u32) -> IpAddr {
    // 250 of each /24, so that no address ends in .0 or .255, which some programs take for something else.
    let slot = ordinal % 60_000;
    let (third, fourth) = ((slot / 250) as u8, (slot % 250 + 2) as u8);
    match family {
        Family::V4 => Ipv4Addr::new(10, FABRIC + index as u8, third, fourth).into(),
        Family::V6 => Ipv6Addr::new(FABRIC_V6, 0, 0, index as u16, 0, 0, 0, u16::from(third) << 8 | u16::from(fourth)).into(),
    }
}

fn fabric(family: Family, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, FABRIC, 0, host).into(),
        Family::V6 => Ipv6Addr::new(FABRIC_V6, 0, 0, 0, 0, 0, 0, host.into()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_table() {
        assert_eq!(gateway(Family::V4).to_string(), "10.64.0.1");
        assert_eq!(node(Family::V6, 2).to_string(), "fd64::c");
        assert_eq!(pod(Family::V4, 1, 0).to_string(), "10.65.0.2");
        assert_eq!(pod(Family::V4, 31, 250).to_string(), "10.95.1.2");
        assert_eq!(pod(Family::V6, 2, 251).to_string(), "fd64:0:0:2::103");
        assert_eq!(pod_range(Family::V6, 10), "fd64:0:0:a::/64");
    }
}
