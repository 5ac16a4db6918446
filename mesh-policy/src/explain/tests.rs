//! A small shop, explained.

use std::sync::Arc;

use super::{Answer, Authorization, BoundTo, Explanation, Question, Route, Transport, explain, resolve};
use crate::{
    fixtures::{Serves, address, key, pod, service},
    http::tests::written::Written,
    model::{
        Action, AppProtocol, Authorization as Policy, Backend, BackendRef, Clause, ConnectionMatch, Health, HttpAction,
        HttpMatch, HttpRule, Match, Model, Origin, OutboundPolicy, PathPattern, PolicyKey, RequestMatch, Routes, RoutesKey,
        RoutingMode, Rule, Scope, Service, Snapshot, StringMatch, Subset, Target, TcpRule, TlsRule, TrafficKey, TrafficPolicy,
        TrafficRule, TunnelProtocol, Workload,
    },
};

/// `shop/page` on node1 asks `shop/cart`, 10.96.0.1:80, served by v1 (here), v2 (on node2), v3 (not ready) and an
/// endpoint outside the mesh.
fn shop() -> Model {
    let mut model = Model::default();
    model.upsert_workload(pod("shop/page", &["10.1.0.1"]));
    model.upsert_workload(cart("v1", "10.1.0.2"));
    model.upsert_workload(Workload { node: "node2".into(), ..cart("v2", "10.1.0.3") });
    model.upsert_workload(Workload { health: Health::Unhealthy, ..cart("v3", "10.1.0.4") });
    model.upsert_workload(Workload { tunnel: TunnelProtocol::None, node: "".into(), ..cart("old", "10.9.0.1") });
    model.upsert_service(http(service("shop/cart", &["10.96.0.1"], &[(80, 8080)])));
    model.upsert_service(service("shop/db", &["10.96.0.2"], &[(5432, 5432)]));
    model.upsert_workload(pod("shop/db-0", &["10.1.0.8"]).serves("shop/db", &[(5432, 5432)]));
    model.upsert_service(http(service("shop/peers", &[], &[(80, 8080)])));
    model.upsert_workload(pod("shop/peer-0", &["10.1.0.9"]).serves("shop/peers", &[(80, 8080)]));
    model
}

fn http(mut service: Service) -> Service {
    service.ports.iter_mut().for_each(|port| port.protocol = AppProtocol::Http11);
    service
}

fn cart(version: &str, address: &str) -> Workload {
    let labels = [("version".into(), version.into())].into();
    Workload { labels, ..pod(&format!("shop/cart-{version}"), &[address]).serves("shop/cart", &[(80, 8080)]) }
}

fn rules(model: &mut Model, service: &str, port: u16, consumer: Option<&str>, rules: Vec<(&str, HttpAction)>) {
    let rule = |(at, (one, action)): (usize, (&str, HttpAction))| HttpRule {
        name: format!("rule-{at}").into(),
        origin: origin(at),
        matches: match one {
            "" => Vec::new(),
            one => vec![serde_saphyr::from_str::<HttpMatch>(one).expect("a match")],
        },
        action: Arc::new(action),
    };
    let key = RoutesKey { service: key(service), port, consumer: consumer.map(Arc::from) };
    let http = rules.into_iter().enumerate().map(rule).collect();
    model.routes.insert(key.clone(), Arc::new(Routes { key, http, tls: Vec::new(), tcp: Vec::new() }));
}

fn origin(at: usize) -> Origin {
    let field = format!("spec.http[{at}]").into();
    Origin { kind: "VirtualService".into(), namespace: "shop".into(), name: "cart".into(), field }
}

fn to(service: &str, port: u16, subset: Option<&str>, weight: u32) -> Backend {
    Backend::new(BackendRef::Service { service: key(service), port, subset: subset.map(Arc::from) }, weight)
}

fn forward(backends: Vec<Backend>) -> HttpAction {
    HttpAction { target: Target::Forward(backends), ..HttpAction::default() }
}

fn subsets(model: &mut Model, names: &[&str]) {
    let of = |name: &&str| {
        let labels = [(Arc::from("version"), Arc::from(*name))].into();
        (Arc::from(*name), Subset { labels, policy: Arc::default(), ports: [].into() })
    };
    let key = TrafficKey { service: key("shop/cart"), consumer: None };
    let rule = TrafficRule {
        key: key.clone(),
        origin: "shop/cart-rule".into(),
        policy: Arc::new(TrafficPolicy::default()),
        ports: [].into(),
        subsets: names.iter().map(of).collect(),
    };
    model.traffic.insert(key, Arc::new(rule));
}

