//! Map values. Zeroed memory is a valid value of each: "none".

use core::net::{IpAddr, SocketAddr};

use super::{Address, Family};

/// Outbound listeners of one pod: more of them widen the 4-tuple space that all its captured connections share.
pub const MAX_OUTBOUND_PORTS: usize = 8;

/// Enrolled pods of one node, and twice as many addresses.
pub const MAX_PODS: u32 = 1024;

/// Handshakes of one pod's captured connections that may be under way at once.
pub const DEFAULT_MAX_TUPLES: u32 = 2048;

/// Handshakes that the proxy may have under way at once on behalf of one pod to pods of the same node.
pub const DEFAULT_MAX_TOKENS: u32 = 2048;

/// Value of `PODS`: an enrolled pod, by the cookie of its network namespace.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Pod {
    /// v4-mapped, or [`Address::NONE`].
    pub ip4: Address,
    /// Or [`Address::NONE`].
    pub ip6: Address,
    /// The interface that carries the pod's addresses, as numbered inside the pod.
    pub ifindex: u32,
    /// The first `outbound_count` are ports of listeners on each of the two addresses.
    pub outbound_ports_host: [u16; MAX_OUTBOUND_PORTS],
    /// 1 to 8. Zero would capture nothing, so it denies everything.
    pub outbound_count: u16,
    /// [`Pod::NODE`], or zero.
    pub flags: u16,
    /// Bound of this pod's entries in `TUPLES`.
    pub max_tuples: u32,
    /// Bound of this pod's entries in `TOKENS`.
    pub max_tokens: u32,
    /// Zero.
    pub spare: [u32; 4],
}

impl Pod {
    /// Not a pod but the node's own namespace: nothing is captured there, and the kubelet's probes leave tokens.
    pub const NODE: u16 = 1;

    /// The entry of a node's own namespace.
    pub fn node() -> Self {
        Self { flags: Self::NODE, max_tokens: DEFAULT_MAX_TOKENS, ..Self::default() }
    }

    /// Whether it is a node's own namespace.
    #[inline(always)]
    pub const fn is_node(&self) -> bool {
        self.flags & Self::NODE != 0
    }

    /// The pod's own address of a family, or [`Address::NONE`].
    #[inline(always)]
    pub const fn address(&self, family: Family) -> Address {
        match family {
            Family::V4 => self.ip4,
            Family::V6 => self.ip6,
        }
    }
}

/// Value of `USAGE`: entries that a pod holds. Added to and taken from atomically, for which the
/// kernel's target has 64 bits only.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Usage {
    /// In `TUPLES`.
    pub tuples: u64,
    /// In `TOKENS`.
    pub tokens: u64,
}

/// What an app dialled. Value of `TUPLES`, part of [`SocketMark`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Original {
    /// v4-mapped for IPv4.
    pub address: Address,
    /// Never zero in a real entry.
    pub port_host: u16,
    /// 4 for an `AF_INET` socket, 6 for an `AF_INET6` one (which may dial a v4-mapped address), 0 in "none".
    pub dialled_as: u8,
    /// Zero.
    pub spare: u8,
}

impl Original {
    /// A v4-mapped address becomes IPv4.
    pub fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::from(self.address), self.port_host)
    }
}

/// Value of `SOCKETS`: what we know of one socket, kept in the socket itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct SocketMark {
    /// Of [`SocketKind::Captured`] and [`SocketKind::Accepted`].
    pub original: Original,
    kind: u8,
    /// Zero.
    pub spare: [u8; 11],
}

impl SocketMark {
    /// A socket of that kind.
    #[inline(always)]
    pub const fn new(kind: SocketKind, original: Original) -> Self {
        Self { original, kind: kind as u8, spare: [0; 11] }
    }

    /// A socket of the proxy's own; there is nothing to remember but its kind.
    pub const fn exempt(kind: SocketKind) -> Self {
        Self::new(kind, Original { address: Address::NONE, port_host: 0, dialled_as: 0, spare: 0 })
    }

    /// What the socket is. A value of a later release reads as [`SocketKind::None`].
    #[inline(always)]
    pub const fn kind(&self) -> SocketKind {
        match self.kind {
            1 => SocketKind::Captured,
            2 => SocketKind::Accepted,
            3 => SocketKind::Proxy,
            4 => SocketKind::ProxyToken,
            _ => SocketKind::None,
        }
    }
}

/// What a socket is to us.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(u8)]
pub enum SocketKind {
    /// Nothing.
    #[default]
    None = 0,
    /// An app's socket whose destination `connect4/6` rewrote.
    Captured = 1,
    /// The other end of one: accepted by the proxy's outbound listener.
    Accepted = 2,
    /// The proxy's own, not to be captured. Written by user space before `connect()`.
    Proxy = 3,
    /// As [`SocketKind::Proxy`], and the destination pod's `sk_lookup` lets it through to the app.
    ProxyToken = 4,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{ListenerKey, TokenKey, TupleKey};

    /// The layout that pinned maps of [`crate::names::LAYOUT`] have. Sums of the fields: nothing is padding.
    #[test]
    fn sizes() {
        assert_eq!(size_of::<Pod>(), 16 + 16 + 4 + 16 + 2 + 2 + 4 + 4 + 16);
        assert_eq!(size_of::<Usage>(), 8 + 8);
        assert_eq!(size_of::<Original>(), 16 + 2 + 1 + 1);
        assert_eq!(size_of::<SocketMark>(), 20 + 1 + 11);
        assert_eq!(size_of::<TupleKey>(), 8 + 16 + 2 + 2 + 4);
        assert_eq!(size_of::<TokenKey>(), 16 + 16 + 2 + 2);
        assert_eq!(size_of::<ListenerKey>(), 16 + 4);
    }

    #[test]
    fn kinds_survive_the_map() {
        for kind in [SocketKind::None, SocketKind::Captured, SocketKind::Accepted, SocketKind::Proxy, SocketKind::ProxyToken] {
            assert_eq!(SocketMark::exempt(kind).kind(), kind);
        }
        assert_eq!(SocketMark { kind: 200, ..SocketMark::default() }.kind(), SocketKind::None);
    }
}
