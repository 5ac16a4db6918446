//! What a hostile pod, node or network gains: nothing. Root in its own namespace, raw access to the wire and a node's own
//! credentials included.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use harness::in_netns;
use http::Method;
use netns_tests::{
    Mesh, PATIENCE,
    attacker::{self, Ask, Credentials},
    manifest::{namespace, node, peer_authentication, pod, policy, service},
};
use serde_json::{Value, json};

const INTRUDER: &str = env!("CARGO_BIN_EXE_intruder");
/// On node-1; everything else is judged by what it can reach.
const ATTACKER: &str = "app/attacker";
const BOB: &str = "app/bob";
const STRANGER: &str = "outside/stranger";
/// On node-2: let the attacker in; do not; let only Bob's address in.
const OPEN: &str = "app/open";
const CLOSED: &str = "app/closed";
const BY_ADDRESS: &str = "app/by-address";
/// The same on node-1.
const NEAR_OPEN: &str = "app/near-open";
const NEAR_CLOSED: &str = "app/near-closed";
const NEAR_BY_ADDRESS: &str = "app/near-by-address";
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

fn documents() -> Vec<String> {
    let mut documents = vec![node("node-1", 1), node("node-2", 2), namespace("app", true), namespace("outside", false)];
    for (name, node) in [(OPEN, "node-2"), (CLOSED, "node-2"), (BY_ADDRESS, "node-2")] {
        documents.push(pod(name, node).ledger(9000).document());
    }
    for (name, app) in [(NEAR_OPEN, "open"), (NEAR_CLOSED, "closed"), (NEAR_BY_ADDRESS, "by-address")] {
        documents.push(pod(name, "node-1").app(app).ledger(9000).document());
    }
    documents.extend([
        pod(ATTACKER, "node-1").idle().document(),
        pod("app/fresh", "node-1").idle().document(),
        pod("app/fresh-six", "node-1").families("IPv6").idle().document(),
        pod(BOB, "node-1").idle().document(),
        pod(STRANGER, "node-1").idle().document(),
        service("app", "open", 1, &[9000]),
        peer_authentication("app", None, "STRICT", &[]),
    ]);
    let attacker = json!([{ "from": [{ "source": { "principals": ["cluster.local/ns/app/sa/attacker"] } }] }]);
    documents.push(policy("app", "closed", Some("closed"), "DENY", &attacker));
    documents
}

#[test]
fn a_hostile_pod_gains_nothing() {
    let mesh = Mesh::up(&documents());
    let bobs = [format!("{}/32", mesh.v4(BOB)), format!("{}/128", mesh.v6(BOB))];
    let rule = json!([{ "from": [{ "source": { "ipBlocks": bobs } }] }]);
    mesh.put("by-address.yaml", &policy("app", "by-address", Some("by-address"), "ALLOW", &rule));
    for (far, near) in [(OPEN, NEAR_OPEN), (CLOSED, NEAR_CLOSED), (BY_ADDRESS, NEAR_BY_ADDRESS)] {
        let expected = if far == OPEN { "ok" } else { "reset" };
        let targets = [(ATTACKER, ledger(&mesh, far), expected), (ATTACKER, ledger(&mesh, near), expected)];
        mesh.settle_on("the policies", &targets);
        mesh.settle_on("the policies", &[(BOB, ledger(&mesh, far), "ok"), (BOB, ledger(&mesh, near), "ok")]);
    }
    let checks: [netns_tests::Check; 10] = [
        ("certificates", certificates_are_for_the_asking_nodes_pods),
        ("tunnels to foreign targets", tunnels_lead_to_their_own_pod_only),
        ("tunnels without the right certificate", nobody_tunnels_without_a_certificate_of_the_mesh),
        ("garbage at the tunnel's port", garbage_at_the_tunnels_port_hurts_nobody),
        ("another identity at an address", another_identity_at_an_address_is_refused),
        ("marks and foreign sources", marks_and_foreign_sources_open_nothing),
        ("the proxy's ports", the_proxys_ports_open_nothing),
        ("link-local", link_local_addresses_lead_around_nothing),
        ("admin ports", admin_ports_are_out_of_reach),
        ("NetworkPolicy", what_the_network_forbids_stays_forbidden),
    ];
    for (name, check) in checks {
        let begin = Instant::now();
        check(&mesh);
        println!("{name}: {:.1?}", begin.elapsed());
    }
    // After all that, whoever may come in still does.
    for target in [ledger(&mesh, OPEN), ledger(&mesh, NEAR_OPEN), "10.96.0.1:9000".parse().unwrap()] {
        assert_eq!(mesh.outcome(ATTACKER, target), "ok");
    }
    assert_eq!(mesh.outcome(BOB, ledger(&mesh, CLOSED)), "ok");
    mesh.down();
}

