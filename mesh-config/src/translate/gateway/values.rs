//! Texts of routes: what they stand for, or that they are none.

use std::sync::Arc;

use mesh_policy::model::{
    Pattern, TextMatch,
    header::{Name, Value},
};

pub(crate) fn header_name(text: &str) -> Option<Name> {
    text.parse().ok().map(Name)
}

pub(crate) fn header_value(text: &str) -> Option<Value> {
    text.parse().ok().map(Value)
}

/// A token of RFC 9110 §5.6.2, such as a method.
pub(crate) fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

/// `*`, or `scheme://host[:port]` where `*.` may begin the host and stands for one or more labels.
pub(crate) fn origin(text: &str) -> Option<TextMatch> {
    if text == "*" {
        return Some(TextMatch::Present);
    }
    let (scheme, authority) = text.split_once("://")?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    let host = authority.strip_prefix("*.").unwrap_or(authority);
    let scheme_is_one = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !scheme_is_one || host.is_empty() || !host.bytes().all(allowed) {
        return None;
    }
    if host == authority {
        return Some(TextMatch::Exact(text.into()));
    }
    let pattern = format!("{}://[A-Za-z0-9._-]+\\.{}", literal(scheme), literal(host));
    Pattern::new(&pattern).ok().map(TextMatch::Regex)
}

/// A regular expression for exactly this text.
fn literal(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        if !c.is_ascii_alphanumeric() {
            out.push('\\');
        }
        out.push(c);
        out
    })
}

/// A path or prefix as it is compared: a slash at its end does not count.
pub(super) fn without_slash(path: &str) -> Arc<str> {
    match path.trim_end_matches('/') {
        "" => "/".into(),
        trimmed => trimmed.into(),
    }
}
