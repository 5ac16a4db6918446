use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use ipnet::IpNet;
use mesh_policy::model::*;
use proptest::{collection::vec, option, prelude::*, sample::select};
use prost::Message;

use super::*;
use crate::{authorization as rbac, mesh as mesh_wire, workload as wire};

// Values that the model can hold. IPv4 written as IPv6 is not among them: it arrives as IPv4.

fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-z][a-z0-9.-]{0,12}".prop_map(Into::into)
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(|octets| IpAddr::from(octets).to_canonical())]
}

fn net() -> impl Strategy<Value = IpNet> {
    (ip(), 0_u8..=128)
        .prop_map(|(address, length)| IpNet::new(address, length % (IpNet::from(address).max_prefix_len() + 1)).unwrap())
}

fn trust_domain() -> impl Strategy<Value = TrustDomain> {
    "[a-z0-9._-]{1,20}".prop_map(|name| TrustDomain::new(&name).unwrap())
}

fn service_key() -> impl Strategy<Value = ServiceKey> {
    (text(), text()).prop_map(|(namespace, hostname)| ServiceKey { namespace, hostname })
}

fn policy_key() -> impl Strategy<Value = PolicyKey> {
    (text(), text()).prop_map(|(namespace, name)| PolicyKey { namespace, name })
}

fn workload() -> impl Strategy<Value = Workload> {
    let names = vec(text(), 12);
    let mapping = (1_u16.., any::<u16>()).prop_map(|(service_port, target_port)| PortMapping { service_port, target_port });
    let enums = (
        select(vec![NetworkMode::Standard, NetworkMode::HostNetwork]),
        select(vec![TunnelProtocol::None, TunnelProtocol::Hbone]),
        select(vec![WorkloadKind::Deployment, WorkloadKind::CronJob, WorkloadKind::Pod, WorkloadKind::Job]),
        select(vec![Health::Healthy, Health::Unhealthy]),
    );
    let services = proptest::collection::btree_map(service_key(), vec(mapping, 0..3), 0..3);
    (names, vec(ip(), 0..3), enums, trust_domain(), vec(policy_key(), 0..3), services, 1_u32..).prop_map(
        |(names, addresses, (network_mode, tunnel, kind, health), trust_domain, policies, services, capacity)| Workload {
            uid: WorkloadUid(names[0].clone()),
            name: names[1].clone(),
            namespace: names[2].clone(),
            addresses,
            hostname: names[3].clone(),
            network: names[4].clone(),
            network_mode,
            tunnel,
            trust_domain,
            service_account: names[5].clone(),
            node: names[6].clone(),
            cluster: names[7].clone(),
            canonical_name: names[8].clone(),
            canonical_revision: names[9].clone(),
            kind,
            workload_name: names[10].clone(),
            policies,
            health,
            locality: Locality { region: names[11].clone(), zone: "".into(), subzone: names[0].clone() },
            capacity,
            labels: [("version".into(), "v1".into())].into(),
            services,
        },
    )
}

fn service() -> impl Strategy<Value = Service> {
    let protocol = select(vec![
        AppProtocol::Unknown,
        AppProtocol::Http11,
        AppProtocol::Http2,
        AppProtocol::Grpc,
        AppProtocol::Tcp,
        AppProtocol::Tls,
    ]);
    let port = (1_u16.., any::<u16>(), protocol).prop_map(|(service_port, target_port, protocol)| ServicePort {
        service_port,
        target_port,
        protocol,
    });
    let address =
        (option::of(text()), net()).prop_map(|(network, range)| VirtualAddress { network: network.unwrap_or_default(), range });
    let scopes = vec![
        RoutingScope::Network,
        RoutingScope::Region,
        RoutingScope::Zone,
        RoutingScope::Subzone,
        RoutingScope::Node,
        RoutingScope::Cluster,
    ];
    let modes = vec![RoutingMode::Unspecified, RoutingMode::Strict, RoutingMode::Failover, RoutingMode::Passthrough];
    let balancing = (select(modes), vec(select(scopes), 0..4), select(vec![HealthPolicy::OnlyHealthy, HealthPolicy::AllowAll]))
        .prop_map(|(mode, preference, health)| LoadBalancing { mode, preference, health });
    let exports = prop_oneof![
        Just(Exports::Everywhere),
        vec(text(), 0..3).prop_map(|namespaces| Exports::To(namespaces.into_iter().collect())),
    ];
    (vec(text(), 3), vec(address, 0..3), vec(port, 0..3), vec(text(), 0..2), balancing, exports).prop_map(
        |(names, addresses, ports, subject_alt_names, load_balancing, exports)| Service {
            name: names[0].clone(),
            namespace: names[1].clone(),
            hostname: names[2].clone(),
            addresses,
            ports,
            subject_alt_names,
            load_balancing,
            exports,
        },
    )
}

