//! The tables `paths.yaml` and `authorities.yaml`, and what must hold of every path.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::{collection::vec, prelude::ProptestConfig, sample::select, strategy::Strategy};
use serde::Deserialize;

use super::{BadPath, MAX_PATH, Request, authority, normalize_path};
use crate::model::{PathNormalization, StringMatch};

pub(crate) mod written;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PathCase {
    path: String,
    none: Option<String>,
    base: Option<String>,
    merged: Option<String>,
    decoded: Option<String>,
    bad: Option<String>,
}

#[test]
fn paths_are_normalized_as_the_table_says() {
    let cases: Vec<PathCase> = serde_saphyr::from_str(include_str!("paths.yaml")).expect("the table reads");
    assert!(cases.len() >= 150, "the table is whole: {}", cases.len());
    for case in cases {
        let PathCase { path, none, base, merged, decoded, bad } = &case;
        let mut expected = path;
        let levels = [
            (PathNormalization::None, none),
            (PathNormalization::Base, base),
            (PathNormalization::MergeSlashes, merged),
            (PathNormalization::DecodeAndMergeSlashes, decoded),
        ];
        for (how, said) in levels {
            expected = said.as_ref().unwrap_or(expected);
            match (normalize_path(path, how), bad) {
                (Ok(found), None) => assert_eq!(found, *expected, "{how:?} {case:?}"),
                (Err(found), Some(bad)) => assert_eq!(format!("{found:?}"), *bad, "{how:?} {case:?}"),
                (found, _) => panic!("{how:?} {case:?}: {found:?}"),
            }
        }
    }
}

#[test]
fn a_long_path_is_refused() {
    let longest = format!("/{}", "a".repeat(MAX_PATH - 1));
    assert!(matches!(normalize_path(&longest, PathNormalization::Base), Ok(Cow::Borrowed(_))));
    assert_eq!(normalize_path(&format!("{longest}a"), PathNormalization::Base), Err(BadPath::TooLong));
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorityCase {
    raw: String,
    host: Option<String>,
    port: Option<u16>,
    bad: Option<String>,
}

#[test]
fn authorities_are_read_as_the_table_says() {
    let cases: Vec<AuthorityCase> = serde_saphyr::from_str(include_str!("authorities.yaml")).expect("the table reads");
    assert!(cases.len() >= 50, "the table is whole: {}", cases.len());
    for case in cases {
        match authority(&case.raw) {
            Ok(found) => {
                assert_eq!((Some(&*found.host), found.port), (case.host.as_deref(), case.port), "{case:?}");
                assert_eq!(authority(&found.host).map(|again| again.host), Ok(Cow::Borrowed(&*found.host)), "{case:?}");
            }
            Err(found) => assert_eq!(Some(format!("{found:?}")), case.bad, "{case:?}"),
        }
    }
    assert!(authority(&format!("{}.a", "a".repeat(251))).is_ok());
    assert!(authority(&format!("{}.a", "a".repeat(252))).is_err());
}

#[test]
fn a_header_has_the_values_it_came_with_and_all_of_them_joined() {
    let mut headers = HeaderMap::new();
    for (name, value) in [("x-a", "1"), ("x-b", "1"), ("x-b", "2"), ("x-c", "1,2"), ("x-d", "")] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let request = Request { host: "cart", host_port: Some(8080), headers: &headers, ..empty(&headers) };
    let any = |name: &str, wanted: &str| request.any_value(&name.parse().expect("a name"), |value| value == wanted.as_bytes());
    let every =
        |name: &str, wanted: &str| request.every_value(&name.parse().expect("a name"), |value| value == wanted.as_bytes());
    for (name, wanted, is_any, is_every) in [
        ("x-a", "1", true, true),
        ("x-a", "2", false, false),
        ("x-b", "1", true, false),
        ("x-b", "2", true, false),
        ("x-b", "1,2", true, false),
        ("x-b", "2,1", false, false),
        ("x-c", "1", false, false),
        ("x-c", "1,2", true, true),
        ("x-d", "", true, true),
        ("x-e", "", false, false),
        ("host", "cart", true, true),
        ("host", "cart:8080", true, true),
        ("host", "cart:80", false, false),
    ] {
        assert_eq!((any(name, wanted), every(name, wanted)), (is_any, is_every), "{name}: {wanted}");
    }
    let has = |name: &str| request.has_header(&name.parse().expect("a name"));
    assert!(has("x-d") && has("host") && !has("x-e"));
}

#[test]
fn hosts_are_compared_without_case_and_with_a_port_only_where_one_is_said() {
    let headers = HeaderMap::new();
    for (host, port, text, is) in [
        ("shop.com", None, "shop.com", true),
        ("shop.com", None, "Shop.COM", true),
        ("shop.com", None, "shop.com.", true),
        ("shop.com", Some(8080), "shop.com", true),
        ("shop.com", Some(8080), "shop.com:8080", true),
        ("shop.com", Some(8080), "shop.com:80", false),
        ("shop.com", Some(80), "shop.com:80", true),
        ("shop.com", None, "shop.com:80", true),
        ("shop.com", None, "shop.com:443", false),
        ("shop.com", Some(8080), "shop.com:*", true),
        ("shop.com", None, "shop.com:*", true),
        ("shop.com", None, "shop*", true),
        ("shop.com", None, "SHOP*", true),
        ("shop.com", None, "shopping*", false),
        ("shop.com", Some(8080), "shop.com:80*", true),
        ("www.shop.com", None, "*.shop.com", true),
        ("www.shop.com", None, "*.Shop.Com.", true),
        ("www.shop.com", Some(8080), "*.shop.com", true),
        ("www.shop.com", Some(8080), "*.shop.com:8080", true),
        ("www.shop.com", Some(8080), "*:8080", true),
        ("www.shop.com", Some(8080), "*.shop.com:80", false),
        ("shop.com", None, "*.shop.com", false),
        ("shopxcom", None, "shop.com", false),
        ("shop.com", None, "*", true),
        ("[::1]", Some(80), "[::1]", true),
        ("[::1]", Some(80), "[::1]:80", true),
    ] {
        let request = Request { host, host_port: port, ..empty(&headers) };
        assert_eq!(request.host_is(&string_match(text)), is, "{host} {port:?} {text}");
    }
}

fn string_match(text: &str) -> StringMatch {
    match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(""), _) => StringMatch::Presence,
        (Some(suffix), _) => StringMatch::Suffix(suffix.into()),
        (None, Some(prefix)) => StringMatch::Prefix(prefix.into()),
        (None, None) => StringMatch::Exact(text.into()),
    }
}

