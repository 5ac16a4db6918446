//! Whatever a captured pod dials arrives where it should, from the pod's own address, and only TLS passes between nodes.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, UdpSocket},
    process::{Child, Stdio},
    thread,
    time::Instant,
};

use harness::{OUTSIDE_V4, OUTSIDE_V6, in_netns, wait_until};
use netns_tests::{
    Mesh, Options, PATIENCE,
    manifest::{namespace, node, pod, service},
    wire,
};
use serde_json::Value;

const CLIENT: &str = "app/client";
const INTRUDER: &str = env!("CARGO_BIN_EXE_intruder");

fn documents() -> Vec<String> {
    vec![
        node("node-1", 1),
        node("node-2", 2),
        namespace("app", true),
        namespace("outside", false),
        pod(CLIENT, "node-1").idle().document(),
        pod("app/near", "node-1").app("ledger").ledger(9000).document(),
        pod("app/far", "node-2").app("ledger").ledger(9000).document(),
        service("app", "ledger", 1, &[9000]),
        pod("app/echo", "node-2").echo().document(),
        pod("app/owner-near", "node-1").ledger(15001).ledger(15006).ledger(15008).document(),
        pod("app/owner-far", "node-2").ledger(15001).ledger(15006).ledger(15008).document(),
        pod("app/solo", "node-1").ledger(9000).document(),
        service("app", "solo", 2, &[9000]),
        pod("app/alive", "node-2").app("pair").ledger(9000).document(),
        pod("app/dead", "node-2").app("pair").idle().document(),
        service("app", "pair", 3, &[9000]),
        pod("app/six-client", "node-1").families("IPv6").idle().document(),
        pod("app/six", "node-2").families("IPv6").ledger(9000).document(),
        pod("outside/stranger", "node-1").idle().document(),
    ]
}

#[test]
fn a_captured_pod_reaches_everything_as_itself() {
    // An unknown address is waited for; five seconds of that each time would show nothing more.
    let options = Options { node: vec!["--configuration-wait=1s".to_owned()], ..Options::default() };
    let mesh = Mesh::up_with(&options, &documents());
    let checks: [netns_tests::Check; 13] = [
        ("pod addresses", direct),
        ("IPv4 through IPv6 sockets", mapped),
        ("services", services),
        ("IPv6 only", ipv6_only),
        ("itself", itself),
        ("owners of the proxy's ports", owners_of_the_proxys_ports),
        ("the outside", the_outside),
        ("datagrams", datagrams),
        ("half-closes", half_closes),
        ("a dead endpoint", a_dead_endpoint_is_hidden),
        ("refusals", refusals_are_resets),
        ("unknown addresses", an_unknown_address_is_refused),
        ("the wire", only_tls_between_nodes),
    ];
    // Pods are up before their containers listen.
    for (service, endpoints) in [("10.96.0.1:9000", 2), ("10.96.0.2:9000", 1), ("10.96.0.3:9000", 1)] {
        harness::wait_until("the services' endpoints to be ready", PATIENCE, || {
            let records = mesh.tcp_many(CLIENT, service, &["-n", "20", "-c", "2"]);
            let pods: BTreeSet<_> =
                records.iter().filter(|record| record["outcome"] == "ok").map(|record| seen(record).1).collect();
            Ok(pods.len() == endpoints)
        })
        .unwrap();
    }
    for (name, check) in checks {
        let begin = Instant::now();
        check(&mesh);
        println!("{name}: {:.1?}", begin.elapsed());
    }
    mesh.down();
}

/// Asks a ledger who is asking; `(the peer that it sees, its pod)`. The client must see the peer that it dialled.
fn whoami(mesh: &Mesh, from: &str, to: SocketAddr) -> (IpAddr, String) {
    let record = mesh.tcp(from, to, &[]);
    assert_eq!(record["outcome"], "ok", "{from} to {to}: {record}");
    assert_eq!(record["remote"], to.to_string(), "{record}");
    seen(&record)
}

fn seen(record: &Value) -> (IpAddr, String) {
    let body: Value = serde_json::from_str(record["body"].as_str().unwrap()).unwrap_or_else(|_| panic!("{record}"));
    (body["peer_ip"].as_str().unwrap().parse().unwrap(), body["instance"]["pod"].as_str().unwrap().to_owned())
}

fn own_address(mesh: &Mesh, pod: &str, like: IpAddr) -> IpAddr {
    if like.is_ipv4() { mesh.v4(pod) } else { mesh.v6(pod) }
}

/// Pod addresses of both families, on the same node and across: the peer is kept, and the proxy was in between.
fn direct(mesh: &Mesh) {
    for server in ["app/near", "app/far"] {
        for address in [mesh.v4(server), mesh.v6(server)] {
            let (peer, pod) = whoami(mesh, CLIENT, (address, 9000).into());
            assert_eq!((peer, format!("app/{pod}")), (own_address(mesh, CLIENT, address), server.to_owned()));
            let destination = format!("dst.addr={}", SocketAddr::new(address, 9000));
            let hbone = format!("dst.hbone_addr={}", SocketAddr::new(address, 15008));
            let line = ["connection complete", "direction=\"outbound\"", &destination];
            mesh.wait_logged("node-1", &line);
            let tunnelled = mesh.logged("node-1", &line).iter().any(|line| line.contains(&hbone));
            assert_eq!(tunnelled, server == "app/far", "{server}");
        }
    }
}

