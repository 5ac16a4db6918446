//! The headers that an application has to hand on so that a mesh can put spans together.

use hyper::{HeaderMap, header::HeaderName};

/// W3C, Zipkin (B3 in both forms), the request id, and the visitor's name, by which routes are chosen in examples.
const HANDED_ON: &[&str] = &[
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "end-user",
];

/// What of a request's headers goes into the requests made on its behalf.
pub(crate) fn handed_on(headers: &HeaderMap) -> HeaderMap {
    let names = HANDED_ON.iter().map(|name| HeaderName::from_static(name));
    names.filter_map(|name| Some((name.clone(), headers.get(&name)?.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_known_headers_go_on() {
        let mut headers = HeaderMap::new();
        for name in ["x-request-id", "end-user", "cookie", "traceparent"] {
            headers.insert(HeaderName::from_static(name), "x".parse().unwrap());
        }
        let on = handed_on(&headers);
        assert_eq!(on.len(), 3);
        assert!(!on.contains_key("cookie"));
    }
}
