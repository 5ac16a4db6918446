//! What the requests that belong together have in common, where a policy wants them at one endpoint.

use http::{HeaderValue, header::COOKIE};
use mesh_policy::{
    balance::{hash, hash_address},
    http::Request,
    model::{Balance, HashCookie, HashKey},
};

/// A request's key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Affinity {
    /// None: any endpoint.
    pub(super) hash: Option<u64>,
    /// For the answer: the cookie that the client had not.
    pub(super) cookie: Option<HeaderValue>,
}

impl Affinity {
    pub(super) fn of(balance: &Balance, request: &Request<'_>, client: std::net::IpAddr, rng: &mut fastrand::Rng) -> Self {
        let Balance::Hash { key, .. } = balance else { return Self::default() };
        match key {
            HashKey::Header(name) => Self::hashed(request.headers.get(&name.0).map(|value| hash(value.as_bytes()))),
            HashKey::SourceAddress => Self::hashed(Some(hash_address(client))),
            HashKey::Query(name) => Self::hashed(request.query_value(name).map(|value| hash(value.as_bytes()))),
            HashKey::Cookie(cookie) => Self::of_cookie(cookie, request, rng),
        }
    }

    fn hashed(hash: Option<u64>) -> Self {
        Self { hash, cookie: None }
    }

    fn of_cookie(cookie: &HashCookie, request: &Request<'_>, rng: &mut fastrand::Rng) -> Self {
        let HashCookie { name, path, ttl } = cookie;
        let lines = request.headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        if let Some((_, value)) = pairs.find(|(found, _)| *found == &**name) {
            return Self::hashed(Some(hash(value.trim_matches('"').as_bytes())));
        }
        let Some(ttl) = ttl else { return Self::default() };
        let value = format!("{:016x}", rng.u64(..));
        let mut line = format!("{name}=\"{value}\"");
        if !ttl.is_zero() {
            line += &format!("; Max-Age={}", ttl.as_secs());
        }
        if !path.is_empty() {
            line += &format!("; Path={path}");
        }
        line += "; HttpOnly";
        Self { hash: Some(hash(value.as_bytes())), cookie: HeaderValue::try_from(line).ok() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, Method};
    use mesh_policy::model::HashAlgorithm;

    use super::*;

    #[test]
    fn a_cookie_is_issued_once_and_counts_from_then_on() {
        let cookie = HashCookie { name: "user".into(), path: "/p".into(), ttl: Some(Duration::from_mins(1)) };
        let algorithm = HashAlgorithm::RingHash { minimum_size: 1024 };
        let balance = Balance::Hash { key: HashKey::Cookie(cookie), algorithm };
        let mut rng = fastrand::Rng::with_seed(7);
        let mut headers = HeaderMap::new();
        let mut ask = |headers: &HeaderMap| {
            let request = Request {
                method: &Method::GET,
                scheme: "http",
                host: "a",
                host_port: None,
                path: "/",
                query: None,
                headers,
                remote_ip: None,
            };
            Affinity::of(&balance, &request, [10, 0, 0, 1].into(), &mut rng)
        };
        let first = ask(&headers);
        let line = first.cookie.expect("issued").to_str().expect("text").to_owned();
        assert!(line.ends_with("; Max-Age=60; Path=/p; HttpOnly"), "{line}");
        let pair = line.split(';').next().expect("a pair");
        headers.insert(COOKIE, format!("other=1; {pair}").parse().expect("a value"));
        assert_eq!(ask(&headers), Affinity { hash: first.hash, cookie: None });
    }
}
