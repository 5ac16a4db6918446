//! Cross-origin requests, as Envoy's CORS filter treats them.
//!
//! A preflight (OPTIONS with `Origin` and `Access-Control-Request-Method`) is answered here with 200, whether its origin is
//! allowed or not: what tells the browser is whether the answer names it. With
//! [`UnmatchedPreflights::Forward`] one whose origin is not allowed goes to the application instead. Any other request goes
//! there in any case, and its answer is told that the origin is allowed, in place of what the application said.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
        ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    },
};
use mesh_policy::model::{Cors, TextMatch, UnmatchedPreflights};

use super::body::Body;

/// `%RESPONSE_CODE_DETAILS%` of an answered preflight.
pub const DETAILS: &str = "cors_response";

/// What a route's CORS policy makes of a request.
#[derive(Debug)]
pub enum Decision {
    /// The request goes on, and so does its answer.
    Pass,
    /// The request goes on; its answer is [changed](allow).
    Allow(HeaderValue),
    /// The answer to a preflight.
    Answer(Response<Body>),
}

pub fn decide(cors: &Cors, method: &Method, headers: &HeaderMap) -> Decision {
    let Some(origin) = headers.get(ORIGIN).filter(|origin| !origin.is_empty()) else { return Decision::Pass };
    let allowed = is_allowed(cors, origin);
    let asked = headers.get(ACCESS_CONTROL_REQUEST_METHOD).filter(|asked| *method == Method::OPTIONS && !asked.is_empty());
    let Some(asked) = asked else {
        return if allowed { Decision::Allow(origin.clone()) } else { Decision::Pass };
    };
    if !allowed && cors.unmatched_preflights == UnmatchedPreflights::Forward {
        return Decision::Pass;
    }
    let mut response = Response::new(Body::empty());
    let answer = response.headers_mut();
    if allowed {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }
    if cors.allow_credentials {
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    list(answer, ACCESS_CONTROL_ALLOW_METHODS, &cors.allow_methods, Some(asked));
    list(answer, ACCESS_CONTROL_ALLOW_HEADERS, &cors.allow_headers, headers.get(ACCESS_CONTROL_REQUEST_HEADERS));
    if let Some(age) = cors.max_age {
        answer.insert(ACCESS_CONTROL_MAX_AGE, age.as_secs().into());
    }
    Decision::Answer(response)
}

/// Tells the answer to an allowed request of `origin` so.
pub fn allow(cors: &Cors, origin: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if cors.allow_credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    list(headers, ACCESS_CONTROL_EXPOSE_HEADERS, &cors.expose_headers, None);
}

/// An exact `*` allows every origin.
fn is_allowed(cors: &Cors, origin: &HeaderValue) -> bool {
    let Ok(origin) = std::str::from_utf8(origin.as_bytes()) else { return false };
    cors.allow_origins.iter().any(|allowed| matches!(allowed, TextMatch::Exact(any) if &**any == "*") || allowed.is(origin))
}

/// Joined by commas; a single `*` stands for what was asked for.
fn list(headers: &mut HeaderMap, name: HeaderName, members: &[impl AsRef<str>], asked: Option<&HeaderValue>) {
    let value = match (members, asked) {
        ([], _) => return,
        ([any], Some(asked)) if any.as_ref() == "*" => asked.clone(),
        _ => {
            let joined = members.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(",");
            // What is no header's value was refused with the configuration.
            let Ok(value) = HeaderValue::try_from(joined) else { return };
            value
        }
    };
    headers.insert(name, value);
}

#[cfg(test)]
mod tests;
