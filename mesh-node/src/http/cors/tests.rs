use std::{sync::Arc, time::Duration};

use mesh_policy::model::Pattern;

use super::*;

fn policy() -> Cors {
    Cors {
        allow_origins: vec![
            TextMatch::Exact("https://shop.example".into()),
            TextMatch::Prefix("https://dev.".into()),
            TextMatch::Regex(Pattern::new(r"https://.*\.test").expect("a pattern")),
        ],
        allow_methods: vec!["GET".into(), "POST".into()],
        allow_headers: vec!["x-a".into(), "x-b".into()],
        expose_headers: vec!["x-c".into(), "x-d".into()],
        max_age: Some(Duration::from_hours(24)),
        allow_credentials: true,
        unmatched_preflights: UnmatchedPreflights::Ignore,
    }
}

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&str, &str)| (name.parse().expect("a name"), value.parse().expect("a value"));
    fields.iter().map(field).collect::<HeaderMap<HeaderValue>>()
}

fn preflight(cors: &Cors, origin: &str) -> Decision {
    let asked = [("origin", origin), ("access-control-request-method", "PUT"), ("access-control-request-headers", "x-z, x-y")];
    decide(cors, &Method::OPTIONS, &headers(&asked))
}

fn answered(decision: &Decision) -> Vec<(&str, &str)> {
    let Decision::Answer(response) = decision else { panic!("{decision:?}") };
    assert_eq!(response.status(), 200);
    assert!(response.body().is_done());
    let mut fields: Vec<_> =
        response.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
    fields.sort_unstable();
    fields
}

#[test]
fn a_preflight_is_answered() {
    assert_eq!(
        answered(&preflight(&policy(), "https://shop.example")),
        [
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-headers", "x-a,x-b"),
            ("access-control-allow-methods", "GET,POST"),
            ("access-control-allow-origin", "https://shop.example"),
            ("access-control-max-age", "86400"),
        ]
    );
    let bare = Cors { allow_origins: vec![TextMatch::Exact("*".into())], ..Cors::default() };
    assert_eq!(answered(&preflight(&bare, "https://any.where")), [("access-control-allow-origin", "https://any.where")]);
}

#[test]
fn a_star_stands_for_what_was_asked() {
    let all: Vec<Arc<str>> = vec!["*".into()];
    let cors = Cors { allow_methods: all.clone(), allow_headers: all, max_age: None, allow_credentials: false, ..policy() };
    assert_eq!(
        answered(&preflight(&cors, "https://dev.shop")),
        [
            ("access-control-allow-headers", "x-z, x-y"),
            ("access-control-allow-methods", "PUT"),
            ("access-control-allow-origin", "https://dev.shop"),
        ]
    );
}

#[test]
fn a_preflight_from_elsewhere_is_answered_without_the_origin_or_passed_on() {
    let found = preflight(&policy(), "https://evil.example");
    assert!(answered(&found).iter().all(|(name, _)| *name != "access-control-allow-origin"), "{found:?}");
    let forward = Cors { unmatched_preflights: UnmatchedPreflights::Forward, ..policy() };
    assert!(matches!(preflight(&forward, "https://evil.example"), Decision::Pass));
    assert!(matches!(preflight(&forward, "https://shop.example"), Decision::Answer(_)));
}

#[test]
fn origins_match_as_whole_texts() {
    for (origin, allowed) in [
        ("https://shop.example", true),
        ("https://shop.example.evil", false),
        ("https://dev.anything", true),
        ("https://a.test", true),
        ("https://a.test.evil", false),
        ("null", false),
    ] {
        let decision = decide(&policy(), &Method::GET, &headers(&[("origin", origin)]));
        assert_eq!(matches!(decision, Decision::Allow(_)), allowed, "{origin}");
    }
}

#[test]
fn other_requests_pass_and_their_answers_are_told() {
    for fields in [&[][..], &[("origin", "")], &[("access-control-request-method", "GET")]] {
        assert!(matches!(decide(&policy(), &Method::OPTIONS, &headers(fields)), Decision::Pass), "{fields:?}");
    }
    // OPTIONS without a method asked for is no preflight.
    let options = decide(&policy(), &Method::OPTIONS, &headers(&[("origin", "https://shop.example")]));
    let Decision::Allow(origin) = options else { panic!("{options:?}") };
    let mut answer = headers(&[("access-control-allow-origin", "*"), ("access-control-expose-headers", "x-app")]);
    allow(&policy(), origin, &mut answer);
    let expected = headers(&[
        ("access-control-allow-origin", "https://shop.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "x-c,x-d"),
    ]);
    assert_eq!(answer, expected);
}
