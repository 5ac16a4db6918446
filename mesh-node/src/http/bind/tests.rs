use std::collections::BTreeMap;

use mesh_policy::model::{
    Action, Authorization, Clause, Health, HttpSettings, LoadBalancing, Locality, Match, Model, NetworkMode, PolicyKey,
    RequestMatch, Rule, Scope, ServicePort, StringMatch, TrustDomain, TunnelProtocol, VirtualAddress, WorkloadKind,
};

use super::*;

const SERVICE: &str = "10.96.0.1";
const POD: &str = "10.65.0.2";

fn service(name: &str, addresses: &[&str], ports: &[(u16, AppProtocol)]) -> Service {
    Service {
        name: name.into(),
        namespace: "app".into(),
        hostname: format!("{name}.app.svc.cluster.local").into(),
        addresses: addresses.iter().map(|address| VirtualAddress::host(address.parse().expect("an address"))).collect(),
        ports: ports
            .iter()
            .map(|(port, protocol)| ServicePort { service_port: *port, target_port: 8000 + port, protocol: *protocol })
            .collect(),
        subject_alt_names: Vec::new(),
        load_balancing: LoadBalancing::default(),
    }
}

fn pod(behind: &[&Service]) -> Workload {
    let mappings = |service: &Service| {
        service.ports.iter().map(|port| PortMapping { service_port: port.service_port, target_port: port.target_port }).collect()
    };
    Workload {
        uid: WorkloadUid("Kubernetes//Pod/app/web".into()),
        name: "web".into(),
        namespace: "app".into(),
        addresses: vec![POD.parse().expect("an address")],
        hostname: "".into(),
        network: "".into(),
        network_mode: NetworkMode::Standard,
        tunnel: TunnelProtocol::Hbone,
        trust_domain: TrustDomain::default(),
        service_account: "web".into(),
        node: "node-1".into(),
        cluster: "Kubernetes".into(),
        canonical_name: "web".into(),
        canonical_revision: "latest".into(),
        kind: WorkloadKind::Pod,
        workload_name: "web".into(),
        policies: Vec::new(),
        health: Health::Healthy,
        locality: Locality::default(),
        capacity: 1,
        labels: BTreeMap::new(),
        services: behind.iter().map(|service| (service.key(), mappings(service))).collect(),
    }
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

const PORTS: &[(u16, AppProtocol)] = &[
    (80, AppProtocol::Http11),
    (81, AppProtocol::Grpc),
    (82, AppProtocol::Tcp),
    (83, AppProtocol::Tls),
    (84, AppProtocol::Unknown),
];

fn model() -> Model {
    let (with_address, headless) = (service("web", &[SERVICE], PORTS), service("web-headless", &[], PORTS));
    let mut model = Model::default();
    model.upsert_workload(pod(&[&with_address, &headless]));
    model.upsert_service(with_address);
    model.upsert_service(headless);
    model
}

fn bound(model: &Model, to: &str) -> Option<Binding> {
    let snapshot = model.snapshot();
    let source = snapshot.workloads().next().expect("a workload").clone();
    bind(&snapshot, &source, to.parse().expect("an address"))
}

#[test]
fn declared_ports_are_bound_to_what_was_dialled() {
    let model = model();
    for (port, http) in [(80, true), (81, true), (82, false), (83, false), (84, false), (85, false)] {
        let found = bound(&model, &format!("{SERVICE}:{port}"));
        let expected = BoundTo::Service(service("web", &[], &[]).key());
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

#[test]
fn a_host_names_a_service_in_the_forms_that_a_resolver_completes() {
    let service = service("web", &[], &[]);
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