fn deny_paths(model: &mut Model, name: &str, path: &str) {
    let request = RequestMatch { paths: vec![PathPattern::Text(StringMatch::Prefix(path.into()))], ..RequestMatch::default() };
    let clause = Clause { matches: vec![Match { request, ..Match::default() }] };
    model.upsert_policy(Policy {
        key: PolicyKey { namespace: "shop".into(), name: name.into() },
        scope: Scope::Namespace,
        action: Action::Deny,
        dry_run: false,
        rules: vec![Rule { clauses: vec![clause] }],
    });
}

fn ask(snapshot: &Snapshot, dialled: &str, request: &str) -> Explanation {
    let source = snapshot.workload_at(address("10.1.0.1")).expect("the page");
    let written = Written::read(request);
    let question =
        Question { source, dialled: dialled.parse().expect("an address"), sni: None, request: Some(written.request()) };
    explain(snapshot, &question)
}

fn workloads(explanation: &Explanation, backend: usize) -> Vec<(&str, Option<usize>)> {
    explanation.backends[backend].endpoints.iter().map(|endpoint| (&*endpoint.workload, endpoint.tier)).collect()
}

#[test]
fn without_rules_a_request_goes_to_the_service_that_was_dialled() {
    let explained = ask(&shop().snapshot(), "10.96.0.1:80", "http://elsewhere/a?b");
    assert_eq!(explained.bound, BoundTo::Service { service: key("shop/cart").to_string(), port: 80 });
    assert!(explained.http && explained.route == Route::None && explained.answer.is_none());
    assert_eq!(explained.source_identity.as_deref(), Some("spiffe://cluster.local/ns/shop/sa/page"));
    assert_eq!(explained.backends[0].path.as_deref(), Some("/a?b"));
    assert_eq!(
        workloads(&explained, 0),
        [("shop/cart-old", Some(0)), ("shop/cart-v1", Some(0)), ("shop/cart-v2", Some(0)), ("shop/cart-v3", None)]
    );
    let transports: Vec<_> = explained.backends[0].endpoints.iter().map(|endpoint| endpoint.transport.clone()).collect();
    let expected = |workload: &str| vec![format!("spiffe://cluster.local/ns/shop/sa/{workload}")];
    assert_eq!(transports[0], Transport::Plaintext);
    assert_eq!(transports[1], Transport::SameNode);
    assert_eq!(transports[2], Transport::Hbone { expected: expected("cart-v2") });
    assert_eq!(explained.backends[0].endpoints[0].authorization, Authorization::NotEnforced);
}

#[test]
fn the_rules_before_the_one_that_is_followed_say_why_they_are_not() {
    let mut model = shop();
    let v2 = || forward(vec![to("shop/cart", 80, Some("v2"), 1)]);
    rules(
        &mut model,
        "shop/cart",
        80,
        None,
        vec![
            ("{ path: { Exact: /admin } }", v2()),
            ("{ headers: [{ name: end-user, value: { Exact: jason } }] }", v2()),
            ("", forward(vec![to("shop/cart", 80, Some("v1"), 90), to("shop/cart", 80, Some("v2"), 10)])),
            ("", v2()),
        ],
    );
    subsets(&mut model, &["v1", "v2"]);
    let explained = ask(&model.snapshot(), "10.96.0.1:80", "/");
    let Route::Rule { routes, origin: followed, name, matched, passed_over } = &explained.route else { panic!("{explained:?}") };
    assert_eq!(*routes, format!("{}:80", key("shop/cart")));
    assert_eq!((followed, &**name, *matched), (&origin(2), "rule-2", None));
    let failed: Vec<_> = passed_over.iter().map(|rule| (&*rule.name, rule.failed.join(", "))).collect();
    assert_eq!(failed, [("rule-0", "path = /admin".to_owned()), ("rule-1", "header end-user = jason".to_owned())]);
    let shares: Vec<_> = explained.backends.iter().map(|backend| (backend.subset.as_deref(), backend.percent)).collect();
    assert_eq!(shares, [(Some("v1"), 90.0), (Some("v2"), 10.0)]);
    assert_eq!(workloads(&explained, 0), [("shop/cart-v1", Some(0))]);
    assert_eq!(explained.backends[0].destination_rule.as_deref(), Some("shop/cart-rule"));
    let treatment = explained.treatment.expect("a rule treats");
    assert!(treatment.retry_is_default && treatment.retry.attempts == 2 && treatment.timeout.is_none());

    let jason = ask(&model.snapshot(), "10.96.0.1:80", "/ | end-user: jason");
    assert!(matches!(jason.route, Route::Rule { matched: Some(0), .. }), "{jason:?}");
}

