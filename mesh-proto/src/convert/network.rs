//! Addresses, prefixes, ports, enums and keys: the pieces that several resources share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use ipnet::IpNet;
use mesh_policy::model;

use super::error::Cause;

/// 4 bytes are IPv4, 16 IPv6; IPv4 written as IPv6 (`::ffff:a.b.c.d`) is IPv4, because that is how a peer is seen.
pub(super) fn address(bytes: &[u8]) -> Result<IpAddr, Cause> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(octets).into());
    }
    let octets = <[u8; 16]>::try_from(bytes).map_err(|_| Cause::AddressLength { length: bytes.len() })?;
    Ok(IpAddr::from(Ipv6Addr::from(octets)).to_canonical())
}

/// An address with a prefix length, which counts in the form that was sent.
pub(super) fn prefix(bytes: &[u8], length: u32) -> Result<IpNet, Cause> {
    let found = address(bytes)?;
    let mapped = found.is_ipv4() && bytes.len() == 16;
    let bits = if mapped { length.checked_sub(96) } else { Some(length) };
    bits.and_then(|bits| u8::try_from(bits).ok())
        .and_then(|bits| IpNet::new(found, bits).ok())
        .ok_or(Cause::PrefixLength { length })
}

pub(super) fn bytes_of(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
        IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
    }
}

/// 0 to 65535.
pub(super) fn port(value: u32) -> Result<u16, Cause> {
    u16::try_from(value).map_err(|_| Cause::Port { value })
}

/// 1 to 65535.
pub(super) fn port_in_use(value: u32) -> Result<u16, Cause> {
    port(value).and_then(|port| if port == 0 { Err(Cause::Port { value }) } else { Ok(port) })
}

/// An enum of the wire from its number.
pub(super) fn known<T: TryFrom<i32>>(value: i32) -> Result<T, Cause> {
    T::try_from(value).map_err(|_| Cause::EnumValue { value })
}

/// `a/b`, neither empty; only the first slash separates.
pub(super) fn pair<'a>(text: &'a str, form: &'static str) -> Result<(&'a str, &'a str), Cause> {
    text.split_once('/')
        .filter(|(left, right)| !left.is_empty() && !right.is_empty())
        .ok_or_else(|| Cause::Form { found: text.chars().take(256).collect(), form })
}

pub(super) fn trust_domain(name: &str) -> Result<model::TrustDomain, Cause> {
    model::TrustDomain::new(name).map_err(|_| Cause::TrustDomain { found: name.chars().take(256).collect() })
}

/// `network/address` of every address that the workload owns: names by which a client may ask for it.
pub fn workload_aliases(workload: &model::Workload) -> Vec<String> {
    match workload.network_mode {
        model::NetworkMode::HostNetwork => Vec::new(),
        model::NetworkMode::Standard => {
            workload.addresses.iter().map(|address| format!("{}/{address}", workload.network)).collect()
        }
    }
}

/// `network/address` of every single address of the service; ranges cannot be asked for.
pub fn service_aliases(service: &model::Service) -> Vec<String> {
    let single = |address: &&model::VirtualAddress| address.range.prefix_len() == address.range.max_prefix_len();
    service.addresses.iter().filter(single).map(|address| format!("{}/{}", address.network, address.range.addr())).collect()
}