fn empty(headers: &HeaderMap) -> Request<'_> {
    const GET: Method = Method::GET;
    static METHOD: Method = GET;
    Request { method: &METHOD, scheme: "http", host: "cart", host_port: None, path: "/", query: None, headers, remote_ip: None }
}

#[test]
fn the_first_parameter_of_a_name_counts_and_nothing_is_decoded() {
    let headers = HeaderMap::new();
    for (query, name, value) in [
        (None, "a", None),
        (Some(""), "a", None),
        (Some("a"), "a", Some("")),
        (Some("a="), "a", Some("")),
        (Some("a=1"), "a", Some("1")),
        (Some("a=1&a=2"), "a", Some("1")),
        (Some("b=0&a=1"), "a", Some("1")),
        (Some("a=b=c"), "a", Some("b=c")),
        (Some("A=1"), "a", None),
        (Some("a=%20+"), "a", Some("%20+")),
        (Some("%61=1"), "a", None),
        (Some("aa=1&&a=2"), "a", Some("2")),
        (Some("=1"), "", Some("1")),
        (Some("a=1;b=2"), "b", None),
    ] {
        assert_eq!(Request { query, ..empty(&headers) }.query_value(name), value, "{query:?} {name}");
    }
}

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What was normalized is normal, climbs nowhere, and was allocated only if something changed.
    #[test]
    fn normal_paths_stay_as_they_are(path in path(), how in level()) {
        let Ok(normal) = normalize_path(&path, how) else { return Ok(()) };
        let cut = path.split('#').next().expect("a first part");
        proptest::prop_assert_eq!(matches!(normal, Cow::Borrowed(_)), *normal == *cut, "{}", path);
        let again = normalize_path(&normal, how).expect("a path that was accepted");
        proptest::prop_assert!(matches!(again, Cow::Borrowed(_)), "{:?} became {:?}", normal, again);
        if how >= PathNormalization::Base {
            let path = normal.split('?').next().expect("a first part");
            proptest::prop_assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{}", normal);
            proptest::prop_assert!(path == "*" || path.starts_with('/'));
            proptest::prop_assert!(how < PathNormalization::MergeSlashes || !path.contains("//"), "{}", normal);
        }
    }

    #[test]
    fn any_authority_is_read_or_refused(raw in "[a-zA-Z0-9:.@%\\[\\]*_-]{0,12}") {
        if let Ok(read) = authority(&raw) {
            proptest::prop_assert!(!read.host.is_empty() && !read.host.bytes().any(|byte| byte.is_ascii_uppercase()));
        }
    }
}

fn level() -> impl Strategy<Value = PathNormalization> {
    use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None};
    select(vec![None, Base, MergeSlashes, DecodeAndMergeSlashes])
}

fn path() -> impl Strategy<Value = String> {
    let parts = [
        "/", "/", "/", "/", ".", "..", "%2e", "%2E", "%2f", "%2F", "%5c", "\\", "a", "B", "%41", "%25", "%", "%2", "4", "1", "f",
        "%34", "%32", "%46", ";", "..;", "*", "?", "#", "é", "<", "%00", "%c3",
    ];
    vec(select(parts.to_vec()), 0..10).prop_map(|parts| parts.concat())
}