#[test]
fn what_no_rule_matches_is_not_found_and_a_namespace_may_have_its_own() {
    let mut model = shop();
    rules(&mut model, "shop/cart", 80, None, vec![("{ path: { Exact: /a } }", forward(vec![to("shop/cart", 80, None, 1)]))]);
    let explained = ask(&model.snapshot(), "10.96.0.1:80", "/b");
    assert_eq!(explained.answer, Some(Answer::NoRoute));
    assert!(explained.backends.is_empty());
    assert!(matches!(&explained.route, Route::NoRule { passed_over, .. } if passed_over[0].failed == ["path = /a"]));

    rules(&mut model, "shop/cart", 80, Some("shop"), vec![("", forward(Vec::new()))]);
    let own = ask(&model.snapshot(), "10.96.0.1:80", "/b");
    assert!(matches!(&own.route, Route::Rule { routes, .. } if routes.ends_with("@shop")), "{own:?}");
    assert_eq!(own.answer, Some(Answer::NoBackend));
}

#[test]
fn backends_that_can_not_serve_say_why() {
    let mut model = shop();
    let invalid = Backend::new(BackendRef::Invalid { reason: "no ReferenceGrant".into() }, 1);
    let backends = vec![
        invalid,
        to("shop/cart", 80, Some("v9"), 1),
        to("shop/gone", 80, None, 1),
        to("shop/cart", 81, None, 1),
        to("shop/cart", 80, Some("v3"), 1),
    ];
    rules(&mut model, "shop/cart", 80, None, vec![("", forward(backends))]);
    subsets(&mut model, &["v3"]);
    let explained = ask(&model.snapshot(), "10.96.0.1:80", "/");
    let why: Vec<_> = explained.backends.iter().map(|backend| backend.unavailable.as_deref().expect("a reason")).collect();
    assert_eq!(
        why,
        [
            "no ReferenceGrant",
            "no subset v9",
            &format!("no service {}", key("shop/gone")),
            "NO_SERVICE_PORT",
            "NO_HEALTHY_ENDPOINT"
        ]
    );
    assert_eq!(workloads(&explained, 4), [("shop/cart-v3", None)]);
}

#[test]
fn policies_judge_the_request_as_it_arrives() {
    let mut model = shop();
    deny_paths(&mut model, "no-admin", "/admin");
    let rewrite: crate::model::Rewrite =
        serde_saphyr::from_str("{ path: { Prefix: /admin }, host: shop.com }").expect("a rewrite");
    let action = HttpAction { rewrite: Some(rewrite), ..forward(vec![to("shop/cart", 80, None, 1)]) };
    rules(
        &mut model,
        "shop/cart",
        80,
        None,
        vec![("{ path: { Segments: /a } }", action), ("", forward(vec![to("shop/cart", 80, None, 1)]))],
    );
    let snapshot = model.snapshot();
    let judged = |request: &str| {
        let explained = ask(&snapshot, "10.96.0.1:80", request);
        let backend = &explained.backends[0];
        let of_v2 = backend.endpoints.iter().find(|endpoint| endpoint.workload == "shop/cart-v2").expect("an endpoint");
        let Authorization::Judged { outcome, dry_run: None } = &of_v2.authorization else { panic!("{of_v2:?}") };
        (
            backend.path.clone().expect("a path"),
            backend.host.clone().expect("a host"),
            outcome.code,
            outcome.policy.clone(),
            outcome.rule,
        )
    };
    let denied = |path: &str, host: &str| (path.into(), host.into(), Some("POLICY_DENY"), Some("shop/no-admin".into()), Some(0));
    assert_eq!(judged("/a/x?y"), denied("/admin/x?y", "shop.com"));
    assert_eq!(judged("/admin"), denied("/admin", "cart"));
    assert_eq!(judged("/b"), ("/b".into(), "cart".into(), None, None, None));
}

