//! One table: entries on ports, and what the words of a connection to nobody's address mean there.

use std::sync::Arc;

use super::{Asked, asked, by_host, by_name, by_port, by_server_name, is_outside};
use crate::{
    fixtures::{address, pod, service, uid},
    model::{AppProtocol, Exports, Model, Service, Snapshot, Workload},
};

/// A ServiceEntry; `name` is `namespace/name`.
fn entry(name: &str, hostname: &str, addresses: &[&str], ports: &[(u16, AppProtocol)]) -> Service {
    let mut entry = service(name, addresses, &ports.iter().map(|(port, _)| (*port, *port)).collect::<Vec<_>>());
    entry.hostname = hostname.into();
    for (port, (_, protocol)) in entry.ports.iter_mut().zip(ports) {
        port.protocol = *protocol;
    }
    entry
}

fn mesh() -> Model {
    use AppProtocol::{Http2, Http11, Tcp, Tls, Unknown};
    let mut model = Model::default();
    model.mesh.prefixes = ["10.1.0.0/16", "10.96.0.0/16"].map(|text| text.parse().expect("a prefix")).into();
    for workload in [pod("shop/page", &["10.1.0.1"]), pod("bank/teller", &["10.1.0.2"])] {
        model.upsert_workload(workload);
    }
    let private = Exports::To([Arc::from("bank")].into());
    for one in [
        entry("shop/a", "www.example.com", &[], &[(80, Http11), (443, Tls)]),
        entry("shop/b", "*.example.com", &[], &[(80, Http2), (443, Tls)]),
        entry("shop/c", "*.deep.example.com", &["198.51.100.1"], &[(80, Http11), (443, Tls)]),
        entry("shop/d", "db.example.net", &[], &[(5432, Tcp), (8443, Http11), (9000, Tls), (9001, Unknown)]),
        entry("bank/d", "db.bank.example", &[], &[(5432, Tcp), (9000, Tcp)]),
        entry("shop/e", "mq.example.net", &["198.51.100.2"], &[(5672, Tcp)]),
        Service { exports: private, ..entry("bank/f", "vault.example.org", &["198.51.100.3"], &[(80, Http11), (7000, Tcp)]) },
        // Both say it: the client's own namespace counts, then the first.
        entry("bank/g", "both.example.org", &[], &[(80, Http11)]),
        entry("shop/g", "both.example.org", &[], &[(80, Http11)]),
        service("shop/cart", &["10.96.0.1"], &[(80, 8080)]),
    ] {
        model.upsert_service(one);
    }
    model
}

fn client<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Workload {
    snapshot.workload(&uid(name)).expect("it is there")
}

fn word(found: Option<&Arc<Service>>) -> String {
    found.map_or_else(|| "-".into(), |entry| format!("{}/{}", entry.namespace, entry.name))
}

#[test]
fn hosts_name_entries() {
    let snapshot = mesh().snapshot();
    for (who, port, host, expected) in [
        ("shop/page", 80, "www.example.com", "shop/a"),
        ("shop/page", 80, "api.example.com", "shop/b"),
        ("shop/page", 80, "a.b.example.com", "shop/b"),
        ("shop/page", 80, "x.deep.example.com", "shop/c"),
        ("shop/page", 80, "deep.example.com", "shop/b"),
        ("shop/page", 80, "example.com", "-"),
        ("shop/page", 80, ".example.com", "-"),
        ("shop/page", 80, "wwwwexample.com", "-"),
        ("shop/page", 80, "www.example.com.evil.org", "-"),
        // Another port, and one that is not HTTP's.
        ("shop/page", 81, "www.example.com", "-"),
        ("shop/page", 443, "www.example.com", "-"),
        ("shop/page", 8443, "db.example.net", "shop/d"),
        ("shop/page", 9001, "db.example.net", "shop/d"),
        // Exported to bank alone.
        ("shop/page", 80, "vault.example.org", "-"),
        ("bank/teller", 80, "vault.example.org", "bank/f"),
        ("shop/page", 80, "both.example.org", "shop/g"),
        ("bank/teller", 80, "both.example.org", "bank/g"),
        // A service of Kubernetes is asked for by its address.
        ("shop/page", 80, "cart.shop.svc.cluster.local", "-"),
    ] {
        let found = by_host(&snapshot, client(&snapshot, who), port, host);
        assert_eq!(word(found), expected, "{who} to {host}:{port}");
    }
}

#[test]
fn server_names_and_ports_name_entries() {
    let snapshot = mesh().snapshot();
    for (port, name, expected) in [
        (443, "www.example.com", "shop/a"),
        (443, "WWW.Example.Com.", "shop/a"),
        (443, "api.example.com", "shop/b"),
        (80, "www.example.com", "-"),
        (443, "example.org", "-"),
        (9000, "db.example.net", "shop/d"),
        (9001, "db.example.net", "shop/d"),
    ] {
        assert_eq!(word(by_server_name(&snapshot, client(&snapshot, "shop/page"), port, name)), expected, "{name}:{port}");
    }
    for (who, port, expected) in [
        ("shop/page", 5432, "shop/d"),
        ("bank/teller", 5432, "bank/d"),
        // It has an address to be known by.
        ("shop/page", 5672, "-"),
        ("shop/page", 443, "-"),
        ("shop/page", 9000, "bank/d"),
        ("shop/page", 9001, "shop/d"),
        ("bank/teller", 7000, "-"),
    ] {
        assert_eq!(word(by_port(&snapshot, client(&snapshot, who), port)), expected, "{who} to port {port}");
    }
    assert_eq!(word(by_name(&snapshot, client(&snapshot, "shop/page"), "y.deep.example.com")), "shop/c");
}

#[test]
fn a_port_tells_what_has_to_be_known() {
    let mut model = mesh();
    let none = Asked::default();
    let expected = [
        (80, Asked { host: true, ..none }),
        (443, Asked { server_name: true, ..none }),
        (5432, Asked { port: true, ..none }),
        (5672, none),
        (9000, Asked { server_name: true, port: true, ..none }),
        (9001, Asked { host: true, server_name: true, port: true }),
        (22, none),
    ];
    let snapshot = model.snapshot();
    for (port, asks) in expected {
        assert_eq!(asked(&snapshot, client(&snapshot, "shop/page"), port), asks, "{port}");
    }
    model.http = Arc::new(crate::model::HttpSettings { enabled: false, ..Default::default() });
    let snapshot = model.snapshot();
    assert_eq!(asked(&snapshot, client(&snapshot, "shop/page"), 80), none, "HTTP is carried as bytes");
}

#[test]
fn outside_is_what_nobody_has() {
    let snapshot = mesh().snapshot();
    for (who, at, expected) in [
        ("shop/page", "192.0.2.1", true),
        ("shop/page", "2001:db8::1", true),
        ("shop/page", "10.1.0.2", false),
        ("shop/page", "10.1.9.9", false),
        ("shop/page", "10.96.0.1", false),
        ("shop/page", "198.51.100.2", false),
        // It is there for bank alone.
        ("shop/page", "198.51.100.3", true),
        ("bank/teller", "198.51.100.3", false),
    ] {
        assert_eq!(is_outside(&snapshot, client(&snapshot, who), address(at)), expected, "{who} to {at}");
    }
}