fn ledger(mesh: &Mesh, pod: &str) -> SocketAddr {
    SocketAddr::new(mesh.v4(pod), 9000)
}

/// The token of a node is good for the accounts of its own pods.
fn certificates_are_for_the_asking_nodes_pods(mesh: &Mesh) {
    assert!(certificate(mesh, "node-1", ATTACKER).unwrap().names(&identity(ATTACKER)));
    for (node, account) in [("node-1", OPEN), ("node-2", ATTACKER), ("node-1", "app/nobody"), ("node-1", "kube-system/admin")] {
        assert_eq!(certificate(mesh, node, account).unwrap_err(), "PermissionDenied", "{node} asks for {account}");
    }
    // Its secret with another node's name, and other inventions.
    let token = fs::read_to_string(mesh.node("node-1").unwrap().runtime.join("token")).unwrap();
    for forged in [&token.replace("node-1", "node-2"), &token.replace("node-1", "../tokens/node-2"), &token[1..], "x.node-1", ""]
    {
        assert_eq!(certificate_with(mesh, forged, ATTACKER).unwrap_err(), "Unauthenticated", "{forged}");
    }
}

/// A tunnel with a good certificate, and targets that are not the pod: 4xx, and nothing is dialled.
fn tunnels_lead_to_their_own_pod_only(mesh: &Mesh) {
    let open = mesh.pod(OPEN).unwrap();
    let (v4, v6) = (mesh.v4(OPEN), mesh.v6(OPEN));
    let IpAddr::V4(plain) = v4 else { unreachable!() };
    // Whoever would be dialled by mistake, listening.
    let traps = [
        trap(&open.place.netns, (Ipv4Addr::LOCALHOST, 7777).into()),
        trap(&open.place.netns, (Ipv6Addr::LOCALHOST, 7777).into()),
        metadata_trap(mesh, "node-2"),
    ];
    let own_ports = listeners_inside(&open.place.netns, &[9000, 7777]);
    assert!(own_ports.len() >= 6, "{own_ports:?}");
    let before = [mesh.taken(CLOSED), mesh.taken(NEAR_OPEN), mesh.taken(OPEN)];

    let mut targets = vec![
        "127.0.0.1:7777".to_owned(),
        "[::1]:7777".to_owned(),
        "[::ffff:127.0.0.1]:7777".to_owned(),
        "localhost:7777".to_owned(),
        "0.0.0.0:9000".to_owned(),
        "[::]:9000".to_owned(),
        format!("{METADATA}:80"),
        format!("[{}]:9000", plain.to_ipv6_mapped()),
        format!("{v4}:0"),
        format!("[{v6}]:0"),
        ledger(mesh, CLOSED).to_string(),
        ledger(mesh, NEAR_OPEN).to_string(),
        "10.96.0.1:9000".to_owned(),
        "open.app.svc.cluster.local:9000".to_owned(),
        "open:9000".to_owned(),
        "10.64.0.2:15012".to_owned(),
        "10.64.0.2:15014".to_owned(),
    ];
    targets.extend(mesh.node("node-2").unwrap().addresses.iter().map(|address| SocketAddr::new(*address, 15000).to_string()));
    targets.extend(own_ports.iter().map(|port| format!("{v4}:{port}")));
    let credentials = certificate(mesh, "node-1", ATTACKER).unwrap();
    let ask = |gateway, method: Method, target: &str| {
        let ask = Ask { gateway, method, target, forwarded: None, credentials: Some(&credentials) };
        tunnel(mesh, ATTACKER, &ask).unwrap()
    };
    for gateway in [v4, v6] {
        for target in &targets {
            let answer = ask(gateway, Method::CONNECT, target);
            assert!((400..500).contains(&answer), "CONNECT {target}: {answer}");
        }
    }
    for method in [Method::GET, Method::POST] {
        let answer = ask(v4, method.clone(), &ledger(mesh, OPEN).to_string());
        assert!((400..500).contains(&answer), "{method}: {answer}");
    }
    for trap in &traps {
        assert_eq!(trap.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "{trap:?} was dialled");
    }
    assert_eq!([mesh.taken(CLOSED), mesh.taken(NEAR_OPEN), mesh.taken(OPEN)], before);
    // The traps are awake, and the same tunnel leads where it may.
    in_netns(&open.place.netns, || TcpStream::connect((Ipv4Addr::LOCALHOST, 7777)).map(drop)).unwrap().unwrap();
    traps[0].accept().unwrap();
    assert_eq!(ask(v4, Method::CONNECT, &ledger(mesh, OPEN).to_string()), 200);

    // What a client says of its own address counts for nothing.
    let (gateway, target) = (mesh.v4(BY_ADDRESS), ledger(mesh, BY_ADDRESS).to_string());
    let told = format!("for=\"{}:4000\"", mesh.v4(BOB));
    let ask = Ask { gateway, method: Method::CONNECT, target: &target, forwarded: Some(&told), credentials: Some(&credentials) };
    assert_eq!(tunnel(mesh, ATTACKER, &ask), Ok(401));
    let bob = certificate(mesh, "node-1", BOB).unwrap();
    assert_eq!(tunnel(mesh, BOB, &Ask { forwarded: None, credentials: Some(&bob), ..ask }), Ok(200));
}

