//! Names that several kinds write in the same form: hosts, labels, gateways, who an object is exported to.

use std::collections::{BTreeMap, BTreeSet};

use super::problem::{Cause, Problem, is_address};

pub(super) const HOST: &str = "a host name (letters, digits, '-', '.'; `*.` may come first)";

/// A DNS name, whose first label may be `*`.
pub(super) fn is_host(host: &str) -> bool {
    is_name(host.strip_prefix("*.").unwrap_or(host))
}

fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(allowed)
    };
    host.len() <= 253 && host.split('.').all(label)
}

/// As a route or rule names those it is about: like a host, and `*`, `*-suffix.example`, an address.
pub(super) fn is_host_pattern(host: &str) -> bool {
    let rest = host.strip_prefix('*').map(|rest| rest.strip_prefix(['.', '-']).unwrap_or(rest));
    match rest {
        Some("") => host == "*",
        Some(rest) => is_name(rest),
        None => is_name(host) || is_address(host),
    }
}

/// RFC 1123.
pub(super) fn is_label(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let allowed = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    bytes.len() <= 63 && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(allowed)
}

/// Kubernetes' labels: a key of a prefix and a name, a value of at most 63.
pub(super) fn labels(at: &str, labels: &BTreeMap<String, String>, out: &mut Vec<Problem>) {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let part = |text: &str| text.len() <= 63 && text.bytes().all(allowed);
    for (key, value) in labels {
        let (prefix, name) = key.rsplit_once('/').map_or((None, key.as_str()), |(prefix, name)| (Some(prefix), name));
        if name.is_empty() || !part(name) || prefix.is_some_and(|prefix| !is_name(prefix)) {
            out.push(Problem::new(format!("{at}.{key}"), Cause::form(key, "the key of a label")));
        }
        if !part(value) {
            out.push(Problem::new(format!("{at}.{key}"), Cause::form(value, "the value of a label")));
        }
    }
}

/// `mesh`, `name` or `namespace/name`.
pub(super) fn gateways(at: &str, gateways: &[String], out: &mut Vec<Problem>) {
    for (index, gateway) in gateways.iter().enumerate() {
        let valid = match gateway.split_once('/') {
            Some((namespace, name)) => is_label(namespace) && is_label(name),
            None => is_name(gateway),
        };
        if !valid {
            out.push(Problem::new(format!("{at}[{index}]"), Cause::form(gateway, "`mesh` or the name of a Gateway")));
        }
    }
}

/// Istio's `validateExportTo`: `.`, `*` alone, or namespaces, each once.
pub(super) fn export_to(namespace: &str, targets: &[String], out: &mut Vec<Problem>) {
    let mut seen = BTreeSet::new();
    for (index, target) in targets.iter().enumerate() {
        let at = format!("spec.exportTo[{index}]");
        let meant = if target == "." { namespace } else { target };
        if !seen.insert(meant) {
            out.push(Problem::new(at, Cause::Duplicate { found: target.clone() }));
        } else if meant == "*" && targets.len() > 1 {
            out.push(Problem::new(at, Cause::Exclusive { other: "other namespaces" }));
        } else if meant != "*" && !is_label(meant) {
            out.push(Problem::new(at, Cause::form(target, "`.`, `*` or a namespace")));
        }
    }
}

/// 1 to 65535.
pub(super) fn port(at: &str, number: u32, out: &mut Vec<Problem>) {
    if !(1..=65535).contains(&number) {
        out.push(Problem::new(at, Cause::form(number.to_string(), "a port")));
    }
}