/// An IPv6 socket that dials an IPv4 address.
fn mapped(mesh: &Mesh) {
    for server in ["app/near", "app/far"] {
        let IpAddr::V4(v4) = mesh.v4(server) else { unreachable!() };
        let (peer, _) = whoami(mesh, CLIENT, (v4.to_ipv6_mapped(), 9000).into());
        assert_eq!(peer, mesh.v4(CLIENT));
    }
}

/// Service addresses of both families are spread over the endpoints of both nodes.
fn services(mesh: &Mesh) {
    for vip in ["10.96.0.1:9000", "[fd96::1]:9000"] {
        let records = mesh.tcp_many(CLIENT, vip, &["-n", "60", "-c", "4"]);
        let mut pods = BTreeSet::new();
        for record in &records {
            assert_eq!((&record["outcome"], &record["remote"]), (&"ok".into(), &vip.into()), "{record}");
            let (peer, pod) = seen(record);
            assert_eq!(peer, own_address(mesh, CLIENT, vip.parse::<SocketAddr>().unwrap().ip()));
            pods.insert(pod);
        }
        assert_eq!(pods, BTreeSet::from(["near".to_owned(), "far".to_owned()]), "{vip}");
    }
}

fn ipv6_only(mesh: &Mesh) {
    let client = mesh.v6("app/six-client");
    for server in ["app/six", "app/near", "app/far"] {
        let (peer, _) = whoami(mesh, "app/six-client", (mesh.v6(server), 9000).into());
        assert_eq!(peer, client);
    }
    let (peer, _) = whoami(mesh, "app/six-client", "[fd96::1]:9000".parse().unwrap());
    assert_eq!(peer, client);
    let (peer, pod) = whoami(mesh, CLIENT, (mesh.v6("app/six"), 9000).into());
    assert_eq!((peer, pod.as_str()), (mesh.v6(CLIENT), "six"));
}

/// A pod that calls itself, by its own address and by a service that it is the only endpoint of.
fn itself(mesh: &Mesh) {
    let own = mesh.v4("app/solo");
    for target in [SocketAddr::new(own, 9000), "10.96.0.2:9000".parse().unwrap()] {
        assert_eq!(whoami(mesh, "app/solo", target), (own, "solo".to_owned()), "{target}");
    }
    assert_eq!(whoami(mesh, "app/solo", "[fd96::2]:9000".parse().unwrap()).0, mesh.v6("app/solo"));
}

/// The proxy's ports are only names: an application may own them.
fn owners_of_the_proxys_ports(mesh: &Mesh) {
    for server in ["app/owner-near", "app/owner-far"] {
        for port in [15001, 15006, 15008] {
            let (peer, pod) = whoami(mesh, CLIENT, (mesh.v4(server), port).into());
            assert_eq!((peer, format!("app/{pod}")), (mesh.v4(CLIENT), server.to_owned()), "{server}:{port}");
        }
    }
}

fn the_outside(mesh: &Mesh) {
    let _server = outside_server(mesh);
    for outside in [IpAddr::from(OUTSIDE_V4), IpAddr::from(OUTSIDE_V6)] {
        wait_until("the server outside", PATIENCE, || {
            Ok(mesh.outcome("outside/stranger", SocketAddr::new(outside, 9099)) == "ok")
        })
        .unwrap();
        let (peer, _) = whoami(mesh, CLIENT, (outside, 9099).into());
        assert_eq!(peer, own_address(mesh, CLIENT, outside));
    }
}

struct Outside(Child);

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn outside_server(mesh: &Mesh) -> Outside {
    let mut command = mesh.status().fabric.command(&["shop", "ledger", "--port", "9099"]);
    Outside(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// UDP is not captured: it arrives as it was sent, and so does the answer.
fn datagrams(mesh: &Mesh) {
    for address in [mesh.v4("app/far"), mesh.v6("app/far")] {
        let server = in_netns(&mesh.pod("app/far").unwrap().place.netns, || UdpSocket::bind((address, 5353))).unwrap().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let target = SocketAddr::new(address, 5353);
        let found = thread::scope(|scope| {
            scope.spawn(|| {
                let mut question = [0; 64];
                let (size, from) = server.recv_from(&mut question).unwrap();
                assert_eq!(from.ip(), own_address(mesh, CLIENT, address));
                server.send_to(&[b"answer to ", &question[..size]].concat(), from).unwrap();
            });
            mesh.json(CLIENT, &[INTRUDER, "udp", &target.to_string(), "a question"])
        });
        assert_eq!((&found["answer"], &found["from"]), (&"answer to a question".into(), &target.to_string().into()), "{found}");
    }
}

/// Each side may end first and still hears all that the other has to say.
fn half_closes(mesh: &Mesh) {
    for server in ["app/near", "app/far"] {
        let record = mesh.tcp(CLIENT, SocketAddr::new(mesh.v4(server), 9000), &["--half-close", "--send", "some words"]);
        assert_eq!((&record["outcome"], &record["body"]), (&"ok".into(), &"ECHO some words\n".into()), "{record}");
    }
    // More than all buffers on the way hold, back to a client that has ended.
    let record = mesh.tcp(CLIENT, SocketAddr::new(mesh.v4("app/echo"), 9001), &["--half-close", "--bytes", "20000000"]);
    assert_eq!((&record["outcome"], &record["bytes"]), (&"ok".into(), &20_000_000.into()), "{}", record["error"]);

    for server in ["app/near", "app/far"] {
        let place = mesh.pod(server).unwrap().place;
        let listener = in_netns(&place.netns, || TcpListener::bind((mesh.v4(server), 7000))).unwrap().unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let heard = thread::scope(|scope| {
            let server = scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.write_all(b"last words").unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut heard = String::new();
                stream.read_to_string(&mut heard).unwrap();
                heard
            });
            let found = mesh.json(CLIENT, &[INTRUDER, "tcp", &target, "end", "send:still here", "shut"]);
            assert_eq!((&found["received"], &found["failed"]), (&"last words".into(), &Value::Null), "{found}");
            server.join().unwrap()
        });
        assert_eq!(heard, "still here", "{server}");
    }
}

