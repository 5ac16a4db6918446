use std::sync::Arc;

use super::*;
use crate::{
    fixtures::{pod, service, uid},
    model::{
        Action, Authorization, Clause, HttpSettings, Match, Model, OutboundPolicy, PolicyKey, RequestMatch, Rule, Scope,
        StringMatch,
    },
};

const SERVICE: &str = "10.96.0.1";
const POD: &str = "10.65.0.2";

fn of_ports(name: &str, addresses: &[&str]) -> Service {
    let mut service = service(name, addresses, &PORTS.map(|(port, _)| (port, 8000 + port)));
    for (port, (_, protocol)) in service.ports.iter_mut().zip(PORTS) {
        port.protocol = protocol;
    }
    service
}

fn web(behind: &[&Service]) -> Workload {
    let mappings = |service: &Service| {
        service.ports.iter().map(|port| PortMapping { service_port: port.service_port, target_port: port.target_port }).collect()
    };
    let services = behind.iter().map(|service| (service.key(), mappings(service))).collect();
    Workload { services, ..pod("app/web", &[POD]) }
}

/// Denies a method.
fn policy() -> Authorization {
    let request = RequestMatch { methods: vec![StringMatch::Exact("PUT".into())], ..RequestMatch::default() };
    Authorization {
        key: PolicyKey { namespace: "app".into(), name: "no-put".into() },
        scope: Scope::Namespace,
        action: Action::Deny,
        dry_run: false,
        rules: vec![Rule { clauses: vec![Clause { matches: vec![Match { request, ..Match::default() }] }] }],
    }
}

const PORTS: [(u16, AppProtocol); 5] = [
    (80, AppProtocol::Http11),
    (81, AppProtocol::Grpc),
    (82, AppProtocol::Tcp),
    (83, AppProtocol::Tls),
    (84, AppProtocol::Unknown),
];

fn model() -> Model {
    let (with_address, headless) = (of_ports("app/web", &[SERVICE]), of_ports("app/web-headless", &[]));
    let mut model = Model::default();
    model.upsert_workload(web(&[&with_address, &headless]));
    model.upsert_service(with_address);
    model.upsert_service(headless);
    model
}

fn bound(model: &Model, to: &str) -> Option<Binding> {
    let snapshot = model.snapshot();
    let source = snapshot.workload(&uid("app/web")).expect("a workload").clone();
    bind(&snapshot, &source, to.parse().expect("an address"))
}

#[test]
fn declared_ports_are_bound_to_what_was_dialled() {
    let model = model();
    for (port, http) in [(80, true), (81, true), (82, false), (83, false), (84, false), (85, false)] {
        let found = bound(&model, &format!("{SERVICE}:{port}"));
        let expected = BoundTo::Service(of_ports("app/web", &[]).key());
        match found {
            Some(Binding::Declared(found)) => assert!(http && found.to == expected, "{port}: {found:?}"),
            other => assert!(!http && other.is_none(), "{port}: {other:?}"),
        }
        let found = bound(&model, &format!("{POD}:{}", 8000 + port));
        match found {
            Some(Binding::Declared(Bound { to: BoundTo::Workload { uid, headless }, .. })) => {
                assert!(http, "{port}");
                assert_eq!((&*uid.0, headless.len()), ("Kubernetes//Pod/app/web", 1), "{port}");
                assert_eq!(&*headless[0].hostname, "web-headless.app.svc.cluster.local");
            }
            other => assert!(!http && other.is_none(), "{port}: {other:?}"),
        }
    }
    assert_eq!(bound(&model, "192.0.2.1:80"), None);
}

#[test]
fn undeclared_ports_are_looked_at_only_where_a_policy_asks() {
    let mut model = model();
    model.upsert_policy(policy());
    for to in [format!("{SERVICE}:84"), format!("{POD}:8084"), format!("{POD}:9999")] {
        assert!(matches!(bound(&model, &to), Some(Binding::Undeclared(_))), "{to}");
    }
    for to in [format!("{SERVICE}:82"), format!("{POD}:8083")] {
        assert_eq!(bound(&model, &to), None, "{to}: declared as something else");
    }
    model.http = Arc::new(HttpSettings { enabled: false, ..HttpSettings::default() });
    assert_eq!(bound(&model, &format!("{SERVICE}:80")), None, "switched off");
}

/// An address of nobody's is looked into only on ports that an entry of HTTP declares, and by the first bytes where others
/// declare it otherwise.
#[test]
fn addresses_of_nobody_are_bound_to_what_requests_say() {
    let mut model = model();
    model.mesh.prefixes = vec!["10.0.0.0/8".parse().expect("a prefix")];
    let entry = |name: &str, host: &str| Service { hostname: host.into(), ..of_ports(name, &[]) };
    model.upsert_service(entry("app/outside", "www.example.com"));
    let mut also = entry("app/also", "db.example.com");
    also.ports.retain(|port| port.service_port == 81);
    also.ports[0].protocol = AppProtocol::Tls;
    model.upsert_service(also);
    let to = |address: &str| {
        bound(&model, address).map(|found| match found {
            Binding::Declared(bound) => (true, bound.to),
            Binding::Undeclared(bound) => (false, bound.to),
        })
    };
    assert_eq!(to("192.0.2.1:80"), Some((true, BoundTo::Outside)));
    assert_eq!(to("192.0.2.1:81"), Some((false, BoundTo::Outside)));
    assert_eq!(to("192.0.2.1:84"), Some((false, BoundTo::Outside)));
    assert_eq!((to("192.0.2.1:82"), to("192.0.2.1:83"), to("192.0.2.1:85"), to("10.9.9.9:80")), (None, None, None, None));

    let snapshot = model.snapshot();
    let source = snapshot.workload(&uid("app/web")).expect("a workload");
    let bound = bind(&snapshot, source, "192.0.2.1:80".parse().expect("an address")).expect("bound").into_bound();
    let named = |snapshot: &Snapshot, host: &str| {
        bound.address(snapshot, source, host).map(|found| found.service.map(|service| service.hostname.to_string()))
    };
    assert_eq!(named(&snapshot, "www.example.com"), Ok(Some("www.example.com".into())));
    assert_eq!(named(&snapshot, "other.example.com"), Ok(None));
    model.mesh.outbound_policy = OutboundPolicy::RegistryOnly;
    let strict = model.snapshot();
    assert_eq!(named(&strict, "www.example.com"), Ok(Some("www.example.com".into())));
    assert_eq!(named(&strict, "other.example.com"), Err(Unaddressed::Refused(Refusal::RegistryOnly)));
}

#[test]
fn a_host_names_a_service_in_the_forms_that_a_resolver_completes() {
    let service = service("app/web", &[], &[]);
    for (host, namespace, expected) in [
        ("web.app.svc.cluster.local", "other", true),
        ("web.app.svc", "other", true),
        ("web.app", "other", true),
        ("web", "app", true),
        ("web", "other", false),
        ("web-0.web.app.svc.cluster.local", "other", true),
        ("a.b.web.app.svc.cluster.local", "other", false),
        ("xweb.app", "app", false),
        ("web.app.svc.cluster.local.evil", "app", false),
    ] {
        assert_eq!(names(host, &service, namespace), expected, "{host} from {namespace}");
    }
}
