//! Addresses, ranges and ports in text form.

use std::net::IpAddr;

use ipnet::IpNet;

/// An address; IPv4 written as IPv6 (`::ffff:a.b.c.d`) is none, because no peer is ever seen like that.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().filter(|address: &IpAddr| address.to_canonical() == *address)
}

/// An address or a range in CIDR form, with the bits behind the prefix cleared.
pub(crate) fn block(text: &str) -> Option<IpNet> {
    match text.split_once('/') {
        None => address(text).map(IpNet::from),
        Some((base, length)) => IpNet::new(address(base)?, length.parse().ok()?).ok().map(|net| net.trunc()),
    }
}

/// 1 to 65535.
pub(crate) fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0 && text.bytes().all(|byte| byte.is_ascii_digit()))
}
