//! A request in the one form that route, policy and upstream see.

use http::{HeaderValue, Method, Uri, Version, header::HOST, request::Parts, uri::PathAndQuery};
use mesh_policy::{
    http::{BadAuthority, BadPath, Request, authority, normalize_path},
    model::PathNormalization,
};

/// What the head of a request says beside its method, path and fields, which have been brought into form in place: its URI
/// is path and query, its only Host field is what the client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    host: String,
    host_port: Option<u16>,
}

/// Why a request is answered with 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRequest {
    #[error("the path: {0}")]
    Path(BadPath),
    #[error("the host: {0}")]
    Host(BadAuthority),
    #[error("the host is no text")]
    HostEncoding,
    #[error("no host")]
    NoHost,
    #[error("several hosts")]
    SeveralHosts,
    #[error("a path in a form that a request line can not hold")]
    Target,
}

impl Facts {
    /// Brings the head of a request into form. `default_host` stands for the host that an HTTP/1.0 request need not name.
    pub(super) fn normalize(head: &mut Parts, how: PathNormalization, default_host: &str) -> Result<Self, BadRequest> {
        let facts = host(head, default_host)?;
        if head.method == Method::CONNECT {
            return Ok(facts);
        }
        let target = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let normal = normalize_path(target, how).map_err(BadRequest::Path)?;
        let in_form = normal == target && head.uri.authority().is_none();
        if !in_form {
            let normal = PathAndQuery::try_from(normal.as_ref()).map_err(|_| BadRequest::Target)?;
            head.uri = Uri::from(normal);
        }
        Ok(facts)
    }

    /// The request as policies and routes look at it.
    pub(super) fn request<'a>(&'a self, head: &'a Parts) -> Request<'a> {
        Request {
            method: &head.method,
            scheme: "http",
            host: &self.host,
            host_port: self.host_port,
            path: head.uri.path(),
            query: head.uri.query(),
            headers: &head.headers,
            remote_ip: None,
        }
    }

    /// In lower case, without port.
    pub(super) fn host(&self) -> &str {
        &self.host
    }
}

fn host(head: &mut Parts, default_host: &str) -> Result<Facts, BadRequest> {
    let read = |raw: &str| {
        let authority = authority(raw).map_err(BadRequest::Host)?;
        Ok(Facts { host: authority.host.into_owned(), host_port: authority.port })
    };
    let mut fields = head.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(BadRequest::SeveralHosts);
    }
    let of_field = field.map(|field| field.to_str().map_err(|_| BadRequest::HostEncoding).and_then(read)).transpose()?;
    // `:authority` of HTTP/2, or a request target in absolute form.
    if let Some(of_target) = head.uri.authority() {
        let found = read(of_target.as_str())?;
        match of_field {
            Some(of_field) if of_field != found => return Err(BadRequest::SeveralHosts),
            Some(_) => {}
            None => {
                let value = HeaderValue::from_str(of_target.as_str()).map_err(|_| BadRequest::HostEncoding)?;
                head.headers.insert(HOST, value);
            }
        }
        return Ok(found);
    }
    match of_field {
        Some(found) => Ok(found),
        None if head.version == Version::HTTP_10 => {
            let value = HeaderValue::from_str(default_host).map_err(|_| BadRequest::HostEncoding)?;
            head.headers.insert(HOST, value);
            read(default_host)
        }
        None => Err(BadRequest::NoHost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: http::Request<()>, expected: Result<(&str, &str), BadRequest>) {
        let (mut head, ()) = request.into_parts();
        let found = Facts::normalize(&mut head, PathNormalization::Base, "default.example");
        match expected {
            Err(expected) => assert_eq!(found, Err(expected)),
            Ok((host, target)) => {
                assert_eq!(found.as_ref().map(Facts::host), Ok(host));
                assert_eq!(head.uri.to_string(), target);
                assert_eq!(head.headers.get_all(HOST).iter().count(), 1);
            }
        }
    }

    fn request(version: Version, target: &str, hosts: &[&str]) -> http::Request<()> {
        let mut builder = http::Request::builder().version(version).uri(target);
        for host in hosts {
            builder = builder.header(HOST, *host);
        }
        builder.body(()).expect("a request")
    }

    #[test]
    fn a_request_has_one_form() {
        const V10: Version = Version::HTTP_10;
        const V11: Version = Version::HTTP_11;
        const V2: Version = Version::HTTP_2;
        check(request(V11, "/a/../b?c=/../d", &["Page.Shop:9080"]), Ok(("page.shop", "/b?c=/../d")));
        check(request(V11, "http://page.shop/x", &["page.shop"]), Ok(("page.shop", "/x")));
        check(request(V11, "http://page.shop/x", &["other.shop"]), Err(BadRequest::SeveralHosts));
        check(request(V11, "/", &["a", "a"]), Err(BadRequest::SeveralHosts));
        check(request(V11, "/", &[]), Err(BadRequest::NoHost));
        check(request(V10, "/", &[]), Ok(("default.example", "/")));
        check(request(V2, "http://page.shop:80/x/./y", &[]), Ok(("page.shop", "/x/y")));
        check(request(V2, "http://page.shop/", &["page.shop."]), Ok(("page.shop", "/")));
        check(request(V11, "/a%00b", &["a"]), Err(BadRequest::Path(BadPath::Nul)));
        check(request(V11, "/", &["a@b"]), Err(BadRequest::Host(BadAuthority::UserInfo)));
    }

    #[test]
    fn connect_keeps_its_authority() {
        let request = http::Request::connect("page.shop:443").header(HOST, "page.shop:443").body(()).expect("a request");
        check(request, Ok(("page.shop", "page.shop:443")));
    }
}
