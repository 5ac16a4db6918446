//! `:authority` of a CONNECT: an address or a service's host name, and a port.

use std::{fmt, net::SocketAddr, str::FromStr};

/// Where a stream shall lead to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Address(SocketAddr),
    /// A service's host name, lower case, without a trailing dot.
    Host {
        name: String,
        port: u16,
    },
}

/// The text is not `address:port`, `[address]:port` or `host:port` with a port from 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address or a host with a port from 1 to 65535")]
pub struct BadTarget;

impl Target {
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Host { port, .. } => *port,
        }
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        // `SocketAddr` itself takes `:080`, and a scope id; neither can be meant.
        let (host, port) = text.rsplit_once(':').ok_or(BadTarget)?;
        let plain = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
        let port: u16 = if plain { port.parse().map_err(|_| BadTarget)? } else { return Err(BadTarget) };
        if host.starts_with('[') || host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            if host.contains('%') {
                return Err(BadTarget);
            }
            return text.parse().map(Self::Address).map_err(|_| BadTarget);
        }
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if is_host_name(&name) { Ok(Self::Host { name, port }) } else { Err(BadTarget) }
    }
}

/// Labels of 1 to 63 letters, digits, `-` and `_`, 253 bytes in all (RFC 1123, and `_` as DNS itself allows).
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    name.len() <= 253 && name.split('.').all(is_label)
}
