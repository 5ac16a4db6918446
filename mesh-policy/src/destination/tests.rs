//! One small mesh, one table: what is dialled, and what comes of it in words.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use fastrand::Rng;

use super::{Hop, Plan, plan, plan_named, plan_with};
use crate::{
    balance::Standing,
    fixtures::{Idle, Serves, key, pod, service, uid},
    model::{
        AppProtocol, Balance, Document, Exports, HashAlgorithm, HashKey, Health, HealthPolicy, LoadBalancing, Model, NetworkMode,
        OutboundPolicy, PortMapping, RoutingMode, RoutingScope, ServiceKey, TrafficKey, TrafficPolicy, TrafficRule,
        TunnelProtocol, Workload,
    },
};

#[test]
fn every_address_has_a_plan() {
    let model = mesh();
    for (dialled, expected) in [
        // A pod's own address: that pod, on the port dialled.
        ("10.1.0.2:8080", "same node 10.1.0.2:8080"),
        ("10.1.0.1:9999", "same node 10.1.0.1:9999"),
        ("10.1.1.3:8080", "hbone 10.1.1.3:8080 by 10.1.1.3:15008 as shop/cart"),
        ("10.1.1.4:5432", "direct 10.1.1.4:5432"),
        ("10.1.1.8:80", "hbone 10.1.1.8:80 by 10.1.1.8:15008 as shop/sick"),
        ("[fd00:1::3]:8080", "hbone [fd00:1::3]:8080 by [fd00:1::3]:15008 as shop/cart"),
        ("[::ffff:10.1.1.3]:8080", "hbone 10.1.1.3:8080 by 10.1.1.3:15008 as shop/cart"),
        // A service's address: an endpoint, on its own target port before the service's.
        ("10.96.0.1:80", "shop/cart: hbone 10.1.1.3:8080 by 10.1.1.3:15008 as shop/cart"),
        ("10.96.0.1:81", "shop/cart: hbone 10.1.1.3:9090 by 10.1.1.3:15008 as shop/cart"),
        ("[fd00:96::1]:80", "shop/cart: hbone [fd00:1::3]:8080 by [fd00:1::3]:15008 as shop/cart"),
        ("[::ffff:10.96.0.1]:80", "shop/cart: hbone 10.1.1.3:8080 by 10.1.1.3:15008 as shop/cart"),
        ("10.96.0.1:82", "refused NO_SERVICE_PORT"),
        ("10.96.0.1:8080", "refused NO_SERVICE_PORT"),
        ("10.96.0.2:80", "refused NO_ENDPOINTS"),
        ("10.96.0.3:80", "refused NO_HEALTHY_ENDPOINT"),
        ("10.96.0.4:80", "shop/unready: hbone 10.1.1.8:80 by 10.1.1.8:15008 as shop/sick"),
        ("10.96.0.5:80", "shop/local: same node 10.1.0.2:80"),
        ("10.96.0.6:80", "refused NO_ENDPOINT_IN_SCOPE"),
        ("10.96.0.7:80", "shop/self: same node 10.1.0.1:8080"),
        ("10.96.0.8:9100", "shop/exporter: direct 192.168.0.7:9100"),
        ("10.96.0.9:80", "shop/proven: hbone 10.1.1.3:80 by 10.1.1.3:15008 as shop/cart, bank/teller"),
        ("10.96.0.10:80", "refused NO_ENDPOINTS"),
        ("10.96.0.11:80", "refused NO_ENDPOINTS"),
        ("10.96.0.12:80", "refused NO_ENDPOINTS"),
        // ServiceEntries: by name, by range, to the address dialled.
        ("240.240.0.1:443", "shop/named: look up api.example.com, direct port 443"),
        ("198.51.100.7:443", "passthrough 198.51.100.7:443 for shop/external"),
        ("198.51.100.7:22", "passthrough 198.51.100.7:22 for shop/external"),
        ("203.0.113.9:443", "passthrough 203.0.113.9:443 for shop/range"),
        ("203.0.113.77:443", "hbone 203.0.113.77:443 by 203.0.113.77:15008 as shop/within"),
        ("203.0.113.78:443", "shop/pinned: hbone 203.0.113.78:443 by 203.0.113.78:15008 as shop/exact"),
        ("203.0.113.129:443", "passthrough 203.0.113.129:443 for shop/narrow"),
        // Nobody's: inside the mesh it is waited for, outside it passes.
        ("10.1.7.7:80", "wait UNKNOWN_ADDRESS"),
        ("10.96.7.7:80", "wait UNKNOWN_ADDRESS"),
        ("[::ffff:10.1.7.7]:80", "wait UNKNOWN_ADDRESS"),
        ("1.1.1.1:53", "passthrough 1.1.1.1:53"),
        ("[2001:db8::1]:53", "passthrough [2001:db8::1]:53"),
        ("[::ffff:1.1.1.1]:53", "passthrough 1.1.1.1:53"),
        // A node's address is no pod's, and nothing to wait for.
        ("192.168.0.7:9100", "passthrough 192.168.0.7:9100"),
        // Of another network: not reached by its address.
        ("10.1.9.9:80", "wait UNKNOWN_ADDRESS"),
    ] {
        assert_eq!(words(&model, dialled), expected, "{dialled}");
    }
}