fn attributes() -> impl Strategy<Value = Match> {
    let string = || {
        vec(
            prop_oneof![
                text().prop_map(StringMatch::Exact),
                text().prop_map(StringMatch::Prefix),
                text().prop_map(StringMatch::Suffix),
                Just(StringMatch::Presence)
            ],
            0..2,
        )
    };
    let account = || vec((text(), text()).prop_map(|(namespace, name)| ServiceAccountMatch { namespace, name }), 0..2);
    let nets = || vec(net().prop_map(IpMatch), 0..2);
    let ports = || vec(any::<u16>(), 0..2);
    let sources = (string(), string(), account(), account(), string(), string());
    let addresses = (nets(), nets(), nets(), nets(), ports(), vec(any::<u16>(), 1..2));
    (sources, addresses).prop_map(|(s, a)| Match {
        namespaces: s.0,
        not_namespaces: s.1,
        service_accounts: s.2,
        not_service_accounts: s.3,
        principals: s.4,
        not_principals: s.5,
        source_ips: a.0,
        not_source_ips: a.1,
        destination_ips: a.2,
        not_destination_ips: a.3,
        destination_ports: a.4,
        not_destination_ports: a.5,
        request: RequestMatch { methods: vec![StringMatch::Exact("GET".into())], ..RequestMatch::default() },
    })
}

fn policy() -> impl Strategy<Value = Authorization> {
    let clause = vec(attributes(), 0..3).prop_map(|matches| Clause { matches });
    let rule = vec(clause, 0..3).prop_map(|clauses| Rule { clauses });
    let scope = select(vec![Scope::Global, Scope::Namespace, Scope::Workload]);
    (policy_key(), scope, select(vec![Action::Allow, Action::Deny]), any::<bool>(), vec(rule, 0..3))
        .prop_map(|(key, scope, action, dry_run, rules)| Authorization { key, scope, action, dry_run, rules })
}

fn mesh() -> impl Strategy<Value = Mesh> {
    let outbound = select(vec![OutboundPolicy::AllowAny, OutboundPolicy::RegistryOnly]);
    (trust_domain(), vec(trust_domain(), 0..3), outbound, vec(net(), 0..4), 1_u64..).prop_map(
        |(trust_domain, trust_domain_aliases, outbound_policy, prefixes, hbone_idle_timeout_s)| Mesh {
            trust_domain,
            trust_domain_aliases,
            outbound_policy,
            prefixes,
            hbone_idle_timeout_s,
        },
    )
}

/// To the wire, through its bytes, and back.
fn over_the_wire<W: Message + Default>(sent: &W) -> W {
    W::decode(Bytes::from(sent.encode_to_vec())).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn a_workload_survives_the_wire(sent in workload()) {
        let got = AddressResource::try_from(over_the_wire(&wire::Address::from(&sent)));
        prop_assert_eq!(got, Ok(AddressResource::Workload(Box::new(sent))));
    }

    #[test]
    fn a_service_survives_the_wire(sent in service()) {
        let got = AddressResource::try_from(over_the_wire(&wire::Address::from(&sent)));
        prop_assert_eq!(got, Ok(AddressResource::Service(Box::new(sent))));
    }

    #[test]
    fn a_policy_survives_the_wire(sent in policy()) {
        let got = Authorization::try_from(over_the_wire(&rbac::Authorization::from(&sent)));
        prop_assert_eq!(got, Ok(sent));
    }

    #[test]
    fn a_mesh_survives_the_wire(sent in mesh()) {
        let got = Mesh::try_from(over_the_wire(&mesh_wire::Mesh::from(&sent)));
        prop_assert_eq!(got, Ok(sent));
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = wire::Address::decode(bytes.as_slice()).map(AddressResource::try_from);
        let _ = rbac::Authorization::decode(bytes.as_slice()).map(Authorization::try_from);
        let _ = mesh_wire::Mesh::decode(bytes.as_slice()).map(Mesh::try_from);
    }
}

