//! What each program does, as pure functions: the programs gather the facts and carry the answer out.
//!
//! One body serves IPv4, IPv6 and v4-mapped addresses. The rules fail closed: what is enrolled and can not
//! be captured is refused, never passed.

use super::{Address, Family, ListenerKind, Original, Pod, SocketKind};

/// A `connect()` of an enrolled pod, as the app asked for it.
#[derive(Clone, Copy, Debug)]
pub struct Dial {
    /// Where to.
    pub destination: Address,
    /// Where to.
    pub port_host: u16,
    /// `SO_BINDTODEVICE`, 0 when unbound.
    pub bound_ifindex: u32,
    /// What the socket's storage says.
    pub socket: SocketKind,
}

/// What becomes of a [`Dial`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Connect {
    /// Untouched.
    Pass,
    /// The app sees `ENETUNREACH`.
    Unreachable,
    /// The original is remembered and the destination becomes this listener of the pod.
    Capture {
        /// The pod's own address, of the family that was dialled.
        address: Address,
        /// One of its outbound listeners.
        port_host: u16,
    },
}

/// Decides an enrolled pod's `connect()` over TCP.
#[inline(always)]
pub fn connect(pod: &Pod, dial: &Dial) -> Connect {
    if matches!(dial.socket, SocketKind::Proxy | SocketKind::ProxyToken) {
        return Connect::Pass;
    }
    let to = &dial.destination;
    if to.is_loopback() || to.is_unspecified() || to.is_multicast() || to.is_broadcast() {
        return Connect::Pass;
    }
    let family = to.family();
    // IPv4 link-local is captured: cloud metadata services answer there.
    if matches!(family, Family::V6) && to.is_link_local() {
        return Connect::Pass;
    }
    let own = pod.address(family);
    if *to == own {
        return Connect::Pass;
    }
    // Another network's interface (Multus): its packets could not reach the listener.
    if dial.bound_ifindex != 0 && dial.bound_ifindex != pod.ifindex {
        return Connect::Pass;
    }
    if own.is_none() || pod.outbound_count == 0 {
        return Connect::Unreachable;
    }
    Connect::Capture { address: own, port_host: outbound_port(pod, to, dial.port_host) }
}

/// Whether a `connect()` of the node's own namespace is a kubelet's probe, which the pod's capture lets through to the
/// app: dialled by the kubelet and by nobody else on the node, to a pod of this node. The questions ask the maps.
#[inline(always)]
pub fn probe(dial: &Dial, by_kubelet: impl FnOnce() -> bool, to_pod: impl FnOnce(&Address) -> bool) -> bool {
    matches!(dial.socket, SocketKind::None) && by_kubelet() && to_pod(&dial.destination)
}

/// The same destination always takes the same listener, so that a pod's 4-tuples spread by destination.
#[inline(always)]
fn outbound_port(pod: &Pod, to: &Address, port_host: u16) -> u16 {
    let [a, b, c, d] = to.words_be();
    let mixed = mix((a ^ b ^ c ^ d).wrapping_add(u32::from(port_host).wrapping_mul(0x9e37_79b1)));
    // Masked although below the count: this bound is what the verifier understands.
    let at = (mixed % u32::from(pod.outbound_count)) as usize & (super::MAX_OUTBOUND_PORTS - 1);
    pod.outbound_ports_host[at]
}

/// The finalizer of MurmurHash3: every bit of the input moves every bit of the result.
#[inline(always)]
const fn mix(mut bits: u32) -> u32 {
    bits = (bits ^ (bits >> 16)).wrapping_mul(0x85eb_ca6b);
    bits = (bits ^ (bits >> 13)).wrapping_mul(0xc2b2_ae35);
    bits ^ (bits >> 16)
}

/// What the app is told its peer is: the original, if the socket was captured.
#[inline(always)]
pub fn peer(socket: SocketKind, original: &Original) -> Option<&Original> {
    matches!(socket, SocketKind::Captured).then_some(original)
}

/// What a socket leaves for the other side as it sends its SYN, and takes back when it closes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trace {
    /// Not our business.
    Nothing,
    /// Its original destination in `TUPLES`.
    Tuple,
    /// Its 4-tuple in `TOKENS`.
    Token,
}

/// By what the dialling socket is.
#[inline(always)]
pub const fn trace(socket: SocketKind) -> Trace {
    match socket {
        SocketKind::Captured => Trace::Tuple,
        SocketKind::ProxyToken => Trace::Token,
        SocketKind::None | SocketKind::Accepted | SocketKind::Proxy => Trace::Nothing,
    }
}

/// What an enrolled pod's newly accepted socket takes.
#[inline(always)]
pub fn accepted(pod: &Pod, local_port_host: u16) -> Trace {
    let mut at = 0;
    while at < super::MAX_OUTBOUND_PORTS {
        if at < pod.outbound_count as usize && pod.outbound_ports_host[at] == local_port_host {
            return Trace::Tuple;
        }
        at += 1;
    }
    Trace::Token
}

/// A TCP segment without a socket of its own, at the door of a pod's namespace.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Where from.
    pub remote: Address,
    /// Where to.
    pub local: Address,
    /// Where to.
    pub local_port_host: u16,
    /// 1 is `lo`, in every namespace.
    pub ingress_ifindex: u32,
}

/// What becomes of an [`Arrival`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lookup {
    /// The kernel looks for the app's socket as ever.
    Pass,
    /// No socket: the peer gets no answer.
    Drop,
    /// To the proxy's listener; refused if there is none.
    Steer(ListenerKind),
}

/// The index of `lo` in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;

/// Decides an arrival. `token` and `owner` ask the maps, and only where the answer matters.
#[inline(always)]
pub fn lookup(arrival: &Arrival, token: impl FnOnce() -> bool, owner: impl Fn(&Address) -> Option<u64>) -> Lookup {
    // Inside the pod: the proxy's delivery is bound to `lo`; an app that calls its own address shows
    // the address's interface instead.
    if arrival.ingress_ifindex == LOOPBACK_IFINDEX || arrival.remote == arrival.local || arrival.remote.is_loopback() {
        return Lookup::Pass;
    }
    if token() {
        return Lookup::Pass;
    }
    // Neighbours could walk around the mesh by a link-local address, which nobody enrols.
    if arrival.local.is_link_local() {
        return Lookup::Drop;
    }
    let Some(pod) = owner(&arrival.local) else { return Lookup::Pass };
    // From one of the pod's own addresses to another.
    if owner(&arrival.remote) == Some(pod) {
        return Lookup::Pass;
    }
    Lookup::Steer(ListenerKind::for_port(arrival.local_port_host))
}

#[cfg(test)]
mod tests;
