//! The tables in `cases/`, and selection against a naive one on random routes.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use fastrand::Rng;
use serde::Deserialize;

use super::{change_path, choose_backend, judge, location, select, select_tcp, select_tcp_rule, select_tls, select_tls_rule};
use crate::{
    fixtures::key,
    http::tests::written::{Written, client},
    model::{
        Backend, BackendRef, ConnectionMatch, HttpAction, HttpMatch, HttpRule, Origin, PathChange, Redirect, RedirectPort,
        Routes, RoutesKey, TcpRule, TlsRule,
    },
};

mod naive;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MatchCase {
    #[serde(rename = "match")]
    one: HttpMatch,
    holds: Vec<String>,
    fails: Vec<String>,
}

#[test]
fn matches_of_virtual_services_hold_as_the_table_says() {
    check_matches(include_str!("cases/virtual-service.yaml"), 250);
}

#[test]
fn matches_of_the_gateway_api_hold_as_the_table_says() {
    check_matches(include_str!("cases/gateway-api.yaml"), 90);
}

fn check_matches(table: &str, at_least: usize) {
    let cases: Vec<MatchCase> = serde_saphyr::from_str(table).expect("the table reads");
    let count: usize = cases.iter().map(|case| case.holds.len() + case.fails.len()).sum();
    assert!(count >= at_least, "the table is whole: {count}");
    for MatchCase { one, holds, fails } in &cases {
        let expected = holds.iter().map(|text| (text, true)).chain(fails.iter().map(|text| (text, false)));
        for (text, holds) in expected {
            let read = Written::read(text);
            let judged = judge(one, &read.client, &read.request());
            assert_eq!(judged.is_ok(), holds, "{text:?}: {judged:?} of {one:?}");
            let routes = routes(vec![rule(vec![one.clone()])]);
            assert_eq!(select(&routes, &read.client, &read.request()).is_some(), holds, "{text:?}: {one:?}");
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderCase {
    rules: Vec<Vec<HttpMatch>>,
    requests: BTreeMap<String, String>,
}

#[test]
fn the_first_rule_that_matches_is_followed() {
    let cases: Vec<OrderCase> = serde_saphyr::from_str(include_str!("cases/order.yaml")).expect("the table reads");
    assert!(cases.len() >= 13, "the table is whole");
    for OrderCase { rules, requests } in cases {
        let routes = routes(rules.into_iter().map(rule).collect());
        for (text, expected) in requests {
            let read = Written::read(&text);
            let found = select(&routes, &read.client, &read.request()).map_or_else(
                || "none".to_owned(),
                |selected| {
                    let rule = routes.http.iter().position(|rule| std::ptr::eq(rule, selected.rule)).expect("one of them");
                    let among = &selected.rule.matches;
                    let at = selected.matched.and_then(|one| among.iter().position(|other| std::ptr::eq(one, other)));
                    at.map_or_else(|| format!("{rule}/-"), |at| format!("{rule}/{at}"))
                },
            );
            assert_eq!(found, expected, "{text} of {:?}", routes.http);
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RewriteCase {
    #[serde(rename = "match")]
    one: Option<HttpMatch>,
    change: PathChange,
    paths: BTreeMap<String, String>,
}

#[test]
fn paths_change_as_the_table_says() {
    let cases: Vec<RewriteCase> = serde_saphyr::from_str(include_str!("cases/rewrites.yaml")).expect("the table reads");
    let count: usize = cases.iter().map(|case| case.paths.len()).sum();
    assert!(count >= 80, "the table is whole: {count}");
    for RewriteCase { one, change, paths } in &cases {
        for (before, after) in paths {
            assert_eq!(change_path(change, one.as_ref(), before), *after, "{before} by {change:?}, {one:?}");
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RedirectCase {
    #[serde(rename = "match")]
    one: Option<HttpMatch>,
    redirect: RedirectText,
    on: Option<u16>,
    requests: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RedirectText {
    scheme: Option<Arc<str>>,
    host: Option<Arc<str>>,
    port: RedirectPort,
    path: Option<PathChange>,
}

#[test]
fn redirects_lead_where_the_table_says() {
    let cases: Vec<RedirectCase> = serde_saphyr::from_str(include_str!("cases/redirects.yaml")).expect("the table reads");
    let count: usize = cases.iter().map(|case| case.requests.len()).sum();
    assert!(count >= 45, "the table is whole: {count}");
    for RedirectCase { one, redirect: RedirectText { scheme, host, port, path }, on, requests } in cases {
        let redirect = Redirect { scheme, host, port, path, status: 302 };
        for (text, expected) in requests {
            let read = Written::read(&text);
            let found = location(&redirect, one.as_ref(), &read.request(), on.unwrap_or(80));
            assert_eq!(found, expected, "{text} by {redirect:?}");
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConnectionCase {
    tls: Option<TlsText>,
    tcp: Option<ConnectionMatch>,
    holds: Vec<String>,
    fails: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsText {
    sni: Vec<Arc<str>>,
    #[serde(default)]
    when: ConnectionMatch,
}

#[test]
fn connections_follow_rules_as_the_table_says() {
    let cases: Vec<ConnectionCase> = serde_saphyr::from_str(include_str!("cases/connections.yaml")).expect("the table reads");
    assert!(cases.len() >= 15, "the table is whole");
    let backends = vec![backend(1)];
    for ConnectionCase { tls, tcp, holds, fails } in cases {
        let tls_rule = |TlsText { sni, when }| TlsRule { origin: origin(), sni, when, backends: backends.clone() };
        let tcp_rule = |when| TcpRule { origin: origin(), when, backends: backends.clone() };
        let (is_tls, is_tcp) = (tls.is_some(), tcp.is_some());
        let routes = Routes {
            tls: tls.into_iter().map(tls_rule).collect(),
            tcp: tcp.into_iter().map(tcp_rule).collect(),
            ..routes(vec![])
        };
        let expected = holds.iter().map(|text| (text, true)).chain(fails.iter().map(|text| (text, false)));
        for (text, holds) in expected {
            let (mut sni, mut from, mut source, mut to) = (None, "shop version=v1", "10.1.0.5", "10.96.0.9");
            for word in text.split_whitespace() {
                match word.split_once('=').expect("name=value") {
                    ("sni", value) => sni = Some(value),
                    ("from", value) => from = value,
                    ("source", value) => source = value,
                    ("to", value) => to = value,
                    (other, _) => panic!("{other}"),
                }
            }
            let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
            let (client, source, to) = (client(from), ip(source), ip(to));
            let by_tls = select_tls(&routes, &client, sni, source, to);
            let by_tcp = select_tcp(&routes, &client, source, to);
            assert_eq!((by_tls.is_some(), by_tcp.is_some()), (is_tls && holds, is_tcp && holds), "{text}: {routes:?}");
            assert_eq!(select_tls_rule(&routes, &client, sni, source, to).map(|rule| &*rule.backends), by_tls);
            assert_eq!(select_tcp_rule(&routes, &client, source, to).map(|rule| &*rule.backends), by_tcp);
        }
    }
}

#[test]
fn backends_are_drawn_by_weight() {
    let mut rng = Rng::with_seed(7);
    let draws = 20_000;
    for weights in [vec![1], vec![90, 10], vec![0, 1], vec![1, 0, 3, 0], vec![u32::MAX, u32::MAX, u32::MAX]] {
        let backends: Vec<_> = weights.iter().map(|weight| backend(*weight)).collect();
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let mut counts = vec![0u32; weights.len()];
        for _ in 0..draws {
            let drawn = choose_backend(&backends, &mut rng).expect("a weight above zero");
            counts[backends.iter().position(|backend| std::ptr::eq(backend, drawn)).expect("one of them")] += 1;
        }
        for (weight, count) in weights.iter().zip(counts) {
            let (wanted, found) = (f64::from(*weight) / total, f64::from(count) / f64::from(draws));
            assert!((wanted - found).abs() < 0.02 && (*weight > 0 || count == 0), "{weights:?}: {weight} got {found}");
        }
    }
    assert!(choose_backend(&[], &mut rng).is_none());
    assert!(choose_backend(&[backend(0), backend(0)], &mut rng).is_none());
}

#[test]
fn a_condition_that_fails_is_named() {
    let one: HttpMatch = serde_saphyr::from_str(
        "{ path: { Segments: /a }, method: { Exact: POST }, headers: [{ name: x-a, value: { Prefix: b } }], \
         without_headers: [{ name: x-b, value: Present }], query: [{ name: q, value: { Exact: '1' } }], \
         clients: [{ namespace: bank, labels: { app: page } }, { labels: { app: cart } }] }",
    )
    .expect("a match");
    for (text, expected) in [
        ("/b", "path under /a"),
        ("/a", "method = POST"),
        ("POST /a", "header x-a = b*"),
        ("POST /a | x-a: b | x-b: 1", "without header x-b is present"),
        ("POST /a | x-a: b", "query parameter q = 1"),
        ("POST /a?q=1 | x-a: b", "client is in bank, app=page or in any namespace, app=cart"),
    ] {
        let read = Written::read(text);
        let failed = judge(&one, &read.client, &read.request()).expect_err("does not hold");
        assert_eq!(failed.to_string(), expected, "{text}");
    }
}

fn routes(http: Vec<HttpRule>) -> Routes {
    let key = RoutesKey { service: key("shop/cart"), port: 80, consumer: None };
    Routes { key, http, tls: Vec::new(), tcp: Vec::new() }
}

fn rule(matches: Vec<HttpMatch>) -> HttpRule {
    HttpRule { name: "".into(), origin: origin(), matches, action: Arc::new(HttpAction::default()) }
}

fn origin() -> Origin {
    Origin { kind: "VirtualService".into(), namespace: "shop".into(), name: "cart".into(), field: "spec.http[0]".into() }
}

fn backend(weight: u32) -> Backend {
    Backend::new(BackendRef::Service { service: key("shop/cart"), port: 80, subset: None }, weight)
}