/// No certificate, or one of somebody else's authority: there is no tunnel.
fn nobody_tunnels_without_a_certificate_of_the_mesh(mesh: &Mesh) {
    let before = mesh.taken(OPEN);
    let target = ledger(mesh, OPEN).to_string();
    let (good, forged) = (certificate(mesh, "node-1", ATTACKER).unwrap(), Credentials::forged(&identity(ATTACKER)));
    let ask = Ask { gateway: mesh.v4(OPEN), method: Method::CONNECT, target: &target, forwarded: None, credentials: None };
    assert!(tunnel(mesh, ATTACKER, &ask).is_err());
    let ask = Ask { credentials: Some(&forged), ..ask };
    assert!(tunnel(mesh, ATTACKER, &ask).is_err());
    assert_eq!(mesh.taken(OPEN), before);
    assert_eq!(tunnel(mesh, ATTACKER, &Ask { credentials: Some(&good), ..ask }), Ok(200));
}

/// Plaintext HTTP/2, HTTP/1 and noise at port 15008 are answered by nothing that an application could have said.
fn garbage_at_the_tunnels_port_hurts_nobody(mesh: &Mesh) {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let noise: Vec<u8> = (0..20_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let oversized = [&[22, 3, 1, 0xff, 0xff][..], &vec![0; 70_000]].concat();
    let before = mesh.taken(OPEN);
    for from in [ATTACKER, STRANGER] {
        for garbage in [&preface, &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), &b"WHOAMI\n".to_vec(), &noise, &oversized] {
            for to in [mesh.v4(OPEN), mesh.v6(OPEN)] {
                let answer = in_netns(&mesh.pod(from).unwrap().place.netns, || talk((to, 15008).into(), garbage)).unwrap();
                // A TLS alert at most.
                assert!(answer.is_empty() || answer[0] == 21, "{from}: {answer:?}");
            }
        }
    }
    assert_eq!(mesh.taken(OPEN), before);
}

/// The network leads to another pod than the one dialled. Its certificate tells.
fn another_identity_at_an_address_is_refused(mesh: &Mesh) {
    let (dialled, answering) = (mesh.v4(OPEN), mesh.v4(CLOSED));
    let before = [mesh.taken(OPEN), mesh.taken(CLOSED)];
    let seen = mesh.failures("node-1", "IDENTITY_MISMATCH");
    let ruleset = format!(
        "table ip swap {{ chain in {{ type nat hook prerouting priority -100; ip daddr {dialled} tcp dport 15008 dnat to {answering}; }}; }}"
    );
    mesh.nft("node-1", &ruleset).unwrap();
    // A pod that has no tunnel yet.
    assert_eq!(mesh.outcome("app/fresh", ledger(mesh, OPEN)), "reset");
    assert!(mesh.failures("node-1", "IDENTITY_MISMATCH") > seen);
    assert_eq!([mesh.taken(OPEN), mesh.taken(CLOSED)], before);
    mesh.nft("node-1", "delete table ip swap").unwrap();
    // Translations outlive their rule for connections that they were made for, and no longer.
    mesh.settle_on("the way back", &[("app/fresh", ledger(mesh, OPEN), "ok")]);
}

