//! What passed between nodes: packets of a pcap file, TCP payloads put together, TLS records.
//!
//! Formats: pcap (draft-ietf-opsawg-pcap), Ethernet, IPv4 (RFC 791), IPv6 (RFC 8200, no extension headers), TCP (RFC 9293),
//! TLS record layer (RFC 8446, section 5.1).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// One direction of a TCP connection: from, to.
pub type Direction = (SocketAddr, SocketAddr);

/// The bytes of every TCP direction in a recording of Ethernet packets, in order, without what was sent twice.
///
/// Panics on what it does not understand: a test must not pass because a packet was skipped.
pub fn tcp_streams(pcap: &[u8]) -> BTreeMap<Direction, Vec<u8>> {
    assert_eq!(pcap[..4], 0xa1b2_c3d4_u32.to_le_bytes(), "a little-endian pcap file with microseconds");
    assert_eq!(word(pcap, 20), 1, "recorded on Ethernet");
    let mut segments: BTreeMap<Direction, Vec<(u32, bool, Vec<u8>)>> = BTreeMap::new();
    let mut at = 24;
    while at + 16 <= pcap.len() {
        let (stored, whole) = (word(pcap, at + 8) as usize, word(pcap, at + 12) as usize);
        assert_eq!(stored, whole, "no packet is cut off");
        let packet = &pcap[at + 16..at + 16 + stored];
        at += 16 + stored;
        if let Some((direction, sequence, begin, payload)) = tcp(packet) {
            segments.entry(direction).or_default().push((sequence, begin, payload.to_vec()));
        }
    }
    segments.into_iter().map(|(direction, segments)| (direction, put_together(&segments))).collect()
}

/// Whether a stream consists of TLS records and nothing else; the last may still be under way.
pub fn is_tls(stream: &[u8]) -> bool {
    let mut rest = stream;
    while !rest.is_empty() {
        // change_cipher_spec, alert, handshake, application_data
        if !(20..=23).contains(&rest[0]) || rest.get(1).is_some_and(|major| *major != 3) {
            return false;
        }
        let Some(header) = rest.get(..5) else { return true };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > (1 << 14) + 256 {
            return false;
        }
        let Some(next) = rest.get(5 + length..) else { return true };
        rest = next;
    }
    true
}

/// Whether the bytes contain this text.
pub fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn tcp(packet: &[u8]) -> Option<(Direction, u32, bool, &[u8])> {
    let (source, destination, segment): (IpAddr, IpAddr, &[u8]) = match (packet[12], packet[13]) {
        (0x08, 0x00) => {
            let ip = &packet[14..];
            let (header, total) = (usize::from(ip[0] & 0xf) * 4, usize::from(u16::from_be_bytes([ip[2], ip[3]])));
            if ip[9] != 6 {
                return None;
            }
            let address = |at: usize| IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).expect("four bytes")));
            // A total of 0: a segment that the network card is to cut up.
            let end = if total == 0 { ip.len() } else { total };
            (address(12), address(16), &ip[header..end])
        }
        (0x86, 0xdd) => {
            let ip = &packet[14..];
            assert!(ip[6] == 6 || ip[6] == 17 || ip[6] == 58 || ip[6] == 0, "an IPv6 packet of protocol {}", ip[6]);
            if ip[6] != 6 {
                return None;
            }
            let address = |at: usize| IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).expect("16 bytes")));
            let length = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
            let end = if length == 0 { ip.len() } else { 40 + length };
            (address(8), address(24), &ip[40..end])
        }
        // ARP and the like carry no payload.
        _ => return None,
    };
    let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    let sequence = u32::from_be_bytes(segment[4..8].try_into().expect("four bytes"));
    let (offset, syn) = (usize::from(segment[12] >> 4) * 4, segment[13] & 2 != 0);
    let direction = (SocketAddr::new(source, port(0)), SocketAddr::new(destination, port(2)));
    Some((direction, sequence.wrapping_add(u32::from(syn)), syn, &segment[offset..]))
}

/// From the SYN on, or from the first packet seen where it was missed.
fn put_together(segments: &[(u32, bool, Vec<u8>)]) -> Vec<u8> {
    let begin = segments.iter().find(|(_, syn, _)| *syn).or(segments.first()).map_or(0, |(sequence, _, _)| *sequence);
    let mut ordered: Vec<(u32, &[u8])> =
        segments.iter().map(|(sequence, _, payload)| (sequence.wrapping_sub(begin), payload.as_slice())).collect();
    ordered.sort_by_key(|(offset, _)| *offset);
    let mut stream = Vec::new();
    for (offset, payload) in ordered {
        // Keep-alives lie one byte before; what is known already is passed over.
        let Some(known) = stream.len().checked_sub(offset as usize) else { continue };
        stream.extend_from_slice(payload.get(known..).unwrap_or_default());
    }
    stream
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_put_together_once() {
        let segments =
            [(8, true, vec![]), (12, false, b"o w".to_vec()), (8, false, b"he".to_vec()), (8, false, b"hell".to_vec())];
        assert_eq!(put_together(&segments), b"hello w");
    }

    #[test]
    fn tls_is_told_from_text() {
        let record = [&[23, 3, 3, 0, 2][..], b"xy"].concat();
        assert!(is_tls(&record) && is_tls(&[&record[..], &record[..4]].concat()) && is_tls(&[]));
        assert!(!is_tls(b"GET / HTTP/1.1\r\n"));
        assert!(!is_tls(&[&record[..], b"plain"].concat()));
        assert!(!is_tls(&[23, 3, 3, 0, 0, 0]));
    }
}
