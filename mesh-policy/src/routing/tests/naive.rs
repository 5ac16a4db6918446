//! A second selection, written from the words of the specifications: everything is turned into text and compared, nothing
//! stops early. On random routes and requests it must agree with the first, and what it selects is rewritten likewise.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::{
    collection::vec,
    option,
    prelude::{Just, ProptestConfig, Strategy, prop_oneof},
    sample::select as one_of,
};

use super::{routes, rule};
use crate::{
    http::tests::written::{Written, client},
    model::{ClientMatch, HeaderMatch, HttpMatch, PathChange, PathMatch, Pattern, QueryMatch, TextMatch, header::Name},
    routing::{change_path, select},
};

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_selections_agree(rules in vec(vec(one_match(), 0..3), 0..5), asked in asked()) {
        let expected = rules.iter().position(|matches| {
            matches.is_empty() || matches.iter().filter(|one| naive_match(one, &asked)).count() > 0
        });
        let routes = routes(rules.into_iter().map(rule).collect());
        let found = select(&routes, &asked.client, &asked.request());
        let found = found.map(|found| routes.http.iter().position(|rule| std::ptr::eq(rule, found.rule)).expect("one of them"));
        proptest::prop_assert_eq!(found, expected);
    }

    /// A prefix on segments is replaced as if path and prefixes were lists of segments.
    #[test]
    fn segments_are_replaced_one_by_one(prefix in segments(), with in segments(), rest in segments(), query in option::of("[a-z=&/?]{0,6}")) {
        let text = |segments: &[&str]| format!("/{}", segments.join("/"));
        let one = HttpMatch { path: Some(PathMatch::Segments(text(&prefix).into())), ..HttpMatch::default() };
        let whole: Vec<&str> = prefix.iter().chain(&rest).copied().collect();
        let expected: Vec<&str> = with.iter().chain(&rest).copied().collect();
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        let changed = change_path(&PathChange::Prefix(text(&with).into()), Some(&one), &format!("{}{query}", text(&whole)));
        proptest::prop_assert_eq!(changed, format!("{}{query}", text(&expected)));
    }
}

fn naive_match(one: &HttpMatch, asked: &Written) -> bool {
    let request = asked.request();
    let path_holds = match &one.path {
        None => true,
        Some(wanted) => {
            let fold = |text: &str| if one.ignore_path_case { text.to_lowercase() } else { text.to_owned() };
            match wanted {
                PathMatch::Exact(exact) => fold(request.path) == fold(exact),
                PathMatch::Prefix(prefix) => fold(request.path).starts_with(&fold(prefix)),
                PathMatch::Segments(prefix) => {
                    let segments = |path: &str| fold(path).split('/').skip(1).map(String::from).collect::<Vec<_>>();
                    let (path, mut prefix) = (segments(request.path), segments(prefix));
                    while prefix.last().is_some_and(String::is_empty) {
                        prefix.pop();
                    }
                    path.len() >= prefix.len() && path[..prefix.len()] == prefix
                }
                PathMatch::Regex(pattern) => {
                    regex::Regex::new(&format!("^(?:{pattern})$")).expect("a pattern").is_match(request.path)
                }
            }
        }
    };
    let headers_of = |name: &Name| {
        let mut values: Vec<String> =
            asked.headers.get_all(&name.0).iter().map(|value| value.to_str().expect("text").to_owned()).collect();
        let joined = values.join(",");
        values.push(joined);
        values
    };
    let header = |wanted: &HeaderMatch| {
        asked.headers.contains_key(&wanted.name.0) && headers_of(&wanted.name).iter().any(|value| text_is(&wanted.value, value))
    };
    let without = |unwanted: &HeaderMatch| {
        if asked.headers.contains_key(&unwanted.name.0) {
            !header(unwanted)
        } else {
            unwanted.value == TextMatch::Present || !text_is(&unwanted.value, "")
        }
    };
    let mut parameters: BTreeMap<&str, &str> = BTreeMap::new();
    for pair in request.query.unwrap_or_default().split('&').rev() {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        parameters.insert(name, value);
    }
    if request.query.is_none() {
        parameters.clear();
    }
    let query = |wanted: &QueryMatch| parameters.get(&*wanted.name).is_some_and(|value| text_is(&wanted.value, value));
    let is_client = |wanted: &ClientMatch| {
        let namespace = wanted.namespace.iter().all(|namespace| **namespace == *asked.client.namespace);
        namespace && wanted.labels.iter().all(|label| asked.client.labels.iter().any(|own| own == label))
    };
    let optional = |wanted: &Option<TextMatch>, value: &str| wanted.iter().all(|wanted| text_is(wanted, value));
    let checks = [
        path_holds,
        optional(&one.method, asked.method.as_str()),
        optional(&one.scheme, &asked.scheme),
        optional(&one.authority, &asked.host),
        one.headers.iter().all(header),
        one.without_headers.iter().all(without),
        one.query.iter().all(query),
        one.clients.is_empty() || one.clients.iter().any(is_client),
    ];
    !checks.contains(&false)
}