#[test]
fn redirects_and_own_answers_need_no_endpoint() {
    let mut model = shop();
    let target = |text: &str| HttpAction { target: serde_saphyr::from_str(text).expect("a target"), ..HttpAction::default() };
    rules(
        &mut model,
        "shop/cart",
        80,
        None,
        vec![
            (
                "{ path: { Exact: /r } }",
                target("Redirect: { scheme: https, host: null, port: Unchanged, path: { Full: /new }, status: 301 }"),
            ),
            ("", target("Respond: { status: 503, body: [] }")),
        ],
    );
    let snapshot = model.snapshot();
    let answer = |request: &str| ask(&snapshot, "10.96.0.1:80", request).answer;
    assert_eq!(answer("/r?a"), Some(Answer::Redirect { status: 301, location: "https://cart/new?a".into() }));
    assert_eq!(answer("/x"), Some(Answer::Respond { status: 503 }));
}

#[test]
fn a_workload_that_was_dialled_is_the_endpoint_and_its_headless_service_gives_the_rules() {
    let mut model = shop();
    rules(&mut model, "shop/peers", 80, None, vec![("", forward(vec![to("shop/peers", 80, None, 1)]))]);
    let snapshot = model.snapshot();
    for (host, service, has_rule) in [
        ("peers", Some(key("shop/peers").to_string()), true),
        ("peers.shop", Some(key("shop/peers").to_string()), true),
        ("peer-0.peers.shop.svc.cluster.local", Some(key("shop/peers").to_string()), true),
        ("peers.bank", None, false),
        ("10.1.0.9", None, false),
    ] {
        let explained = ask(&snapshot, "10.1.0.9:8080", &format!("http://{host}/"));
        assert_eq!(explained.bound, BoundTo::Workload { workload: "shop/peer-0".into(), service }, "{host}");
        assert_eq!(matches!(explained.route, Route::Rule { .. }), has_rule, "{host}");
        assert_eq!(workloads(&explained, 0), [("shop/peer-0", Some(0))], "{host}");
    }
    let own = ask(&snapshot, "10.1.0.3:8080", "http://cart/");
    assert_eq!(own.bound, BoundTo::Workload { workload: "shop/cart-v2".into(), service: None }, "not a headless service");
}

#[test]
fn what_is_not_http_follows_tls_and_tcp_rules() {
    let mut model = shop();
    let key_of = RoutesKey { service: key("shop/db"), port: 5432, consumer: None };
    let tls = TlsRule {
        origin: origin(0),
        sni: vec!["db.com".into()],
        when: ConnectionMatch::default(),
        backends: vec![to("shop/cart", 80, None, 1)],
    };
    let tcp = TcpRule { origin: origin(1), when: ConnectionMatch::default(), backends: vec![to("shop/db", 5432, None, 1)] };
    let routes = Routes { key: key_of.clone(), http: Vec::new(), tls: vec![tls], tcp: vec![tcp] };
    model.routes.insert(key_of, Arc::new(routes));
    deny_paths(&mut model, "no-admin", "/admin");
    let snapshot = model.snapshot();
    let source = snapshot.workload_at(address("10.1.0.1")).expect("the page");
    let dialled = "10.96.0.2:5432".parse().expect("an address");
    for (sni, followed, workload) in
        [(None, 1, "shop/db-0"), (Some("other.com"), 1, "shop/db-0"), (Some("db.com"), 0, "shop/cart-old")]
    {
        let explained = explain(&snapshot, &Question { source, dialled, sni, request: None });
        assert!(!explained.http);
        assert!(matches!(&explained.route, Route::Rule { origin: found, .. } if *found == origin(followed)), "{explained:?}");
        assert_eq!(explained.backends[0].endpoints[0].workload, workload);
    }
    // Where only the transport is known, a DENY of paths denies.
    let explained = explain(&snapshot, &Question { source, dialled, sni: None, request: None });
    assert!(
        matches!(&explained.backends[0].endpoints[0].authorization, Authorization::Judged { outcome, .. } if !outcome.allowed)
    );
}

