//! Messages between two connections: what belongs to one of them stays there, and each version gets its own form.

use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Uri, Version,
    header::{EXPECT, HOST},
    request, response,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::{Request, Response, body::Incoming, upgrade::OnUpgrade};

use super::{body::Body, headers, upstream};

/// The protocol that a request wants its connection to change to, and the client's end of it.
pub(super) struct Upgrade {
    on_client: OnUpgrade,
    /// None: CONNECT.
    to: Option<HeaderValue>,
}

impl Upgrade {
    /// Takes the wish out of a request; what is left is an ordinary one.
    pub(super) fn take(head: &mut request::Parts) -> Option<Self> {
        let on_client = head.extensions.remove::<OnUpgrade>()?;
        if head.method == Method::CONNECT {
            return Some(Self { on_client, to: None });
        }
        let to = headers::upgrade_wanted(head.version, &head.headers)?;
        Some(Self { on_client, to: Some(to) })
    }

    /// The client's end, if the answer grants the wish.
    pub(super) fn granted(self, status: StatusCode) -> Option<OnUpgrade> {
        let granted = if self.to.is_some() { status == StatusCode::SWITCHING_PROTOCOLS } else { status.is_success() };
        granted.then_some(self.on_client)
    }
}

/// Takes out of a request what is meant for the connection that it came by.
pub(super) fn arrived(fields: &mut HeaderMap) {
    headers::remove_hop_by_hop(fields);
    // Answered here: the client is told to go on as soon as the server's side reads the body.
    fields.remove(EXPECT);
}

/// Whether a server goes on with a protocol that nobody has asked for (RFC 9110 §15.2.2): what follows is no HTTP.
pub(super) fn is_unasked_switch(response: &Response<Incoming>, upgrade: Option<&Upgrade>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS && upgrade.is_none_or(|upgrade| upgrade.to.is_none())
}

/// The answer to a request of this method, without what is meant for the connection that it came by.
pub(super) fn answered(method: &Method, response: Response<Incoming>) -> (response::Parts, Body) {
    let (mut head, body) = response.into_parts();
    // Servers that write one all the same (hyper's, in HTTP/2) do not break the answer with it.
    let bodiless = method == Method::HEAD || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let body = if bodiless { Body::empty() } else { Body::received(body, head.version) };
    let upgrade = headers::upgrade_taken(head.status, &head.headers);
    headers::remove_hop_by_hop(&mut head.headers);
    if let Some(to) = upgrade {
        headers::set_upgrade(&mut head.headers, to);
    }
    head.extensions.clear();
    (head, body)
}

/// The request for a server that is spoken to in `version`. Its head has been brought into [form](super::facts::Facts).
pub(super) fn for_server(
    head: &request::Parts,
    upgrade: Option<&Upgrade>,
    body: Body,
    version: upstream::Version,
) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.headers_mut() = head.headers.clone();
    match version {
        upstream::Version::Http1 => {
            if let Some(to) = upgrade.and_then(|upgrade| upgrade.to.clone()) {
                headers::set_upgrade(request.headers_mut(), to);
            }
        }
        upstream::Version::Http2 => for_http2(&mut request),
    }
    request
}

/// Host becomes `:authority`.
pub(super) fn for_http2<B>(request: &mut Request<B>) {
    *request.version_mut() = Version::HTTP_2;
    let host = request.headers_mut().remove(HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    if request.method() == Method::CONNECT {
        return;
    }
    let Some(authority) = authority else { return };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query = request.uri().path_and_query().cloned().or_else(|| Some(PathAndQuery::from_static("/")));
    // Made of parts that fit together.
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_for_http2_has_an_authority() {
        let request = Request::get("/a?b").header(HOST, "page.shop:80").body(()).expect("a request");
        let (head, ()) = request.into_parts();
        let made = for_server(&head, None, Body::empty(), upstream::Version::Http2);
        assert_eq!(made.uri().to_string(), "http://page.shop:80/a?b");
        assert!(!made.headers().contains_key(HOST));
        let made = for_server(&head, None, Body::empty(), upstream::Version::Http1);
        assert_eq!((made.uri().to_string().as_str(), made.headers()[HOST].to_str().expect("text")), ("/a?b", "page.shop:80"));
    }
}
