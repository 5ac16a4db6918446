//! New paths.

use std::borrow::Cow;

use super::matching::begins;
use crate::{
    http::normalize_path,
    model::{HttpMatch, PathChange, PathMatch, PathNormalization},
};

/// The path and query that a request gets by a change; `matched` is what it was selected by.
///
/// The query stays, except that a [`PathChange::Full`] with a query of its own brings it instead, as in Envoy's
/// redirects. The new path always begins with a slash and holds no dot segment: what a prefix left behind must not climb
/// out of where it was put.
pub fn change_path(change: &PathChange, matched: Option<&HttpMatch>, path_and_query: &str) -> String {
    let (path, query) = path_and_query.split_at(path_and_query.find('?').unwrap_or(path_and_query.len()));
    let changed = match change {
        PathChange::Full(full) => Cow::Borrowed(&**full),
        PathChange::Prefix(with) => Cow::Owned(replace_prefix(matched, path, with)),
        PathChange::Regex { pattern, with } => Cow::Owned(pattern.replace_all(path, with)),
    };
    let (new_path, new_query) = changed.split_at(changed.find('?').unwrap_or(changed.len()));
    let mut out = settled(new_path);
    out.push_str(new_query);
    match change {
        PathChange::Full(_) if !new_query.is_empty() => {}
        PathChange::Full(_) | PathChange::Prefix(_) | PathChange::Regex { .. } => {
            if new_query.is_empty() || query.is_empty() {
                out.push_str(query);
            } else {
                out.push('&');
                out.push_str(&query[1..]);
            }
        }
    }
    out
}

fn settled(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        out.push('/');
    }
    out.push_str(path);
    if out.contains("/.") || out.contains("/%2") {
        // A path that can not be brought into normal form holds what no request of ours does: it goes on as it is.
        if let Ok(normal) = normalize_path(&out, PathNormalization::Base) {
            return normal.into_owned();
        }
    }
    out
}

/// In place of what the match covers: its prefix; the whole path where it was matched exactly or by an expression.
fn replace_prefix(matched: Option<&HttpMatch>, path: &str, with: &str) -> String {
    let ignore_case = matched.is_some_and(|matched| matched.ignore_path_case);
    match matched.and_then(|matched| matched.path.as_ref()) {
        Some(PathMatch::Exact(_) | PathMatch::Regex(_)) => with.to_owned(),
        Some(PathMatch::Prefix(prefix)) if begins(path, prefix, ignore_case) => replace_text(&path[prefix.len()..], with),
        Some(PathMatch::Segments(prefix)) if begins(path, prefix.trim_end_matches('/'), ignore_case) => {
            replace_segments(path, prefix.trim_end_matches('/'), with)
        }
        Some(PathMatch::Prefix(_) | PathMatch::Segments(_)) => path.to_owned(),
        // Every path lies under the root.
        None => replace_segments(path, "", with),
    }
}

/// VirtualService: text for text, but `/a` for `/` makes no `//b` of `/a/b`.
fn replace_text(rest: &str, with: &str) -> String {
    let rest = if with.ends_with('/') { rest.strip_prefix('/').unwrap_or(rest) } else { rest };
    format!("{with}{rest}")
}

/// The table of the Gateway API's `ReplacePrefixMatch` (HTTPRoute, `HTTPPathModifier`): slashes at the ends of the prefix
/// and of its replacement do not count.
fn replace_segments(path: &str, prefix: &str, with: &str) -> String {
    let rest = &path[prefix.len()..];
    if rest.is_empty() || prefix.is_empty() && rest == "/" {
        return with.to_owned();
    }
    format!("{}{rest}", with.trim_end_matches('/'))
}
