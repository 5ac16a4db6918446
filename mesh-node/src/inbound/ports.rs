//! Source ports for deliveries.
//!
//! A delivery comes from the client's own address, and must not meet a port that the client itself uses towards the same
//! pod port (measured: such a connection stalls for 3 seconds). Clients use the ephemeral range, so that deliveries take
//! their ports from outside it, one by one for each (client, pod port).

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// Outside Linux's default `ip_local_port_range`, and not privileged.
const RANGES: [std::ops::RangeInclusive<u16>; 2] = [1024..=32767, 61000..=65535];
const COUNT: u32 = 32767 - 1024 + 1 + 65535 - 61000 + 1;

/// One pod's deliveries.
#[derive(Default)]
pub struct DeliveryPorts(Arc<Mutex<HashMap<Peer, Taken>>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Peer {
    client: IpAddr,
    pod_port: u16,
}

struct Taken {
    /// Where the search for the next port begins; ports that were just given back are used last.
    next: u32,
    ports: HashSet<u16>,
}

/// A port that is in use until this is dropped.
pub struct Lease {
    ports: Arc<Mutex<HashMap<Peer, Taken>>>,
    peer: Peer,
    port: u16,
}

impl DeliveryPorts {
    /// A port that no other delivery from `client` to `pod_port` has; None when all 36,280 are taken.
    pub fn take(&self, client: IpAddr, pod_port: u16) -> Option<Lease> {
        let peer = Peer { client, pod_port };
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A random start: ports of connections that closed a moment ago, before a restart too, are still in TIME_WAIT.
        let taken = peers.entry(peer).or_insert_with(|| Taken { next: fastrand::u32(..COUNT), ports: HashSet::new() });
        if taken.ports.len() >= COUNT as usize {
            return None;
        }
        loop {
            let port = nth(taken.next);
            taken.next = (taken.next + 1) % COUNT;
            if taken.ports.insert(port) {
                return Some(Lease { ports: self.0.clone(), peer, port });
            }
        }
    }
}

impl Lease {
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut peers = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = peers.get_mut(&self.peer) {
            taken.ports.remove(&self.port);
            if taken.ports.is_empty() {
                peers.remove(&self.peer);
            }
        }
    }
}

fn nth(index: u32) -> u16 {
    let first = RANGES[0].len() as u32;
    if index < first { RANGES[0].start() + index as u16 } else { RANGES[1].start() + (index - first) as u16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_given_once_and_none_of_the_ephemeral_range() {
        let ports = DeliveryPorts::default();
        let client = "10.0.0.1".parse().expect("address");
        let leases: Vec<_> = std::iter::from_fn(|| ports.take(client, 80)).collect();
        assert_eq!(leases.len(), COUNT as usize);
        let distinct: HashSet<_> = leases.iter().map(Lease::port).collect();
        assert_eq!(distinct.len(), leases.len());
        assert!(distinct.iter().all(|port| !(32768..=60999).contains(port) && *port >= 1024));
        assert!(ports.take(client, 81).is_some(), "another pod port has its own");
        drop(leases);
        assert!(ports.take(client, 80).is_some());
    }

    #[test]
    fn a_peer_without_deliveries_is_forgotten() {
        let ports = DeliveryPorts::default();
        drop(ports.take("fd00::1".parse().expect("address"), 80));
        assert!(ports.0.lock().expect("lock").is_empty());
    }
}