#[test]
fn registry_only_refuses_what_the_mesh_does_not_name() {
    let mut model = mesh();
    model.mesh.outbound_policy = OutboundPolicy::RegistryOnly;
    for (dialled, expected) in [
        ("1.1.1.1:53", "refused REGISTRY_ONLY"),
        ("192.168.0.7:9100", "refused REGISTRY_ONLY"),
        ("10.1.7.7:80", "wait UNKNOWN_ADDRESS"),
        ("198.51.100.7:443", "passthrough 198.51.100.7:443 for shop/external"),
        ("10.1.0.2:8080", "same node 10.1.0.2:8080"),
        ("10.96.0.1:80", "shop/cart: hbone 10.1.1.3:8080 by 10.1.1.3:15008 as shop/cart"),
        ("10.96.0.8:9100", "shop/exporter: direct 192.168.0.7:9100"),
    ] {
        assert_eq!(words(&model, dialled), expected, "{dialled}");
    }
}

/// Addresses that nobody has, on ports that entries declare.
#[test]
fn a_connection_to_nobody_is_planned_by_what_it_says() {
    let mut model = mesh();
    let entry = |name: &str, hostname: &str, port: u16, protocol| {
        let mut entry = service(name, &[], &[(port, port)]);
        (entry.hostname, entry.ports[0].protocol) = (hostname.into(), protocol);
        entry
    };
    let mut passing = entry("shop/passing", "*.example.com", 443, AppProtocol::Tls);
    passing.load_balancing.mode = RoutingMode::Passthrough;
    model.upsert_service(passing);
    model.upsert_service(entry("shop/fixed", "fixed.example.com", 443, AppProtocol::Tls));
    model.upsert_service(entry("shop/lines", "lines.example.com", 5432, AppProtocol::Tcp));
    model.upsert_service(entry("shop/empty-lines", "empty.example.com", 5433, AppProtocol::Tcp));
    let outside = |name: &str, host: &str, port: u16| {
        let mut outside = Workload { tunnel: TunnelProtocol::None, ..pod(name, &["203.0.113.200"]) };
        let key = ServiceKey { namespace: "shop".into(), hostname: host.into() };
        outside.services.insert(key, vec![PortMapping { service_port: port, target_port: port }]);
        outside
    };
    model.upsert_workload(outside("shop/vm-1", "fixed.example.com", 443));
    model.upsert_workload(outside("shop/vm-2", "lines.example.com", 5432));
    let by_name = |model: &Model, dialled: &str, name: Option<&str>| {
        let snapshot = model.snapshot();
        let source = snapshot.workload(&uid("shop/page")).expect("the source is there");
        let dialled = dialled.parse().expect("an address and a port");
        plan_words(plan_named(&snapshot, source, dialled, name, &|_, _, _| Standing::default()))
    };
    assert_eq!(words(&model, "192.0.2.1:443"), "by name 192.0.2.1:443");
    assert_eq!(words(&model, "10.1.7.7:443"), "wait UNKNOWN_ADDRESS");
    assert_eq!(by_name(&model, "192.0.2.1:443", Some("a.example.com")), "passthrough 192.0.2.1:443 for shop/passing");
    assert_eq!(by_name(&model, "192.0.2.1:443", Some("fixed.example.com")), "shop/fixed: direct 203.0.113.200:443");
    assert_eq!(by_name(&model, "192.0.2.1:443", Some("example.org")), "passthrough 192.0.2.1:443");
    assert_eq!(by_name(&model, "192.0.2.1:443", None), "passthrough 192.0.2.1:443");
    assert_eq!(words(&model, "192.0.2.1:5432"), "shop/lines: direct 203.0.113.200:5432");
    assert_eq!(words(&model, "192.0.2.1:5433"), "refused NO_ENDPOINTS");
    model.mesh.outbound_policy = OutboundPolicy::RegistryOnly;
    assert_eq!(words(&model, "192.0.2.1:443"), "by name 192.0.2.1:443");
    assert_eq!(by_name(&model, "192.0.2.1:443", Some("example.org")), "refused REGISTRY_ONLY");
    assert_eq!(by_name(&model, "192.0.2.1:443", None), "refused REGISTRY_ONLY");
    assert_eq!(by_name(&model, "192.0.2.1:443", Some("a.example.com")), "passthrough 192.0.2.1:443 for shop/passing");
    assert_eq!(words(&model, "192.0.2.1:5432"), "shop/lines: direct 203.0.113.200:5432");
    assert_eq!(words(&model, "192.0.2.1:22"), "refused REGISTRY_ONLY");
}