/// The proxy's own mark, and a neighbour's address as source: with root in the pod.
fn marks_and_foreign_sources_open_nothing(mesh: &Mesh) {
    let bob = SocketAddr::new(mesh.v4(BOB), 0).to_string();
    let bob_six = SocketAddr::new(mesh.v6(BOB), 0).to_string();
    for guarded in [CLOSED, NEAR_CLOSED, BY_ADDRESS, NEAR_BY_ADDRESS] {
        let before = mesh.taken(guarded);
        let six = SocketAddr::new(mesh.v6(guarded), 9000);
        for (target, from) in [(ledger(mesh, guarded), &bob), (six, &bob_six)] {
            let target = target.to_string();
            for options in [
                &["--mark", "1337"][..],
                &["--device", "eth0"],
                &["--device", "lo"],
                &["--transparent", "--from", from],
                &["--transparent", "--from", from, "--mark", "1337"],
                &["--transparent", "--from", from, "--mark", "1337", "--device", "lo"],
            ] {
                // Most of it ends nowhere; what has not come within a second came not at all, as the ledger's log tells.
                let words = [&[INTRUDER, "tcp", &target, "--patience", "1"][..], options, &["send:WHOAMI\n", "line"]].concat();
                let found = intrude(mesh, &words);
                assert!(!reached(&found), "{options:?} to {guarded}: {found}");
            }
        }
        assert_eq!(mesh.taken(guarded), before, "{guarded}");
        assert_eq!(mesh.outcome(BOB, ledger(mesh, guarded)), "ok");
    }
    // The same program gets through where the attacker may go: it does what it says.
    let target = ledger(mesh, OPEN).to_string();
    let found = intrude(mesh, &[INTRUDER, "tcp", &target, "--mark", "7", "send:WHOAMI\n", "line"]);
    assert!(reached(&found), "{found}");
}

/// Neither the names of the proxy's ports nor the real ports of its listeners in a pod lead anywhere.
fn the_proxys_ports_open_nothing(mesh: &Mesh) {
    let mut targets = BTreeSet::new();
    for pod in [ATTACKER, NEAR_CLOSED, CLOSED, NEAR_OPEN, OPEN] {
        let real = listeners_inside(&mesh.pod(pod).unwrap().place.netns, &[9000]);
        assert!(real.len() >= 6, "{pod}: {real:?}");
        targets.extend(real.iter().chain(&[15001, 15006, 15008]).map(|port| SocketAddr::new(mesh.v4(pod), *port)));
    }
    for node in ["node-1", "node-2"] {
        let address = mesh.node(node).unwrap().addresses[0];
        targets.extend([15001, 15006, 15008].map(|port| SocketAddr::new(address, port)));
    }
    let before = [CLOSED, NEAR_CLOSED, OPEN, NEAR_OPEN].map(|pod| mesh.taken(pod));
    for target in &targets {
        let text = target.to_string();
        let found = intrude(mesh, &[INTRUDER, "tcp", &text, "send:WHOAMI\n", "line"]);
        assert!(!reached(&found), "{target}: {found}");
    }
    // From the wire, past the capture of the attacker's own side.
    let netns = mesh.pod(STRANGER).unwrap().place.netns;
    for target in targets.iter().filter(|target| mesh.v4(ATTACKER) != target.ip()) {
        let answer = in_netns(&netns, || talk(*target, b"WHOAMI\n")).unwrap();
        assert!(answer.is_empty() || answer[0] == 21, "{target}: {answer:?}");
    }
    assert_eq!([CLOSED, NEAR_CLOSED, OPEN, NEAR_OPEN].map(|pod| mesh.taken(pod)), before);
}