fn text_is(wanted: &TextMatch, value: &str) -> bool {
    match wanted {
        TextMatch::Exact(exact) => value == &**exact,
        TextMatch::Prefix(prefix) => value.get(..prefix.len()) == Some(prefix),
        TextMatch::Suffix(suffix) => value.len() >= suffix.len() && value[value.len() - suffix.len()..] == **suffix,
        TextMatch::Regex(pattern) => regex::Regex::new(&format!("^(?:{pattern})$")).expect("a pattern").is_match(value),
        TextMatch::Present => true,
    }
}

fn one_match() -> impl Strategy<Value = HttpMatch> {
    let path = (0..4, one_of(vec!["/", "/a", "/a/", "/a/b", "/A", "/ab"])).prop_map(|(kind, text)| match kind {
        0 => PathMatch::Exact(text.into()),
        1 => PathMatch::Segments(text.into()),
        2 => PathMatch::Prefix(text.into()),
        _ => PathMatch::Regex(Pattern::new(&format!("{text}.?")).expect("a pattern")),
    });
    let header = (one_of(vec!["x-a", "x-b"]), text(&["1", "2", "1,2", ""]))
        .prop_map(|(name, value)| HeaderMatch { name: Name(HeaderName::from_static(name)), value });
    let query = (one_of(vec!["a", "b"]), text(&["1", "2", ""])).prop_map(|(name, value)| QueryMatch { name: name.into(), value });
    let of_client =
        (option::of(one_of(vec!["shop", "bank"])), option::of(one_of(vec!["v1", "v2"]))).prop_map(|(namespace, version)| {
            let labels = version.map(|version| (Arc::from("version"), Arc::from(version)));
            ClientMatch { namespace: namespace.map(Arc::from), labels: labels.into_iter().collect() }
        });
    let rarely = |strategy| option::weighted(0.15, strategy);
    (
        (option::weighted(0.7, path), proptest::bool::weighted(0.2)),
        (rarely(text(&["GET", "POST"])), rarely(text(&["http", "https"])), rarely(text(&["cart", "bank"]))),
        (few(header.clone()), few(header), few(query), few(of_client)),
    )
        .prop_map(|((path, ignore_path_case), (method, scheme, authority), (headers, without_headers, query, clients))| {
            HttpMatch {
                name: "".into(),
                path,
                ignore_path_case,
                method,
                scheme,
                authority,
                headers,
                without_headers,
                query,
                clients,
            }
        })
}

fn few<S: Strategy + Clone>(strategy: S) -> impl Strategy<Value = Vec<S::Value>> {
    prop_oneof![3 => Just(()).prop_map(|()| Vec::new()), 1 => vec(strategy, 1..3)]
}

fn text(values: &[&'static str]) -> impl Strategy<Value = TextMatch> + Clone + use<> {
    (0..5, one_of(values.to_vec())).prop_map(|(kind, text)| match kind {
        0 => TextMatch::Prefix(text.into()),
        1 => TextMatch::Suffix(text.into()),
        2 => TextMatch::Regex(Pattern::new(&format!("{text}|x.*")).expect("a pattern")),
        3 => TextMatch::Present,
        _ => TextMatch::Exact(text.into()),
    })
}

fn asked() -> impl Strategy<Value = Written> {
    let path = one_of(vec!["/", "/a", "/a/", "/a/b", "/A/b", "/ab", "/a//b", "/x"]);
    let query = option::of(one_of(vec!["", "a=1", "a=2&a=1", "b&a=1", "a=&b=2", "b=1&b=2"]));
    let headers = vec((one_of(vec!["x-a", "x-b"]), one_of(vec!["1", "2", "", "x1"])), 0..3);
    (
        one_of(vec![Method::GET, Method::POST]),
        one_of(vec!["http", "https"]),
        one_of(vec!["cart", "bank"]),
        (path, query),
        headers,
        (one_of(vec!["shop", "bank"]), one_of(vec!["", " version=v1", " version=v2"])),
    )
        .prop_map(|(method, scheme, host, (path, query), pairs, (namespace, version))| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            Written {
                method,
                scheme: scheme.into(),
                host: host.into(),
                host_port: None,
                path_and_query: query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}")),
                headers,
                client: client(&format!("{namespace}{version}")),
            }
        })
}

fn segments() -> impl Strategy<Value = Vec<&'static str>> {
    vec(one_of(vec!["a", "b", "c.d", "e%2Ff"]), 1..4)
}