/// A ServiceEntry that is exported to others only is not there.
#[test]
fn what_is_not_exported_to_the_client_is_nobodys() {
    let mut model = mesh();
    for (name, address) in [("shop/external", "198.51.100.7"), ("shop/range", "203.0.113.0/24")] {
        let mut private = service(name, &[address], &[(443, 443)]);
        private.load_balancing.mode = RoutingMode::Passthrough;
        private.exports = Exports::To(["bank".into()].into());
        model.upsert_service(private);
    }
    assert_eq!(words(&model, "198.51.100.7:443"), "passthrough 198.51.100.7:443");
    assert_eq!(words(&model, "203.0.113.9:443"), "passthrough 203.0.113.9:443");
    model.mesh.outbound_policy = OutboundPolicy::RegistryOnly;
    assert_eq!(words(&model, "198.51.100.7:443"), "refused REGISTRY_ONLY");
    assert_eq!(words(&model, "203.0.113.9:443"), "refused REGISTRY_ONLY");
}

#[test]
fn a_pod_captured_here_needs_no_tunnel_whatever_the_controller_knows_yet() {
    let mut model = mesh();
    model.upsert_workload(Workload { tunnel: TunnelProtocol::None, ..pod("shop/here", &["10.1.0.2"]) });
    assert_eq!(words(&model, "10.1.0.2:8080"), "same node 10.1.0.2:8080");
}

#[test]
fn without_a_tunnel_at_the_far_end_the_connection_is_plain() {
    let mut model = mesh();
    let cart = Workload { tunnel: TunnelProtocol::None, ..pod("shop/cart", &["10.1.1.3"]) }.serves("shop/cart", &[]);
    model.upsert_workload(cart);
    assert_eq!(words(&model, "10.96.0.1:80"), "shop/cart: direct 10.1.1.3:8080");
}

#[test]
fn the_next_endpoint_is_another_one_and_tries_are_bounded() {
    let mut model = Model::default();
    model.upsert_workload(pod("shop/page", &["10.1.0.1"]));
    model.upsert_service(service("shop/many", &["10.96.0.1"], &[(80, 8080)]));
    for (count, expected) in [(1, 1), (2, 2), (3, 3), (4, 3), (40, 3)] {
        for at in 0..count {
            model.upsert_workload(pod(&format!("shop/many-{at}"), &[&format!("10.2.0.{at}")]).serves("shop/many", &[]));
        }
        let Plan::Connect(mut candidates) = plan_of(&model, "10.96.0.1:80") else { panic!("the service is there") };
        let mut rng = Rng::with_seed(count);
        let mut hops: Vec<_> = std::iter::from_fn(|| candidates.next_hop(&|_| false, &Idle, &mut rng)).collect();
        assert_eq!(hops.len(), expected, "{count} endpoints");
        hops.sort_by_key(|hop| hop.workload().expect("a workload").uid.clone());
        hops.dedup();
        assert_eq!(hops.len(), expected, "{count} endpoints, one came twice");
    }
}

#[test]
fn a_pod_dialled_itself_is_tried_once() {
    let Plan::Connect(mut candidates) = plan_of(&mesh(), "10.1.1.3:8080") else { panic!("the pod is there") };
    assert!(candidates.next_hop(&|_| false, &Idle, &mut Rng::with_seed(1)).is_some());
    assert_eq!(candidates.next_hop(&|_| false, &Idle, &mut Rng::with_seed(1)), None);
}