/// From the node's side of a pod's link, by the link-local address that nobody gave it.
fn link_local_addresses_lead_around_nothing(mesh: &Mesh) {
    let pod = mesh.pod(NEAR_OPEN).unwrap();
    let before = mesh.taken(NEAR_OPEN);
    let text = in_netns(&pod.place.netns, || {
        let output = std::process::Command::new("ip").args(["-j", "-6", "addr", "show", "dev", "eth0", "scope", "link"]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    });
    let found: Value = serde_json::from_str(&text.unwrap()).unwrap();
    let mut entries = found.as_array().unwrap().iter().flat_map(|link| link["addr_info"].as_array().into_iter().flatten());
    let own: Ipv6Addr = entries.find_map(|entry| entry["local"].as_str()).unwrap_or_else(|| panic!("{found}")).parse().unwrap();
    let output = mesh.exec_on_node("node-1", &["ip", "-j", "route", "get", &mesh.v4(NEAR_OPEN).to_string()]).unwrap();
    let route: Value = serde_json::from_slice(&output.stdout).unwrap();
    let link = route[0]["dev"].as_str().unwrap().to_owned();
    let node = mesh.node("node-1").unwrap().place.netns;
    let (refused, passed) = in_netns(&node, || {
        let scope = nix::net::if_::if_nametoindex(link.as_str()).unwrap();
        let dial = |port| TcpStream::connect_timeout(&SocketAddrV6::new(own, port, 0, scope).into(), Duration::from_secs(2));
        // The link is there, as a neighbour's table says; only TCP has no way.
        let ping = std::process::Command::new("ping").args(["-c", "1", "-W", "5", &format!("{own}%{link}")]).output();
        ([9000, 15008].map(|port| dial(port).err().map(|error| error.kind())), ping.map(|output| output.status.success()))
    })
    .unwrap();
    assert!(refused.iter().all(Option::is_some), "{refused:?}");
    if let Ok(passed) = passed {
        assert!(passed, "{own} does not answer on {link}");
    }
    assert_eq!(mesh.taken(NEAR_OPEN), before);
}

/// The admin, metrics and readiness ports of node and controller listen where pods are not.
fn admin_ports_are_out_of_reach(mesh: &Mesh) {
    let mut targets = Vec::new();
    for node in ["node-1", "node-2"] {
        let addresses = mesh.node(node).unwrap().addresses;
        targets.extend(addresses.iter().flat_map(|address| [15000, 15020, 15021].map(|port| SocketAddr::new(*address, port))));
    }
    let gateway = [IpAddr::from(Ipv4Addr::new(169, 254, 77, 1)), Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    targets.extend(gateway.iter().flat_map(|address| [15000, 15020, 15021, 15014].map(|port| SocketAddr::new(*address, port))));
    targets.extend(mesh.controller().unwrap().addresses.iter().map(|address| SocketAddr::new(*address, 15014)));
    for pod in [ATTACKER, STRANGER] {
        for target in &targets {
            let text = target.to_string();
            let found = mesh.json(pod, &[INTRUDER, "tcp", &text, "send:GET /config_dump HTTP/1.0\r\n\r\n", "end"]);
            assert!(!reached(&found), "{pod} to {target}: {found}");
        }
    }
    // The controller itself is in reach, and tells nothing without a token.
    assert_eq!(certificate_with(mesh, "nobody", ATTACKER).unwrap_err(), "Unauthenticated");
}

/// A rule of the host's firewall, standing for a NetworkPolicy: the mesh sends pod to pod, so that it holds.
fn what_the_network_forbids_stays_forbidden(mesh: &Mesh) {
    let bob = mesh.v4(BOB);
    let fresh = mesh.v6("app/fresh-six");
    for (node, far, port) in [("node-1", NEAR_OPEN, 9000), ("node-2", OPEN, 15008)] {
        let before = mesh.taken(far);
        let (four, six) = (mesh.v4(far), mesh.v6(far));
        let rules = format!(
            "ip saddr {bob} ip daddr {four} tcp dport {port} counter reject with tcp reset; \
             ip6 saddr {fresh} ip6 daddr {six} tcp dport {port} counter reject with tcp reset;"
        );
        let ruleset = format!("table inet guard {{ chain forward {{ type filter hook forward priority 0; {rules} }}; }}");
        mesh.nft(node, &ruleset).unwrap();
        assert_eq!(mesh.outcome(BOB, SocketAddr::new(four, 9000)), "reset", "{far}");
        assert_eq!(mesh.outcome("app/fresh-six", SocketAddr::new(six, 9000)), "reset", "{far}");
        assert_eq!(mesh.taken(far), before);
        // It is the rule that did it, and it concerns nobody else.
        let listing = String::from_utf8(mesh.exec_on_node(node, &["nft", "list", "ruleset"]).unwrap().stdout).unwrap();
        assert!(!listing.contains("packets 0 "), "{listing}");
        assert_eq!(mesh.outcome(ATTACKER, SocketAddr::new(four, 9000)), "ok", "{far}");
        mesh.nft(node, "delete table inet guard").unwrap();
        let open = [(BOB, SocketAddr::new(four, 9000), "ok"), ("app/fresh-six", SocketAddr::new(six, 9000), "ok")];
        mesh.settle_on("the rule's end", &open);
    }
}

/// `NAMESPACE/ACCOUNT` in the mesh's trust domain.
fn identity(account: &str) -> String {
    let (namespace, account) = account.split_once('/').unwrap();
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
}

/// What the controller gives to whoever holds a node's token; the error is gRPC's word.
fn certificate(mesh: &Mesh, node: &str, account: &str) -> Result<Credentials, String> {
    let token = fs::read_to_string(mesh.node(node).unwrap().runtime.join("token")).unwrap();
    certificate_with(mesh, token.trim(), account)
}

fn certificate_with(mesh: &Mesh, token: &str, account: &str) -> Result<Credentials, String> {
    let controller = mesh.controller().unwrap();
    let address = SocketAddr::new(controller.addresses[0], 15012);
    let netns = mesh.node("node-1").unwrap().place.netns;
    in_netns(&netns, || attacker::certificate(address, &controller.ca_root, token, &identity(account))).unwrap()
}

/// One request from a pod's namespace, past the capture: its status.
fn tunnel(mesh: &Mesh, from: &str, ask: &Ask) -> Result<u16, String> {
    in_netns(&mesh.pod(from).unwrap().place.netns, || attacker::tunnel(ask, PATIENCE)).unwrap()
}

/// Says something and returns all that comes back; a refused connection answers nothing.
fn talk(to: SocketAddr, words: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let Ok(mut stream) = TcpStream::connect_timeout(&to, PATIENCE) else { return answer };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The other side may have ended already.
    let _ = stream.write_all(words);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// Runs the intruder as the attacker. A socket that could not even be made counts as a refusal.
fn intrude(mesh: &Mesh, words: &[&str]) -> Value {
    let output = mesh.exec(ATTACKER, words).unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| json!({ "connect": String::from_utf8_lossy(&output.stderr) }))
}

/// Whether anybody said anything, but for a TLS alert (RFC 8446, section 6).
fn reached(found: &Value) -> bool {
    found["received"].as_str().is_some_and(|text| !text.is_empty() && !text.starts_with('\u{15}'))
}

/// A listener that must never be dialled.
fn trap(netns: &Path, address: SocketAddr) -> TcpListener {
    let listener = in_netns(netns, || TcpListener::bind(address)).unwrap().unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// The metadata service of a cloud, on the node.
fn metadata_trap(mesh: &Mesh, node: &str) -> TcpListener {
    let output = mesh.exec_on_node(node, &["ip", "addr", "add", &format!("{METADATA}/32"), "dev", "lo"]).unwrap();
    assert!(output.status.success());
    trap(&mesh.node(node).unwrap().place.netns, (METADATA, 80).into())
}

/// TCP ports that are listened on in a namespace, but for the application's: the proxy's own.
fn listeners_inside(netns: &Path, known: &[u16]) -> BTreeSet<u16> {
    const LISTEN: &str = "0A";
    let mut ports = BTreeSet::new();
    let read = || ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap());
    let tables = in_netns(netns, read).unwrap();
    for line in tables.iter().flat_map(|table| table.lines().skip(1)) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = u16::from_str_radix(fields[1].rsplit(':').next().unwrap(), 16).unwrap();
        if fields[3] == LISTEN && !known.contains(&port) {
            ports.insert(port);
        }
    }
    ports
}