#[test]
fn addresses_that_nobody_has_are_explained_too() {
    let mut model = shop();
    model.mesh.prefixes = vec!["10.0.0.0/8".parse().expect("a range")];
    let snapshot = model.snapshot();
    assert_eq!(ask(&snapshot, "192.0.2.1:80", "/").bound, BoundTo::Passthrough { service: None });
    assert_eq!(ask(&snapshot, "10.7.0.1:80", "/").bound, BoundTo::Unknown { code: "UNKNOWN_ADDRESS" });
    assert_eq!(ask(&snapshot, "10.96.0.1:81", "/").bound, BoundTo::Refused { code: "NO_SERVICE_PORT" });
}

#[test]
fn a_service_entry_is_explained_by_the_name_that_is_asked_for() {
    let mut model = shop();
    let entry = |name: &str, host: &str, protocol, mode| {
        let mut entry = service(name, &[], &[(443, 443)]);
        (entry.hostname, entry.ports[0].protocol, entry.load_balancing.mode) = (host.into(), protocol, mode);
        entry
    };
    model.upsert_service(Service {
        ports: vec![crate::model::ServicePort { service_port: 80, target_port: 80, protocol: AppProtocol::Http11 }],
        ..entry("shop/wild", "*.example.com", AppProtocol::Http11, RoutingMode::Passthrough)
    });
    model.upsert_service(entry("shop/tls", "www.example.org", AppProtocol::Tls, RoutingMode::Passthrough));
    let wild = "shop/*.example.com".to_owned();
    let nobody = super::ANY_OUTSIDE.to_string();
    let asked = |model: &Model, host: &str| ask(&model.snapshot(), &format!("{nobody}:80"), &format!("http://{host}/a"));
    let explained = asked(&model, "foo.example.com");
    assert_eq!(explained.bound, BoundTo::Entry { service: wild, port: 80 });
    assert_eq!(workloads(&explained, 0), [("the address dialled", Some(0))]);
    let treatment = explained.treatment.expect("what applies to every request");
    assert!(treatment.retry_is_default && treatment.retry.attempts == 2);
    assert_eq!(asked(&model, "foo.example.net").bound, BoundTo::Passthrough { service: None });

    let by_sni = |model: &Model, sni| {
        let snapshot = model.snapshot();
        let source = snapshot.workload_at(address("10.1.0.1")).expect("the page");
        let dialled = format!("{nobody}:443").parse().expect("an address");
        explain(&snapshot, &Question { source, dialled, sni, request: None }).bound
    };
    let tls = BoundTo::Entry { service: "shop/www.example.org".into(), port: 443 };
    assert_eq!(by_sni(&model, Some("www.example.org")), tls);
    assert_eq!(by_sni(&model, None), BoundTo::Passthrough { service: None });

    model.mesh.outbound_policy = OutboundPolicy::RegistryOnly;
    let refused = asked(&model, "foo.example.net");
    assert_eq!((refused.bound, refused.answer), (BoundTo::Refused { code: "REGISTRY_ONLY" }, Some(Answer::NotRegistered)));
    assert_eq!(by_sni(&model, Some("www.example.org")), tls);
    assert_eq!(by_sni(&model, Some("example.org")), BoundTo::Refused { code: "REGISTRY_ONLY" });
    let snapshot = model.snapshot();
    let source = snapshot.workload_at(address("10.1.0.1")).expect("the page");
    assert_eq!(resolve(&snapshot, source, "any.example.com"), Some(super::ANY_OUTSIDE));
}

#[test]
fn hosts_are_resolved_as_a_client_would() {
    let snapshot = shop().snapshot();
    let source = snapshot.workload_at(address("10.1.0.1")).expect("the page");
    for (host, expected) in [
        ("cart", Some("10.96.0.1")),
        ("cart.shop", Some("10.96.0.1")),
        ("cart.shop.svc.cluster.local", Some("10.96.0.1")),
        ("peers", Some("10.1.0.9")),
        ("cart.bank", None),
        ("carts", None),
    ] {
        assert_eq!(resolve(&snapshot, source, host), expected.map(address), "{host}");
    }
}

#[test]
fn an_explanation_is_written_as_json() {
    let json = serde_json::to_value(ask(&shop().snapshot(), "10.96.0.1:80", "/a")).expect("it is data");
    assert_eq!(json["bound"]["Service"]["port"], 80);
    assert_eq!(json["backends"][0]["endpoints"][1]["transport"], "SameNode");
}