fn a_workload() -> wire::Workload {
    wire::Workload { uid: "Kubernetes//Pod/shop/page".into(), ..wire::Workload::default() }
}

fn a_service() -> wire::Service {
    wire::Service { namespace: "shop".into(), hostname: "page.shop.svc.cluster.local".into(), ..wire::Service::default() }
}

fn a_policy(matches: Vec<rbac::Match>) -> rbac::Authorization {
    rbac::Authorization {
        name: "p".into(),
        namespace: "shop".into(),
        rules: vec![rbac::Rule { clauses: vec![rbac::Clause { matches }] }],
        ..rbac::Authorization::default()
    }
}

fn port_match(port: u32) -> rbac::Match {
    rbac::Match { destination_ports: vec![port], ..rbac::Match::default() }
}

#[test]
fn elided_fields_of_a_workload_have_their_defaults() {
    let got = Workload::try_from(a_workload()).unwrap();
    assert_eq!(got.identity().to_string(), "spiffe://cluster.local/ns//sa/default");
    assert_eq!((got.capacity, got.tunnel, got.health), (1, TunnelProtocol::None, Health::Healthy));
}

#[test]
fn a_workload_that_is_not_understood_is_refused_by_field() {
    let check = |expected: &str, change: fn(&mut wire::Workload)| {
        let mut workload = a_workload();
        change(&mut workload);
        assert_eq!(Workload::try_from(workload).unwrap_err().field, expected);
    };
    check("uid", |w| w.uid.clear());
    check("addresses[1]", |w| w.addresses = vec![Bytes::from_static(&[1; 4]), Bytes::from_static(&[1; 5])]);
    check("addresses[0]", |w| w.addresses = vec![Bytes::new()]);
    check("tunnel_protocol", |w| w.tunnel_protocol = 3);
    check("tunnel_protocol", |w| w.tunnel_protocol = wire::TunnelProtocol::LegacyIstioMtls as i32);
    check("workload_type", |w| w.workload_type = -1);
    check("status", |w| w.status = 2);
    check("network_mode", |w| w.network_mode = 7);
    check("trust_domain", |w| w.trust_domain = "Upper".into());
    check("capacity", |w| w.capacity = Some(0));
    check("waypoint", |w| w.waypoint = Some(wire::GatewayAddress::default()));
    check("network_gateway", |w| w.network_gateway = Some(wire::GatewayAddress::default()));
    check("application_tunnel", |w| w.application_tunnel = Some(wire::ApplicationTunnel { protocol: 1, port: 1 }));
    check("authorization_policies[0]", |w| w.authorization_policies = vec!["nameonly".into()]);
    check("services[\"shop/\"]", |w| drop(w.services.insert("shop/".into(), wire::PortList::default())));
    check("services[\"a/b\"]", |w| {
        let port = wire::Port { service_port: 70_000, ..wire::Port::default() };
        w.services.insert("a/b".into(), wire::PortList { ports: vec![port] });
    });
}

#[test]
fn a_service_that_is_not_understood_is_refused_by_field() {
    let check = |expected: &str, change: fn(&mut wire::Service)| {
        let mut service = a_service();
        change(&mut service);
        let error = Service::try_from(service).unwrap_err();
        assert_eq!(error.field, expected);
    };
    check("hostname", |s| s.hostname.clear());
    check("namespace", |s| s.namespace.clear());
    check("waypoint", |s| s.waypoint = Some(wire::GatewayAddress::default()));
    check("weighted_waypoints", |s| s.weighted_waypoints = vec![wire::WeightedWaypoint::default()]);
    check("ports[0]", |s| s.ports = vec![wire::Port::default()]);
    check("ports[0]", |s| s.ports = vec![wire::Port { service_port: 80, target_port: 65_536, app_protocol: 0 }]);
    check("ports[0]", |s| s.ports = vec![wire::Port { service_port: 80, target_port: 80, app_protocol: 6 }]);
    check("load_balancing", |s| s.load_balancing = Some(wire::LoadBalancing { mode: 9, ..Default::default() }));
    check("load_balancing", |s| {
        s.load_balancing = Some(wire::LoadBalancing { routing_preference: vec![0], ..Default::default() });
    });
    check("addresses[0]", |s| {
        let address = Bytes::from_static(&[10, 0, 0, 1]);
        s.addresses = vec![wire::NetworkAddress { address, length: Some(33), ..Default::default() }];
    });
}

