//! Tables: one line a case, both families.

use core::net::IpAddr;
use std::vec::Vec;

use super::*;
use crate::kernel::MAX_OUTBOUND_PORTS;

const PORTS: [u16; 4] = [40001, 40002, 40003, 40004];

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn pod(ip4: &str, ip6: &str) -> Pod {
    let mut outbound_ports_host = [0; MAX_OUTBOUND_PORTS];
    outbound_ports_host[..PORTS.len()].copy_from_slice(&PORTS);
    Pod {
        ip4: if ip4.is_empty() { Address::NONE } else { address(ip4) },
        ip6: if ip6.is_empty() { Address::NONE } else { address(ip6) },
        ifindex: 2,
        outbound_ports_host,
        outbound_count: PORTS.len() as u16,
        ..Pod::default()
    }
}

fn dial(to: &str) -> Dial {
    Dial { destination: address(to), port_host: 80, bound_ifindex: 0, socket: SocketKind::None }
}

enum Expect {
    Pass,
    Unreachable,
    CaptureAt(&'static str),
}

fn check(pod: &Pod, dial: &Dial, expected: &Expect) {
    let got = connect(pod, dial);
    match (got, expected) {
        (Connect::Pass, Expect::Pass) | (Connect::Unreachable, Expect::Unreachable) => {}
        (Connect::Capture { address: at, port_host }, Expect::CaptureAt(own)) => {
            assert_eq!(at, address(own), "{dial:?}");
            assert!(PORTS.contains(&port_host), "{dial:?}: {port_host}");
        }
        _ => panic!("{dial:?}: {got:?}"),
    }
}

#[test]
fn connect_by_destination() {
    use Expect::{CaptureAt, Pass, Unreachable};
    let both = pod("10.0.0.2", "fd00::2");
    let four = pod("10.0.0.2", "");
    let six = pod("", "fd00::2");
    for (pod, to, expected) in [
        (&both, "10.0.0.3", CaptureAt("10.0.0.2")),
        (&both, "::ffff:10.0.0.3", CaptureAt("10.0.0.2")),
        (&both, "fd00::3", CaptureAt("fd00::2")),
        (&both, "1.1.1.1", CaptureAt("10.0.0.2")),
        (&both, "169.254.169.254", CaptureAt("10.0.0.2")),
        (&both, "fec0::1", CaptureAt("fd00::2")),
        (&both, "127.0.0.1", Pass),
        (&both, "127.9.9.9", Pass),
        (&both, "::ffff:127.0.0.1", Pass),
        (&both, "::1", Pass),
        (&both, "0.0.0.0", Pass),
        (&both, "::ffff:0.0.0.0", Pass),
        (&both, "::", Pass),
        (&both, "224.0.0.1", Pass),
        (&both, "ff02::1", Pass),
        (&both, "255.255.255.255", Pass),
        (&both, "fe80::1", Pass),
        (&both, "febf::1", Pass),
        (&both, "10.0.0.2", Pass),
        (&both, "::ffff:10.0.0.2", Pass),
        (&both, "fd00::2", Pass),
        (&four, "10.0.0.3", CaptureAt("10.0.0.2")),
        (&four, "fd00::3", Unreachable),
        (&four, "::1", Pass),
        (&four, "fe80::1", Pass),
        (&six, "10.0.0.3", Unreachable),
        (&six, "::ffff:10.0.0.3", Unreachable),
        (&six, "fd00::3", CaptureAt("fd00::2")),
    ] {
        check(pod, &dial(to), &expected);
    }
}

#[test]
fn connect_by_socket() {
    use Expect::{CaptureAt, Pass};
    let pod = pod("10.0.0.2", "fd00::2");
    for (socket, bound_ifindex, expected) in [
        (SocketKind::None, 0, CaptureAt("10.0.0.2")),
        (SocketKind::Captured, 0, CaptureAt("10.0.0.2")),
        (SocketKind::Accepted, 0, CaptureAt("10.0.0.2")),
        (SocketKind::Proxy, 0, Pass),
        (SocketKind::ProxyToken, 0, Pass),
        (SocketKind::None, 2, CaptureAt("10.0.0.2")),
        (SocketKind::None, 3, Pass),
        (SocketKind::None, 1, Pass),
    ] {
        check(&pod, &Dial { bound_ifindex, socket, ..dial("10.0.0.3") }, &expected);
    }
}

#[test]
fn a_pod_without_listeners_is_refused() {
    let pod = Pod { outbound_count: 0, ..pod("10.0.0.2", "fd00::2") };
    check(&pod, &dial("10.0.0.3"), &Expect::Unreachable);
    check(&pod, &dial("127.0.0.1"), &Expect::Pass);
}

#[test]
fn destinations_spread_over_the_listeners_and_stay_there() {
    let pod = pod("10.0.0.2", "fd00::2");
    let mut counts = [0_u32; PORTS.len()];
    for host in 0..64_u8 {
        for port_host in [80, 443, 3306, 8080, 9090, 15008, 6379, 5432] {
            let ask = || connect(&pod, &Dial { destination: IpAddr::from([10, 0, 1, host]).into(), port_host, ..dial("::1") });
            let Connect::Capture { port_host, .. } = ask() else { panic!("{:?}", ask()) };
            assert_eq!(ask(), ask());
            counts[PORTS.iter().position(|port| *port == port_host).unwrap()] += 1;
        }
    }
    assert!(counts.iter().all(|count| (64..=256).contains(count)), "{counts:?}");
}

#[test]
fn sock_ops_by_socket() {
    for (socket, expected) in [
        (SocketKind::None, Trace::Nothing),
        (SocketKind::Captured, Trace::Tuple),
        (SocketKind::Accepted, Trace::Nothing),
        (SocketKind::Proxy, Trace::Nothing),
        (SocketKind::ProxyToken, Trace::Token),
    ] {
        assert_eq!(trace(socket), expected, "{socket:?}");
    }
    let pod = pod("10.0.0.2", "");
    for (port, expected) in
        [(40001, Trace::Tuple), (40004, Trace::Tuple), (40005, Trace::Token), (0, Trace::Token), (80, Trace::Token)]
    {
        assert_eq!(accepted(&pod, port), expected, "{port}");
    }
}

#[test]
fn only_captured_sockets_see_another_peer() {
    let original = Original { address: address("10.0.0.3"), port_host: 80, dialled_as: 4, spare: 0 };
    assert_eq!(peer(SocketKind::Captured, &original), Some(&original));
    for socket in [SocketKind::None, SocketKind::Accepted, SocketKind::Proxy, SocketKind::ProxyToken] {
        assert_eq!(peer(socket, &original), None, "{socket:?}");
    }
}

#[test]
fn lookup_by_addresses() {
    use ListenerKind::{Hbone, Plaintext};
    use Lookup::{Drop, Pass, Steer};
    // Pod 7 has two addresses of each family, pod 8 one.
    let owners: Vec<(Address, u64)> = [("10.0.0.2", 7), ("10.0.0.12", 7), ("fd00::2", 7), ("fd00::12", 7), ("10.0.0.3", 8)]
        .map(|(ip, cookie)| (address(ip), cookie))
        .into();
    let owner = |ip: &Address| owners.iter().find(|(known, _)| known == ip).map(|(_, cookie)| *cookie);
    for (remote, local, port, ifindex, token, expected) in [
        ("10.0.0.3", "10.0.0.2", 80, 2, false, Steer(Plaintext)),
        ("10.0.0.3", "10.0.0.2", 15008, 2, false, Steer(Hbone)),
        ("10.0.0.3", "10.0.0.2", 15006, 2, false, Steer(Plaintext)),
        ("fd00::3", "fd00::2", 80, 2, false, Steer(Plaintext)),
        ("fd00::3", "fd00::2", 15008, 2, false, Steer(Hbone)),
        ("10.0.0.3", "10.0.0.2", 80, 1, false, Pass),
        ("10.0.0.3", "10.0.0.2", 15008, 1, false, Pass),
        ("10.0.0.3", "10.0.0.2", 80, 2, true, Pass),
        ("10.0.0.2", "10.0.0.2", 15001, 2, false, Pass),
        ("10.0.0.12", "10.0.0.2", 15001, 2, false, Pass),
        ("fd00::12", "fd00::2", 15001, 2, false, Pass),
        ("127.0.0.1", "10.0.0.2", 15001, 2, false, Pass),
        ("10.0.0.3", "169.254.1.1", 80, 2, false, Drop),
        ("fe80::3", "fe80::2", 80, 2, false, Drop),
        ("fe80::3", "fd00::2", 80, 2, false, Steer(Plaintext)),
        ("fe80::2", "fe80::2", 80, 2, false, Pass),
        ("10.0.0.3", "192.168.1.1", 80, 3, false, Pass),
    ] {
        let arrival = Arrival { remote: address(remote), local: address(local), local_port_host: port, ingress_ifindex: ifindex };
        assert_eq!(lookup(&arrival, || token, owner), expected, "{arrival:?}");
    }
}

#[test]
fn a_probe_is_the_kubelets_and_goes_to_a_pod() {
    let to_pod = |address: &Address| *address == self::address("10.0.0.2");
    for (to, socket, by_kubelet, expected) in [
        ("10.0.0.2", SocketKind::None, true, true),
        ("10.0.0.2", SocketKind::None, false, false),
        ("10.0.0.3", SocketKind::None, true, false),
        ("10.0.0.2", SocketKind::Proxy, true, false),
    ] {
        let dial = Dial { socket, ..dial(to) };
        assert_eq!(probe(&dial, || by_kubelet, to_pod), expected, "{to} {socket:?} {by_kubelet}");
    }
}
