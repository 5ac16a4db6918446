//! Header operations of routes, in the order in which Envoy does them: remove, set, add.
//!
//! Values may hold Envoy's substitution commands: `%REQ(NAME?OTHER):LENGTH%`, `%DOWNSTREAM_REMOTE_ADDRESS%`,
//! `%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%`, `%DOWNSTREAM_REMOTE_PORT%`, `%DOWNSTREAM_LOCAL_ADDRESS%`,
//! `%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%`, `%DOWNSTREAM_LOCAL_PORT%`, `%DOWNSTREAM_PEER_URI_SAN%`, `%PROTOCOL%`,
//! `%UPSTREAM_REMOTE_ADDRESS%`, `%UPSTREAM_HOST%`, `%START_TIME%` (RFC 3339), `%RESPONSE_CODE%`, `%ROUTE_NAME%`, and `%%`
//! for a percent sign. What is not known is written `-`; a command that is none of these stays as it is written, where Envoy
//! would refuse the configuration. A value that comes out empty sets and adds nothing.

use std::{borrow::Cow, fmt::Write, net::SocketAddr, time::SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header::HOST};
use mesh_policy::{
    http::apply_header_ops,
    model::{HeaderOps, Identity},
};

/// Bytes of a value that substitution makes; what is longer is not set.
const MAX_VALUE: usize = 8192;

/// What substitution commands may speak of.
#[derive(Clone, Copy, Debug)]
pub struct Substitutions<'a> {
    /// Those of the request as it came.
    pub request: &'a HeaderMap,
    pub method: &'a Method,
    pub path_and_query: &'a str,
    pub authority: &'a str,
    pub version: Version,
    pub remote: SocketAddr,
    /// What the client dialled.
    pub local: SocketAddr,
    pub client: Option<&'a Identity>,
    pub upstream: Option<SocketAddr>,
    pub response_code: Option<u16>,
    pub route: &'a str,
}

/// Applies operations to a message's headers ([`apply_header_ops`]). Those on `host` change a request's authority, which is
/// returned and left to the caller to set.
pub fn apply(ops: &HeaderOps, headers: &mut HeaderMap, values: &Substitutions<'_>) -> Option<HeaderValue> {
    apply_header_ops(ops, headers, |value| substitute(value, values))
}

/// None where the outcome can not be a header's value.
fn substitute(value: &HeaderValue, values: &Substitutions<'_>) -> Option<HeaderValue> {
    if !value.as_bytes().contains(&b'%') {
        return Some(value.clone());
    }
    let text = std::str::from_utf8(value.as_bytes()).ok()?;
    let mut out: Vec<u8> = Vec::with_capacity(text.len() + 32);
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.extend_from_slice(before.as_bytes());
        if let Some(escaped) = after.strip_prefix('%') {
            out.push(b'%');
            rest = escaped;
        } else if let Some((command, behind)) = after.split_once('%')
            && let Some(found) = values.value(command)
        {
            out.extend_from_slice(&found);
            rest = behind;
        } else {
            out.push(b'%');
            rest = after;
        }
        if out.len() > MAX_VALUE {
            return None;
        }
    }
    out.extend_from_slice(rest.as_bytes());
    HeaderValue::from_bytes(&out).ok().filter(|value| value.len() <= MAX_VALUE)
}

impl<'a> Substitutions<'a> {
    /// What stands for a command (without its percent signs); None where it is no command.
    fn value(&self, command: &str) -> Option<Cow<'a, [u8]>> {
        if let Some(arguments) = command.strip_prefix("REQ(") {
            return self.request_value(arguments);
        }
        let text = |text: String| Some(Cow::Owned(text.into_bytes()));
        let or_dash = |found: Option<String>| text(found.unwrap_or_else(|| "-".into()));
        match command {
            "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => text(self.remote.to_string()),
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
                text(self.remote.ip().to_string())
            }
            "DOWNSTREAM_REMOTE_PORT" => text(self.remote.port().to_string()),
            "DOWNSTREAM_LOCAL_ADDRESS" => text(self.local.to_string()),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => text(self.local.ip().to_string()),
            "DOWNSTREAM_LOCAL_PORT" => text(self.local.port().to_string()),
            "DOWNSTREAM_PEER_URI_SAN" => or_dash(self.client.map(ToString::to_string)),
            "UPSTREAM_REMOTE_ADDRESS" | "UPSTREAM_HOST" => or_dash(self.upstream.map(|upstream| upstream.to_string())),
            "RESPONSE_CODE" => or_dash(self.response_code.map(|code| code.to_string())),
            "ROUTE_NAME" => or_dash(Some(self.route.to_owned()).filter(|route| !route.is_empty())),
            "PROTOCOL" => Some(Cow::Borrowed(protocol(self.version).as_bytes())),
            "START_TIME" => text(start_time()),
            _ => None,
        }
    }

    /// `NAME)`, `NAME?OTHER)`, with `:LENGTH` behind.
    fn request_value(&self, arguments: &str) -> Option<Cow<'a, [u8]>> {
        let (names, behind) = arguments.split_once(')')?;
        let limit = match behind.strip_prefix(':') {
            None if behind.is_empty() => usize::MAX,
            None => return None,
            Some(limit) => limit.parse().ok()?,
        };
        let (name, other) = names.split_once('?').map_or((names, None), |(name, other)| (name, Some(other)));
        let found = match (self.field(name).ok()?, other) {
            (None, Some(other)) => self.field(other).ok()?,
            (found, _) => found,
        };
        Some(match found {
            None => Cow::Borrowed(b"-"),
            Some(found) => Cow::Borrowed(&found[..found.len().min(limit)]),
        })
    }

    /// None where there is no such field.
    fn field(&self, name: &str) -> Result<Option<&'a [u8]>, NotAName> {
        let name = name.trim();
        Ok(match name.strip_prefix(':').map(str::to_ascii_lowercase).as_deref() {
            Some("method") => Some(self.method.as_str().as_bytes()),
            Some("path") => Some(self.path_and_query.as_bytes()),
            Some("authority") => Some(self.authority.as_bytes()),
            Some("scheme") => Some(b"http"),
            Some(_) => return Err(NotAName),
            None => {
                let name: HeaderName = name.parse().map_err(|_| NotAName)?;
                if name == HOST { Some(self.authority.as_bytes()) } else { self.request.get(name).map(HeaderValue::as_bytes) }
            }
        })
    }
}

/// No name of a header, or of a pseudo-header that requests have.
struct NotAName;

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

fn start_time() -> String {
    let now = time::OffsetDateTime::from(SystemTime::now());
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = write!(
        out,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second(),
        now.millisecond()
    );
    out
}

#[cfg(test)]
mod tests;
