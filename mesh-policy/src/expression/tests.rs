use std::{borrow::Cow, collections::BTreeMap};

use proptest::prelude::*;

use super::*;

/// A request that is answered by 404.
struct Asked;

impl Facts for Asked {
    fn fact(&self, attribute: Attribute) -> Option<Fact<'_>> {
        Some(match attribute {
            Attribute::RequestPath => Fact::Text("/reviews/1?full".into()),
            Attribute::RequestUrlPath => Fact::Text("/reviews/1".into()),
            Attribute::RequestMethod => Fact::Text("GET".into()),
            Attribute::RequestHost => Fact::Text("reviews:9080".into()),
            Attribute::ResponseCode => Fact::Number(404),
            Attribute::DestinationPort => Fact::Number(9080),
            Attribute::ConnectionMtls => Fact::Is(true),
            Attribute::SourcePrincipal => Fact::Text("spiffe://cluster.local/ns/shop/sa/page".into()),
            _ => return None,
        })
    }

    fn request_header(&self, name: &str) -> Option<Cow<'_, str>> {
        (name == "x-version").then_some("v2".into())
    }

    fn response_header(&self, name: &str) -> Option<Cow<'_, str>> {
        (name == "server").then_some("ratings".into())
    }
}

#[test]
fn filters_hold_for_what_they_say() {
    for (source, holds) in [
        ("response.code >= 400", true),
        ("response.code >= 500", false),
        ("response.code >= 400 || connection.mtls == false", true),
        ("connection.mtls", true),
        ("!connection.mtls", false),
        ("request.url_path.startsWith('/reviews')", true),
        ("request.url_path == '/reviews/1' && request.method != 'POST'", true),
        ("source.principal.endsWith('/sa/page')", true),
        ("source.principal.contains('ns/shop')", true),
        ("request.method in ['GET', 'HEAD']", true),
        ("request.path.matches('/reviews/[0-9]')", true),
        ("matches(request.url_path, '^/reviews$')", false),
        ("request.headers['x-version'] == 'v2'", true),
        ("request.headers['X-Version'] == 'v2'", true),
        ("'X-Version' in request.headers", true),
        ("'x-other' in request.headers", false),
        ("has(request.headers.server)", false),
        ("response.headers.server == 'ratings'", true),
        ("(response.code > 500 ? 'bad' : 'good') == 'good'", true),
        ("size(request.method) == 3", true),
        // What can not be evaluated holds for nothing.
        ("request.headers['x-other'] == 'v2'", false),
        ("request.headers['x-other'] != 'v2'", false),
        ("response.code == '404'", false),
        ("response.code", false),
        ("response.grpc_status > 0", false),
        ("xds.node.id == 'a'", false),
        ("filter_state['a'] == 'b' || true", true),
        ("true", true),
    ] {
        let expression = Expression::new(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(expression.holds(&Asked), holds, "{source}: {:?}", expression.evaluate(&Asked));
    }
}

#[test]
fn values_become_texts() {
    for (source, value) in [
        ("request.host", Some("reviews:9080")),
        ("destination.port", Some("9080")),
        ("string(destination.port)", Some("9080")),
        ("connection.mtls", Some("true")),
        ("'fixed'", Some("fixed")),
        ("request.method + ' ' + request.url_path", Some("GET /reviews/1")),
        ("request.url_path.startsWith('/reviews') ? 'reviews' : 'rest'", Some("reviews")),
        ("request.headers['x-version']", Some("v2")),
        ("request.headers['x-other']", None),
        ("[1, 2]", None),
        ("1 / 0", None),
    ] {
        let expression = Expression::new(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(expression.text(&Asked).as_deref(), value, "{source}");
    }
}

#[test]
fn what_is_needed_is_known() {
    let expression = Expression::new("request.headers['X-A'] == response.headers.b && xds.node.id == node.id").unwrap();
    assert_eq!(expression.request_headers().collect::<Vec<_>>(), ["x-a"]);
    assert_eq!(expression.response_headers().collect::<Vec<_>>(), ["b"]);
    assert_eq!(expression.unknown().collect::<Vec<_>>(), ["node.id", "xds.node.id"]);
    let names: BTreeMap<&str, Attribute> = Attribute::ALL.iter().map(|attribute| (attribute.as_str(), *attribute)).collect();
    assert_eq!(names.len(), Attribute::ALL.len());
    assert!(names.iter().all(|(name, attribute)| Attribute::named(name) == Some(*attribute)));
}

#[test]
fn what_is_no_expression_is_refused() {
    for (source, message) in [
        ("", "empty"),
        ("response.code >=", "not CEL"),
        ("response.code >= 400 and true", "not CEL"),
        ("[1, 2].all(x, x > 0)", "not taken"),
        ("request.headers.map(x, x)", "not taken"),
        ("request.headers == {}", "written out"),
        ("request.headers[request.method] == 'a'", "written out"),
        ("request.path.matches(request.host)", "written out"),
        ("request.path.matches('(')", "("),
    ] {
        let error = Expression::new(source).expect_err(source).to_string();
        assert!(error.contains(message), "{source}: {error}");
    }
    assert_eq!(Expression::new(&"x".repeat(2000)), Err(ExpressionError::TooLong { found: 2000 }));
    for part in
        ["(", "[", "{", "!", "-", "a.", "a+", "a?", "a?a:", "a[", "f(", "(]", "a&&", "a==", "!(", "'", "\\", "{a:", "a,", "1 in "]
    {
        let bomb = part.repeat(1024 / part.len());
        for bomb in [bomb.clone(), bomb[..bomb.len() - part.len()].to_owned() + "a"] {
            if let Ok(expression) = Expression::new(&bomb) {
                assert_eq!(expression.text(&Asked), None, "{bomb}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever a user writes is compiled or refused, and what is compiled can be evaluated.
    #[test]
    fn any_text_is_taken_or_refused(source in "[a-z0-9 .()\\[\\]{}'\"!?:&|=<>+*/,@\\\\-]{0,80}|\\PC{0,40}") {
        if let Ok(expression) = Expression::new(&source) {
            let _ = (expression.holds(&Asked), expression.text(&Asked));
        }
    }

    /// The same of texts that look like expressions.
    #[test]
    fn any_likely_text_is_taken_or_refused(parts in proptest::collection::vec(prop::sample::select(vec![
        "request.path", "response.code", "request.headers", "['a']", "(", ")", "==", ">", "&&", "||", "!", "-", "+", "?", ":", "'a'",
        "1", "[", "]", "in", ".matches(", ".size()", "has(", "true", "{", "}", ",", ".exists(x,", "int(", "null", "b'a'", "1u", "0.5",
    ]), 0..14)) {
        if let Ok(expression) = Expression::new(&parts.join(" ")) {
            let _ = (expression.holds(&Asked), expression.text(&Asked));
        }
    }
}
