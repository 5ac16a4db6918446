//! Map keys. Every byte of a key counts, so spare bytes are written as zero by the constructors.

use super::Address;
use crate::ports;

/// Key of `TUPLES`: an app's captured connection as its listener will see it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct TupleKey {
    /// `SO_NETNS_COOKIE` of the pod: two pods may use one address after another.
    pub netns_cookie: u64,
    /// The app's own address.
    pub source: Address,
    /// The app's own port.
    pub source_port_host: u16,
    /// Which of the pod's outbound listeners.
    pub listener_port_host: u16,
    spare: u32,
}

impl TupleKey {
    /// Ports in host order.
    #[inline(always)]
    pub const fn new(netns_cookie: u64, source: Address, source_port_host: u16, listener_port_host: u16) -> Self {
        Self { netns_cookie, source, source_port_host, listener_port_host, spare: 0 }
    }
}

/// Key of `TOKENS`: a connection that the proxy opened from one pod's namespace straight to another pod.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct TokenKey {
    /// The dialling side.
    pub source: Address,
    /// The pod that is dialled.
    pub destination: Address,
    /// The dialling side's port.
    pub source_port_host: u16,
    /// The app's port.
    pub destination_port_host: u16,
}

/// Key of `LISTENERS`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct ListenerKey {
    /// One of the pod's own addresses.
    pub address: Address,
    kind: u32,
}

impl ListenerKey {
    /// The pod's listener of that kind.
    #[inline(always)]
    pub const fn new(address: Address, kind: ListenerKind) -> Self {
        Self { address, kind: kind as u32 }
    }
}

/// Which of a pod's two inbound listeners.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum ListenerKind {
    /// Connections to port 15008.
    Hbone = 1,
    /// Everything else.
    Plaintext = 2,
}

impl ListenerKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Hbone, Self::Plaintext];

    /// The listener that serves the port which a peer dialled.
    #[inline(always)]
    pub const fn for_port(port_host: u16) -> Self {
        if port_host == ports::HBONE { Self::Hbone } else { Self::Plaintext }
    }
}
