//! `forwarded` (RFC 7239): where the application's connection came from, and the host that it asked for.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// The first element of the header; of its parameters only `for` and `host`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    pub by_for: Option<ForwardedFor>,
    /// The service's host name, empty when unknown.
    pub host: String,
}

/// The node identifier of `for`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardedFor {
    pub address: IpAddr,
    pub port: Option<u16>,
}

impl From<SocketAddr> for ForwardedFor {
    fn from(address: SocketAddr) -> Self {
        Self { address: address.ip(), port: Some(address.port()) }
    }
}

impl Forwarded {
    /// `None` when neither parameter can be read. Never fails: the header only describes.
    pub fn parse(text: &str) -> Option<Self> {
        let mut forwarded = Self::default();
        let mut rest = text;
        while let Some((name, after)) = rest.split_once('=') {
            let Some((value, after)) = value(after) else { break };
            let name = name.trim();
            if name.eq_ignore_ascii_case("for") && forwarded.by_for.is_none() {
                forwarded.by_for = node(&value);
            } else if name.eq_ignore_ascii_case("host") && forwarded.host.is_empty() && is_host(&value) {
                forwarded.host = value;
            }
            match after.trim_start().strip_prefix(';') {
                Some(more) => rest = more,
                // The end, or a comma: the next element is another hop's.
                None => break,
            }
        }
        (forwarded != Self::default()).then_some(forwarded)
    }
}

impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ForwardedFor { address, port }) = self.by_for {
            match (address, port) {
                (IpAddr::V4(address), None) => write!(f, "for=\"{address}\"")?,
                (IpAddr::V6(address), None) => write!(f, "for=\"[{address}]\"")?,
                (address, Some(port)) => write!(f, "for=\"{}\"", SocketAddr::new(address, port))?,
            }
        }
        if is_host(&self.host) {
            let separator = if self.by_for.is_some() { ";" } else { "" };
            write!(f, "{separator}host={}", self.host)?;
        }
        Ok(())
    }
}

/// A token or a quoted string at the start of `text`, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',', ' ', '\t']).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[index + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// `address`, `address:port`, `[address]` or `[address]:port`; obfuscated and unknown nodes are nothing to us.
fn node(text: &str) -> Option<ForwardedFor> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.into());
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().map(|address| ForwardedFor { address, port: None })
}

/// Letters, digits, `.`, `-` and `_`: a token of RFC 7230, so it needs no quotes.
fn is_host(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    !text.is_empty() && text.len() <= 253 && text.bytes().all(allowed)
}