#[test]
fn a_policy_that_is_not_understood_is_refused_by_field() {
    let check = |expected: &str, attributes: rbac::Match| {
        let error = Authorization::try_from(a_policy(vec![port_match(1), attributes])).unwrap_err();
        assert_eq!(error.field, format!("rules[0].clauses[0].matches[1].{expected}"));
        assert_eq!(error.resource, "Authorization shop/p");
    };
    let empty = rbac::Match::default;
    check("destination_ports[0]", port_match(65_536));
    check("principals[0]", rbac::Match { principals: vec![rbac::StringMatch { match_type: None }], ..empty() });
    check("not_service_accounts[0]", rbac::Match { not_service_accounts: vec![rbac::ServiceAccountMatch::default()], ..empty() });
    check("not_source_ips[0]", rbac::Match { not_source_ips: vec![rbac::Address::default()], ..empty() });
    let wide = rbac::Address { address: Bytes::from_static(&[0; 16]), length: 129 };
    check("source_ips[0]", rbac::Match { source_ips: vec![wide], ..empty() });
    check("extensions", rbac::Match { extensions: vec![wire::Extension::default()], ..empty() });

    for (field, change) in [("scope", true), ("action", false)] {
        let mut policy = a_policy(vec![port_match(1)]);
        *(if change { &mut policy.scope } else { &mut policy.action }) = 3;
        assert_eq!(Authorization::try_from(policy).unwrap_err().field, field);
    }
}

#[test]
fn empty_clauses_and_matches_keep_the_meaning_that_they_have_on_the_wire() {
    let rules_of = |matches| Authorization::try_from(a_policy(matches)).unwrap().rules;
    let rule = |matches| [Rule { clauses: vec![Clause { matches }] }];
    // A clause without matches always holds, in the model too.
    assert_eq!(rules_of(vec![]), rule(vec![]));
    // A match without attributes never holds: dropping it would leave a clause that always does.
    assert_eq!(rules_of(vec![rbac::Match::default()]), rule(vec![Match::default()]));
    let port = Match { destination_ports: vec![1], ..Match::default() };
    assert_eq!(rules_of(vec![rbac::Match::default(), port_match(1)]), rule(vec![Match::default(), port]));
}

#[test]
fn ipv4_written_as_ipv6_is_ipv4() {
    let mapped =
        |length| rbac::Address { address: Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 1, 0, 0]), length };
    let policy = |length| a_policy(vec![rbac::Match { source_ips: vec![mapped(length)], ..rbac::Match::default() }]);
    let got = Authorization::try_from(policy(112)).unwrap();
    assert_eq!(got.rules[0].clauses[0].matches[0].source_ips, [IpMatch("10.1.0.0/16".parse().unwrap())]);
    assert!(Authorization::try_from(policy(64)).is_err());
}

#[test]
fn aliases_name_single_addresses_of_the_network() {
    let mut workload = Workload::try_from(a_workload()).unwrap();
    workload.addresses = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    assert_eq!(workload_aliases(&workload), ["/10.0.0.1", "/fd00::1"]);
    workload.network_mode = NetworkMode::HostNetwork;
    assert_eq!(workload_aliases(&workload), Vec::<String>::new());

    let mut service = Service::try_from(a_service()).unwrap();
    let range = VirtualAddress { network: "east".into(), range: "10.2.0.0/16".parse().unwrap() };
    service.addresses = vec![VirtualAddress::host("10.96.0.1".parse().unwrap()), range];
    assert_eq!(service_aliases(&service), ["/10.96.0.1"]);
}
