//! The host that a request names, in one form.

use std::{borrow::Cow, net::Ipv6Addr};

/// The longest name of the domain system, in its text form (RFC 1035 §2.3.4).
const MAX_HOST: usize = 253;

/// A Host header or `:authority`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// In lower case, without trailing dot; an IPv6 address in brackets and in its shortest form (RFC 5952).
    pub host: Cow<'a, str>,
    pub port: Option<u16>,
}

/// Why a text is no authority. Answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAuthority {
    #[error("no host")]
    Empty,
    #[error("user information before the host")]
    UserInfo,
    #[error("not a host name (letters, digits, `-`, `_`, dots between; at most {MAX_HOST} bytes) or address")]
    Host,
    #[error("not a port (1 to 65535)")]
    Port,
}

/// Reads `host[:port]`: a name, an IPv4 address or an IPv6 address in brackets.
///
/// Stricter than RFC 3986 §3.2: no user information, no percent encoding, no separators in names, no zone. What is
/// refused has no use in a mesh and has been used to get around policies. An empty port is none.
pub fn authority(raw: &str) -> Result<Authority<'_>, BadAuthority> {
    if raw.contains('@') {
        return Err(BadAuthority::UserInfo);
    }
    if let Some(rest) = raw.strip_prefix('[') {
        let (inner, after) = rest.split_once(']').ok_or(BadAuthority::Host)?;
        let port = match after.strip_prefix(':') {
            Some(port) => port_of(port)?,
            None if after.is_empty() => None,
            None => return Err(BadAuthority::Host),
        };
        let address: Ipv6Addr = inner.parse().map_err(|_| BadAuthority::Host)?;
        let shortest = address.to_string();
        let host = if shortest == inner { Cow::Borrowed(&raw[..inner.len() + 2]) } else { Cow::Owned(format!("[{shortest}]")) };
        return Ok(Authority { host, port });
    }
    let (host, port) = match raw.split_once(':') {
        Some((host, port)) => (host, port_of(port)?),
        None => (raw, None),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return Err(BadAuthority::Empty);
    }
    if host.len() > MAX_HOST || !host.split('.').all(is_label) {
        return Err(BadAuthority::Host);
    }
    let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    };
    Ok(Authority { host, port })
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

fn port_of(digits: &str) -> Result<Option<u16>, BadAuthority> {
    if digits.is_empty() {
        return Ok(None);
    }
    if digits.len() > 5 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadAuthority::Port);
    }
    match digits.parse() {
        Ok(0) | Err(_) => Err(BadAuthority::Port),
        Ok(port) => Ok(Some(port)),
    }
}
