//! A server of names for tests: answers with what a file says at the moment, each answer good for one second.
//!
//! ```text
//! name-server PORT FILE
//! ```
//!
//! A line of the file is a name and its addresses; a name without any has none, a name that is not there does not exist.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
};

const A: u16 = 1;
const AAAA: u16 = 28;
const TTL: u32 = 1;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [port, file] = &words[..] else { anyhow::bail!("name-server PORT FILE") };
    let socket = UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port.parse()?)))?;
    println!("answers on {}", socket.local_addr()?);
    let mut query = [0; 1500];
    loop {
        let (length, from) = socket.recv_from(&mut query)?;
        let Some((name, kind, question)) = read(&query[..length]) else { continue };
        let table = fs::read_to_string(file)?;
        let answer = answer(&query[..2], question, kind, known(&table, &name).as_ref());
        println!("{name} {kind}: {} bytes", answer.len());
        socket.send_to(&answer, from)?;
    }
}

/// The addresses of a name; None: there is no such name.
fn known(table: &str, name: &str) -> Option<Vec<IpAddr>> {
    let mut lines = table.lines().map(str::split_whitespace);
    lines.find_map(|mut words| (words.next()? == name).then(|| words.filter_map(|word| word.parse().ok()).collect()))
}

/// Name, type and bytes of the first question (RFC 1035 §4.1).
fn read(query: &[u8]) -> Option<(String, u16, &[u8])> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    Some((labels.join("."), kind, query.get(12..at + 4)?))
}

fn answer(id: &[u8], question: &[u8], kind: u16, addresses: Option<&Vec<IpAddr>>) -> Vec<u8> {
    let asked = |address: &&IpAddr| if address.is_ipv4() { kind == A } else { kind == AAAA };
    let found: Vec<&IpAddr> = addresses.into_iter().flatten().filter(asked).collect();
    // A response, recursion desired and available; NXDOMAIN where there is no such name.
    let code: u16 = if addresses.is_none() { 0x8183 } else { 0x8180 };
    let mut out = id.to_vec();
    for word in [code, 1, u16::try_from(found.len()).unwrap_or(u16::MAX), 0, 0] {
        out.extend(word.to_be_bytes());
    }
    out.extend(question);
    for address in found {
        // The name is the question's.
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend(1_u16.to_be_bytes());
        out.extend(TTL.to_be_bytes());
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        out.extend(u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
        out.extend(bytes);
    }
    out
}
