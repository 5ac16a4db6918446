//! Requests as tables write them.

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::{
    fixtures::pod,
    http::{Request, authority, normalize_path},
    model::{PathNormalization, Workload},
};

/// `[METHOD ][scheme://authority]/path[?query]`, GET and http://cart unless said, then ` | ` and headers, and
/// `from: namespace[ label=value...]` for the client, `shop version=v1` unless said. Normalized as the node does (BASE).
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) method: Method,
    pub(crate) scheme: String,
    pub(crate) host: String,
    pub(crate) host_port: Option<u16>,
    pub(crate) path_and_query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) client: Workload,
}

impl Written {
    pub(crate) fn read(text: &str) -> Self {
        let mut parts = text.split(" | ");
        let target = parts.next().expect("a first part");
        let (method, target) = match target.split_once(' ') {
            Some((method, target)) => (method.parse().expect("a method"), target),
            None => (Method::GET, target),
        };
        let (scheme, named, path_and_query) = match target.split_once("://") {
            Some((scheme, rest)) => {
                let (named, path) = rest.split_at(rest.find('/').expect("a path"));
                (scheme, named, path)
            }
            None => ("http", "cart", target),
        };
        let named = authority(named).expect("an authority");
        let mut read = Self {
            method,
            scheme: scheme.into(),
            host: named.host.into_owned(),
            host_port: named.port,
            path_and_query: normalize_path(path_and_query, PathNormalization::Base).expect("a path").into_owned(),
            headers: HeaderMap::new(),
            client: client("shop version=v1"),
        };
        for part in parts {
            let (name, value) = part.split_once(':').expect("name: value");
            if name == "from" {
                read.client = client(value.trim());
            } else {
                let name: HeaderName = name.parse().expect("a header's name");
                read.headers.append(name, HeaderValue::from_str(value.trim()).expect("a header's value"));
            }
        }
        read
    }

    pub(crate) fn request(&self) -> Request<'_> {
        let (path, query) = match self.path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&*self.path_and_query, None),
        };
        Request {
            method: &self.method,
            scheme: &self.scheme,
            host: &self.host,
            host_port: self.host_port,
            path,
            query,
            headers: &self.headers,
            remote_ip: None,
        }
    }
}

/// `namespace` and labels.
pub(crate) fn client(text: &str) -> Workload {
    let mut words = text.split([' ', ',']);
    let namespace = words.next().expect("a namespace");
    let labels = words.map(|word| word.split_once('=').expect("label=value"));
    Workload {
        labels: labels.map(|(name, value)| (name.into(), value.into())).collect(),
        ..pod(&format!("{namespace}/page"), &["10.1.0.5"])
    }
}
