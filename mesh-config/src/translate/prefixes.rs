//! The extent of the mesh: few prefixes that hold every address of pods, services and entries.
//!
//! Exact as long as there are few. Beyond [`LIMIT`] the prefixes of a family grow, one bit at a time, until there are
//! few again, and then hold addresses that are no business of the mesh: connections to these are refused instead of
//! passed through. Node ranges, where Nodes name them, keep it from coming to that. Never does a prefix grow beyond
//! /12 (IPv4) or /32 (IPv6).

use ipnet::IpNet;
use mesh_policy::model::NetworkMode;

use super::{network::block, service::Services, workload::Draft};
use crate::kinds::Objects;

/// Prefixes of one family that are few enough for every node to search one by one.
const LIMIT: usize = 128;

pub(super) fn aggregated(objects: &Objects, services: &Services, drafts: &[Draft]) -> Vec<IpNet> {
    let of_nodes = objects.nodes.values().filter_map(|node| node.spec.as_ref()).flat_map(|spec| {
        let blocks = spec.pod_cidr.iter().chain(spec.pod_cidrs.iter().flatten());
        blocks.filter_map(|text| block(text))
    });
    // A workload in its node's network has the node's address, which is no business of the mesh.
    let of_workloads = (drafts.iter())
        .filter(|draft| draft.workload.network_mode == NetworkMode::Standard)
        .flat_map(|draft| draft.workload.addresses.iter().map(|address| IpNet::from(*address)));
    let of_services =
        services.by_key.values().flat_map(|service| service.service.addresses.iter().map(|address| address.range.trunc()));
    let all = of_nodes.chain(of_workloads).chain(of_services);
    // A range that holds everything would make every address of the world the mesh's.
    let (v4, v6): (Vec<_>, Vec<_>) = all.filter(|net| net.prefix_len() != 0).partition(|net| net.addr().is_ipv4());
    let mut prefixes = few(&v4, 32, 12);
    prefixes.extend(few(&v6, 128, 32));
    prefixes
}

fn few(prefixes: &[IpNet], longest: u8, shortest: u8) -> Vec<IpNet> {
    let mut found = IpNet::aggregate(&prefixes.to_vec());
    let mut length = longest;
    while found.len() > LIMIT && length > shortest {
        length -= 1;
        let grown = |net: &IpNet| if net.prefix_len() > length { IpNet::new_assert(net.addr(), length).trunc() } else { *net };
        found = IpNet::aggregate(&found.iter().map(grown).collect());
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn neighbours_join_and_strangers_stay_apart() {
        assert_eq!(few(&nets(&["10.0.0.0/32", "10.0.0.1/32", "10.0.0.4/32"]), 32, 12), nets(&["10.0.0.0/31", "10.0.0.4/32"]));
        assert_eq!(few(&nets(&["10.0.0.0/24", "10.0.0.7/32"]), 32, 12), nets(&["10.0.0.0/24"]));
        assert_eq!(few(&[], 32, 12), vec![]);
    }

    #[test]
    fn many_become_few_and_still_hold_everything() {
        let scattered: Vec<IpNet> =
            (0..20_000_u32).map(|n| IpNet::from(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n * 37)))).collect();
        let found = few(&scattered, 32, 12);
        assert!(found.len() <= LIMIT, "{}", found.len());
        assert!(scattered.iter().all(|net| found.iter().any(|prefix| prefix.contains(net))));
        let outside: IpAddr = "11.0.0.1".parse().unwrap();
        assert!(!found.iter().any(|prefix| prefix.contains(&outside)));
    }

    #[test]
    fn the_whole_world_is_never_the_mesh() {
        let everywhere: Vec<IpNet> = (1..255_u8).flat_map(|a| [IpNet::from(IpAddr::from([a, 1, 1, 1]))]).collect();
        assert!(few(&everywhere, 32, 12).iter().all(|net| net.prefix_len() >= 12));
    }
}
