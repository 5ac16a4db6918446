//! What routes and policies may know of a request.

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderMap, HeaderName, Method, header::HOST};

use crate::model::{StringMatch, TextMatch};

/// A request's facts, normalized; see [`normalize_path`](super::normalize_path) and [`authority`](super::authority).
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: &'a Method,
    /// `http` or `https`, as the client meant it.
    pub scheme: &'a str,
    /// In lower case, without port and trailing dot; an IPv6 address in brackets.
    pub host: &'a str,
    /// The port that the authority says.
    pub host_port: Option<u16>,
    /// Without query.
    pub path: &'a str,
    /// As it came, without `?`.
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    /// The client's address where a trusted proxy in front told it; None: that of the connection.
    pub remote_ip: Option<IpAddr>,
}

impl Request<'_> {
    /// The first query parameter of a name, neither of them decoded (as Envoy compares them). `a` is `a=`.
    pub fn query_value(&self, name: &str) -> Option<&str> {
        let pairs = self.query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.into_iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    pub fn has_header(&self, name: &HeaderName) -> bool {
        self.headers.contains_key(name) || name == HOST
    }

    /// Whether any value of a header is so, each as it came in, or all of them joined by commas: the two forms of one
    /// list (RFC 9110 §5.3), and nobody may choose the form that a condition overlooks. `host` is the authority, which
    /// HTTP/2 has no header for: with its port, and without.
    pub fn any_value(&self, name: &HeaderName, is: impl Fn(&[u8]) -> bool) -> bool {
        let values = || self.headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
        if values().any(&is) {
            return true;
        }
        if name == HOST {
            return is(self.host.as_bytes()) || self.host_port.is_some_and(|port| is(format!("{}:{port}", self.host).as_bytes()));
        }
        values().nth(1).is_some() && is(&values().collect::<Vec<_>>().join(&b','))
    }

    /// Whether a header is there and each of its values is so, taken one by one. `host` is the authority in either form.
    pub fn every_value(&self, name: &HeaderName, is: impl Fn(&[u8]) -> bool) -> bool {
        if name == HOST {
            return self.any_value(name, is);
        }
        let mut values = self.headers.get_all(name).iter().map(http::HeaderValue::as_bytes).peekable();
        values.peek().is_some() && values.all(is)
    }

    /// Whether the authority is so, compared without case, with or without its port. A text without port stands for any
    /// port; where the authority says none, it is that of the scheme.
    pub fn host_is(&self, text: &StringMatch) -> bool {
        match text {
            StringMatch::Exact(exact) => self.host_equals(exact),
            StringMatch::Prefix(prefix) => self.host_begins(prefix),
            StringMatch::Suffix(suffix) => self.host_ends(suffix),
            StringMatch::Presence => true,
        }
    }

    /// Likewise, for a route's condition.
    pub fn host_matches(&self, text: &TextMatch) -> bool {
        match text {
            TextMatch::Exact(exact) => self.host_equals(exact),
            TextMatch::Prefix(prefix) => self.host_begins(prefix),
            TextMatch::Suffix(suffix) => self.host_ends(suffix),
            TextMatch::Regex(pattern) => {
                pattern.is(self.host) || self.host_port.is_some_and(|port| pattern.is(&format!("{}:{port}", self.host)))
            }
            TextMatch::Present => true,
        }
    }

    fn host_equals(&self, exact: &str) -> bool {
        let exact = exact.strip_suffix('.').unwrap_or(exact);
        let port = self.port_text();
        exact.eq_ignore_ascii_case(self.host) || same(self.host.bytes().chain(port.bytes()), exact.bytes())
    }

    fn host_begins(&self, prefix: &str) -> bool {
        let port = self.port_text();
        begins(self.host.bytes().chain(port.bytes()), prefix.bytes())
    }

    fn host_ends(&self, suffix: &str) -> bool {
        let suffix = suffix.strip_suffix('.').unwrap_or(suffix);
        let port = self.port_text();
        let ends = |text: &mut dyn Iterator<Item = u8>| begins(text, suffix.bytes().rev());
        ends(&mut self.host.bytes().rev()) || ends(&mut self.host.bytes().chain(port.bytes()).rev())
    }

    fn port_text(&self) -> PortText {
        PortText::of(self.host_port.unwrap_or(if self.scheme == "https" { 443 } else { 80 }))
    }
}

/// Whether a value, which need not be text, is so. A regular expression sees what is no UTF-8 as U+FFFD.
pub(crate) fn bytes_match(text: &TextMatch, value: &[u8]) -> bool {
    match text {
        TextMatch::Exact(exact) => exact.as_bytes() == value,
        TextMatch::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
        TextMatch::Suffix(suffix) => value.ends_with(suffix.as_bytes()),
        TextMatch::Regex(pattern) => match String::from_utf8_lossy(value) {
            Cow::Borrowed(text) => pattern.is(text),
            Cow::Owned(text) => pattern.is(&text),
        },
        TextMatch::Present => true,
    }
}

fn same(left: impl Iterator<Item = u8>, right: impl Iterator<Item = u8>) -> bool {
    let fold = |byte: u8| byte.to_ascii_lowercase();
    left.map(fold).eq(right.map(fold))
}

fn begins(mut text: impl Iterator<Item = u8>, mut start: impl Iterator<Item = u8>) -> bool {
    start.all(|wanted| text.next().is_some_and(|found| found.eq_ignore_ascii_case(&wanted)))
}

/// `:` and a port, on the stack.
struct PortText {
    digits: [u8; 6],
    from: usize,
}

impl PortText {
    fn of(port: u16) -> Self {
        let mut text = Self { digits: [b':'; 6], from: 5 };
        let mut rest = port;
        loop {
            text.digits[text.from] = b'0' + (rest % 10) as u8;
            rest /= 10;
            text.from -= 1;
            if rest == 0 {
                return text;
            }
        }
    }

    fn bytes(&self) -> impl DoubleEndedIterator<Item = u8> + '_ {
        self.digits[self.from..].iter().copied()
    }
}
