//! Where a redirect sends the client.

use std::fmt::Write;

use super::change_path;
use crate::{
    http::Request,
    model::{HttpMatch, Redirect, RedirectPort},
};

/// The `Location` of a redirect: always absolute, the unset parts those of the request, the port as
/// [`RedirectPort`] says, the query kept.
pub fn location(redirect: &Redirect, matched: Option<&HttpMatch>, request: &Request<'_>, dialled_port: u16) -> String {
    // The status is the caller's.
    let Redirect { scheme, host, port, path, status: _ } = redirect;
    let new_scheme = scheme.as_deref().unwrap_or(request.scheme);
    let new_host = host.as_deref().unwrap_or(request.host);
    let not_of_scheme = |port: u16| (Some(port) != port_of(new_scheme)).then_some(port);
    let new_port = match *port {
        // Envoy: a new host comes without port, and beside a new scheme the port of the old one says nothing.
        RedirectPort::Unchanged if host.is_some() => None,
        RedirectPort::Unchanged => {
            let stays = |port: &u16| new_scheme == request.scheme || Some(*port) != port_of(request.scheme);
            request.host_port.filter(stays)
        }
        RedirectPort::OfScheme => None,
        RedirectPort::OfRequest => not_of_scheme(dialled_port),
        RedirectPort::Number(number) => not_of_scheme(number),
    };
    let mut path_and_query = request.path.to_owned();
    if let Some(query) = request.query {
        path_and_query.push('?');
        path_and_query.push_str(query);
    }
    if let Some(path) = path {
        path_and_query = change_path(path, matched, &path_and_query);
    }
    let mut out = format!("{new_scheme}://{new_host}");
    if let Some(port) = new_port {
        write!(out, ":{port}").expect("a text takes all");
    }
    out.push_str(&path_and_query);
    out
}

/// The port that is not written beside a scheme.
fn port_of(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}
