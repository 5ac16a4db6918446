//! What is captured of a pod, as the agent says it and as the maps keep it.

use std::{net::IpAddr, os::fd::BorrowedFd};

use mesh_common::kernel::{Address, DEFAULT_MAX_TOKENS, DEFAULT_MAX_TUPLES, MAX_OUTBOUND_PORTS, Pod};

use super::EbpfError;

/// Everything that is needed to capture one pod.
#[derive(Clone, Copy, Debug)]
pub struct PodCapture<'a> {
    /// Names the pod's pin, by its hash; unique on the node.
    pub uid: &'a str,
    /// The pod's network namespace.
    pub netns: BorrowedFd<'a>,
    /// Its `SO_NETNS_COOKIE`.
    pub cookie: u64,
    /// Every address of the pod's own. The first of each family is where captured connections are redirected to.
    pub ips: &'a [IpAddr],
    /// The interface that carries them, as numbered inside the pod.
    pub ifindex: u32,
    /// 1 to 8 ports on which the node listens inside the pod, on the first address of each family.
    pub outbound_ports: &'a [u16],
    /// Listens inside the pod on the wildcard address, on any port. Must take every family that `ips` has: one socket
    /// on `[::]` without `IPV6_V6ONLY` takes both.
    pub plaintext: BorrowedFd<'a>,
    /// The same for what arrives at port 15008.
    pub hbone: BorrowedFd<'a>,
    /// Of the pod's handshakes under way.
    pub bounds: Bounds,
}

/// How many entries one pod may hold in the maps that all pods share. Beyond it the pod's own new connections are
/// accepted without an original destination, and no other pod notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Captured connections between SYN and accept.
    pub tuples: u32,
    /// The proxy's connections on behalf of this pod to other pods of the node, between SYN and accept.
    pub tokens: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { tuples: DEFAULT_MAX_TUPLES, tokens: DEFAULT_MAX_TOKENS }
    }
}

/// A pod that the pins say is captured, by this process or one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedPod {
    /// [`uid_hash`] of the uid that it was enrolled with.
    pub uid_hash: u64,
    /// `SO_NETNS_COOKIE` of its namespace.
    pub cookie: u64,
    /// Its addresses, in no order.
    pub ips: Vec<IpAddr>,
    /// The inode of its namespace; `None` when the namespace is gone and the pod should be released.
    pub netns_inode: Option<u32>,
}

/// Entries of the maps, all pods together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapEntries {
    pub pods: usize,
    pub addresses: usize,
    pub tuples: u64,
    pub tokens: u64,
}

impl PodCapture<'_> {
    /// The pod as the kernel programs read it.
    pub(super) fn entry(&self) -> Result<Pod, EbpfError> {
        let unfit = |why| EbpfError::Unfit { uid: self.uid.to_owned(), why };
        let first =
            |v4: bool| self.ips.iter().find(|ip| ip.to_canonical().is_ipv4() == v4).map_or(Address::NONE, |ip| (*ip).into());
        let mut outbound_ports_host = [0; MAX_OUTBOUND_PORTS];
        if self.ips.is_empty() {
            return Err(unfit("it has no address"));
        }
        if self.ips.iter().any(|ip| ip.is_unspecified() || ip.is_loopback() || ip.is_multicast()) {
            return Err(unfit("one of its addresses is not its own: unspecified, loopback or multicast"));
        }
        if self.outbound_ports.is_empty() || self.outbound_ports.contains(&0) {
            return Err(unfit("no outbound port is named"));
        }
        outbound_ports_host
            .get_mut(..self.outbound_ports.len())
            .ok_or_else(|| unfit("more than 8 outbound ports are named"))?
            .copy_from_slice(self.outbound_ports);
        Ok(Pod {
            ip4: first(true),
            ip6: first(false),
            ifindex: self.ifindex,
            outbound_ports_host,
            outbound_count: self.outbound_ports.len() as u16,
            flags: 0,
            max_tuples: self.bounds.tuples,
            max_tokens: self.bounds.tokens,
            spare: [0; 4],
        })
    }
}

/// The name under which a pod of that uid is pinned (FNV-1a, 64 bits): never changes between releases.
pub fn uid_hash(uid: &str) -> u64 {
    uid.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