/// One endpoint of two refuses: no client ever notices.
fn a_dead_endpoint_is_hidden(mesh: &Mesh) {
    let tried = || mesh.logged("node-2", &["CONNECT_REFUSED", "dst.workload=\"dead\""]).len();
    let before = tried();
    for record in mesh.tcp_many(CLIENT, "10.96.0.3:9000", &["-n", "60"]) {
        assert_eq!(record["outcome"], "ok", "{record}");
        assert_eq!(seen(&record).1, "alive");
    }
    assert!(tried() > before, "the dead endpoint was never chosen");
}

/// Accepted first and refused later: the application must not take it for an empty answer.
fn refusals_are_resets(mesh: &Mesh) {
    for server in ["app/near", "app/far", "app/dead"] {
        for address in [mesh.v4(server), mesh.v6(server)] {
            assert_eq!(mesh.outcome(CLIENT, SocketAddr::new(address, 9999)), "reset", "{server}");
        }
    }
    assert_eq!(mesh.outcome(CLIENT, "10.96.0.1:1"), "reset");
    mesh.wait_logged("node-1", &["NO_SERVICE_PORT"]);
}

/// Inside the nodes' ranges, and nobody's: never passed through.
fn an_unknown_address_is_refused(mesh: &Mesh) {
    for unknown in ["10.66.200.200:80", "[fd64:0:0:2::c8c8]:80"] {
        assert_eq!(mesh.outcome(CLIENT, unknown), "reset");
        mesh.wait_logged("node-1", &["UNKNOWN_ADDRESS", unknown]);
    }
}

/// What the mesh carries is never readable between nodes; what it does not carry is, which shows that the eye is open.
fn only_tls_between_nodes(mesh: &Mesh) {
    let capture = mesh.capture("node-1", "").unwrap();
    let far = [mesh.v4("app/far"), mesh.v6("app/far")];
    for address in far {
        let record = mesh.tcp(CLIENT, SocketAddr::new(address, 9000), &["--send", "ADD within-the-mesh"]);
        assert_eq!(record["outcome"], "ok", "{record}");
        let record = mesh.tcp("outside/stranger", SocketAddr::new(address, 9000), &["--send", "ADD in-plain-sight"]);
        assert_eq!(record["outcome"], "ok", "{record}");
    }
    let echoed = mesh.tcp(CLIENT, SocketAddr::new(mesh.v4("app/echo"), 9001), &["--half-close", "--bytes", "500000"]);
    assert_eq!(echoed["outcome"], "ok", "{echoed}");

    let recorded = capture.bytes().unwrap();
    assert!(wire::contains(&recorded, "in-plain-sight"));
    assert!(!wire::contains(&recorded, "within-the-mesh"));
    let stranger = [mesh.v4("outside/stranger"), mesh.v6("outside/stranger")];
    let own = [mesh.v4(CLIENT), mesh.v6(CLIENT)];
    let (mut tunnels, mut plain, mut bytes) = (0, 0, 0);
    for ((from, to), stream) in wire::tcp_streams(&recorded) {
        let between = |some: &[IpAddr]| some.contains(&from.ip()) || some.contains(&to.ip());
        if from.port() == 15008 || to.port() == 15008 {
            assert!(wire::is_tls(&stream), "{from} to {to} is not TLS: {:?}", &stream[..stream.len().min(64)]);
            tunnels += 1;
            bytes += stream.len();
        } else if between(&stranger) {
            plain += 1;
        } else {
            assert!(!between(&own) || stream.is_empty(), "{from} to {to} is outside of any tunnel");
        }
    }
    println!("between the nodes: {bytes} bytes of TLS in {tunnels} directions, {plain} directions of the stranger's");
    assert!(tunnels > 0 && plain == 4 && bytes > 1_000_000, "{tunnels} {plain} {bytes}");
}