/// A connection that is not HTTP is balanced as the DestinationRule of the client's namespace says, too.
#[test]
fn connections_follow_destination_rules_and_what_the_client_has_seen() {
    let mut model = Model::default();
    model.upsert_workload(pod("shop/front", &["10.1.0.1"]));
    model.upsert_service(service("shop/many", &["10.96.0.1"], &[(80, 8080)]));
    for at in 1..9 {
        model.upsert_workload(pod(&format!("shop/m-{at}"), &[&format!("10.1.1.{at}")]).serves("shop/many", &[]));
    }
    let firsts = |model: &Model, out: &[&str]| {
        let snapshot = model.snapshot();
        let source = snapshot.workload(&uid("shop/front")).expect("it is there");
        let dialled = "10.96.0.1:80".parse().expect("an address");
        let out: HashSet<_> = out.iter().map(|name| uid(name)).collect();
        let standing = Standing { out: (!out.is_empty()).then(|| Arc::new(out)), ..Standing::default() };
        let first = |seed| match plan_with(&snapshot, source, dialled, &|_, _, _| standing.clone()) {
            Plan::Connect(mut candidates) => {
                let hop = candidates.next_hop(&|_| false, &Idle, &mut Rng::with_seed(seed)).expect("one");
                let workload = hop.workload().expect("a workload");
                format!("{}/{}", workload.namespace, workload.name)
            }
            other => format!("{other:?}"),
        };
        (0..50).map(first).collect::<BTreeSet<_>>()
    };
    let all = firsts(&model, &[]);
    assert_eq!(all.len(), 8);
    assert!(!firsts(&model, &["shop/m-1"]).contains("shop/m-1"));
    let algorithm = HashAlgorithm::RingHash { minimum_size: 1024 };
    let sticky = TrafficPolicy { balance: Balance::Hash { key: HashKey::SourceAddress, algorithm }, ..TrafficPolicy::default() };
    let rule = |consumer: Option<&str>| TrafficRule {
        key: TrafficKey { service: key("shop/many"), consumer: consumer.map(Arc::from) },
        origin: "shop/sticky".into(),
        policy: Arc::new(sticky.clone()),
        ports: BTreeMap::new(),
        subsets: BTreeMap::new(),
    };
    model.upsert_document(Document::Traffic(Box::new(rule(Some("bank")))));
    assert_eq!(firsts(&model, &[]).len(), 8, "another namespace's");
    model.upsert_document(Document::Traffic(Box::new(rule(None))));
    let own = firsts(&model, &[]);
    assert_eq!(own.len(), 1, "a client keeps its endpoint: {own:?}");
    let own = own.first().expect("one").as_str();
    assert_ne!(firsts(&model, &[own]).first().map(String::as_str), Some(own), "until that is ejected");
}

/// Node 1 holds shop/page (the source) and shop/here; node 2 the others.
fn mesh() -> Model {
    let mut model = Model::default();
    model.mesh.prefixes = ["10.1.0.0/16", "10.96.0.0/16", "192.168.0.0/24"].map(|text| text.parse().expect("a prefix")).into();

    let far = |workload: Workload| Workload { node: "node2".into(), ..workload };
    let sick = Workload { health: Health::Unhealthy, ..far(pod("shop/sick", &["10.1.1.8"])) };
    let nameless = Workload { tunnel: TunnelProtocol::None, ..far(pod("shop/nameless", &[])) };
    let exporter = Workload {
        network_mode: NetworkMode::HostNetwork,
        tunnel: TunnelProtocol::None,
        ..far(pod("shop/exporter", &["192.168.0.7"]))
    };
    let by_name = Workload { hostname: "api.example.com".into(), ..nameless.clone() };
    for workload in [
        pod("shop/page", &["10.1.0.1"]).serves("shop/self", &[]),
        pod("shop/here", &["10.1.0.2"]).serves("shop/local", &[]),
        far(pod("shop/cart", &["10.1.1.3", "fd00:1::3"])).serves("shop/cart", &[(81, 9090)]).serves("shop/proven", &[]),
        Workload { tunnel: TunnelProtocol::None, ..far(pod("shop/plain", &["10.1.1.4"])) },
        far(pod("shop/there", &["10.1.1.5"])).serves("shop/local", &[]).serves("shop/strict", &[]),
        sick.serves("shop/sick", &[]).serves("shop/unready", &[]),
        nameless.serves("shop/nameless", &[]),
        Workload { uid: uid("shop/by-name"), ..by_name }.serves("shop/named", &[]),
        exporter.serves("shop/exporter", &[]),
        Workload { network: "west".into(), ..far(pod("shop/west", &["10.1.9.9"])) }.serves("shop/west", &[]),
        far(pod("shop/within", &["203.0.113.77"])),
        far(pod("shop/exact", &["203.0.113.78"])).serves("shop/pinned", &[]),
        // Serves another port than the one asked for, whose target every endpoint names itself.
        far(pod("shop/other-port", &["10.1.1.9"])).serves("shop/by-endpoint", &[(81, 8081)]),
    ] {
        model.upsert_workload(workload);
    }

    let strict = |mode| LoadBalancing { mode, preference: vec![RoutingScope::Node], ..LoadBalancing::default() };
    let mut unready = service("shop/unready", &["10.96.0.4"], &[(80, 80)]);
    unready.load_balancing.health = HealthPolicy::AllowAll;
    let mut local = service("shop/local", &["10.96.0.5"], &[(80, 80)]);
    local.load_balancing = strict(RoutingMode::Failover);
    let mut nowhere = service("shop/strict", &["10.96.0.6"], &[(80, 80)]);
    nowhere.load_balancing = strict(RoutingMode::Strict);
    let mut proven = service("shop/proven", &["10.96.0.9"], &[(80, 80)]);
    proven.subject_alt_names = vec!["spiffe://cluster.local/ns/bank/sa/teller".into(), "not.an.identity".into()];
    for service in [
        service("shop/cart", &["10.96.0.1", "fd00:96::1"], &[(80, 8080), (81, 8081)]),
        service("shop/empty", &["10.96.0.2"], &[(80, 80)]),
        service("shop/sick", &["10.96.0.3"], &[(80, 80)]),
        unready,
        local,
        nowhere,
        service("shop/self", &["10.96.0.7"], &[(80, 8080)]),
        service("shop/exporter", &["10.96.0.8"], &[(9100, 9100)]),
        proven,
        service("shop/by-endpoint", &["10.96.0.10"], &[(80, 0), (81, 0)]),
        service("shop/west", &["10.96.0.11"], &[(80, 80)]),
        service("shop/nameless", &["10.96.0.12"], &[(80, 80)]),
        service("shop/named", &["240.240.0.1"], &[(443, 443)]),
        service("shop/pinned", &["203.0.113.78"], &[(443, 443)]),
    ] {
        model.upsert_service(service);
    }
    for (name, address) in
        [("shop/external", "198.51.100.7"), ("shop/range", "203.0.113.0/24"), ("shop/narrow", "203.0.113.128/25")]
    {
        let mut passing = service(name, &[address], &[(443, 443)]);
        passing.load_balancing.mode = RoutingMode::Passthrough;
        model.upsert_service(passing);
    }
    model
}

fn plan_of(model: &Model, dialled: &str) -> Plan {
    let snapshot = model.snapshot();
    let source = snapshot.workload(&uid("shop/page")).expect("the source is there");
    let dialled: SocketAddr = dialled.parse().expect("an address and a port");
    plan(&snapshot, source, dialled)
}

/// The plan, and its first hop, in words.
fn words(model: &Model, dialled: &str) -> String {
    plan_words(plan_of(model, dialled))
}

fn plan_words(plan: Plan) -> String {
    let is_local = |workload: &_| [uid("shop/page"), uid("shop/here")].contains(workload);
    match plan {
        Plan::Passthrough { address, service: None } => format!("passthrough {address}"),
        Plan::Passthrough { address, service: Some(service) } => {
            format!("passthrough {address} for {}/{}", service.namespace, service.name)
        }
        Plan::Wait { refusal } => format!("wait {refusal}"),
        Plan::Unnamed { address } => format!("by name {address}"),
        Plan::Refused { refusal, .. } => format!("refused {refusal}"),
        Plan::Connect(mut candidates) => {
            let hop = candidates.next_hop(&is_local, &Idle, &mut Rng::with_seed(7)).expect("a plan has a first hop");
            let hop = hop_words(&hop);
            candidates.service().map_or_else(|| hop.clone(), |service| format!("{}/{}: {hop}", service.namespace, service.name))
        }
    }
}

fn hop_words(hop: &Hop) -> String {
    match hop {
        Hop::Direct { address, .. } => format!("direct {address}"),
        Hop::Outside { address } => format!("outside {address}"),
        Hop::DirectByName { hostname, port, .. } => format!("look up {hostname}, direct port {port}"),
        Hop::SameNode { address, .. } => format!("same node {address}"),
        Hop::Hbone { address, gateway, expected, .. } => {
            let expected: Vec<_> = expected.iter().map(|id| format!("{}/{}", id.namespace, id.service_account)).collect();
            format!("hbone {address} by {gateway} as {}", expected.join(", "))
        }
    }
}
