//! Against the real kernel, as root, in namespaces of their own.

mod scene;

use std::{
    io::{ErrorKind, Write},
    net::SocketAddr,
};

use nix::sys::socket::{setsockopt, sockopt::TcpFastOpenConnect};
use scene::{Machine, accept, add_address, assert_joined, new_netns, reach, soon, try_accept, two_pods, veth};
use socket2::{Domain, Protocol, Socket, Type};

use super::{AttachPoint, Bounds, Exempt, Kernel, MapEntries, Owner, Probers, foreign_ahead, sys, uid_hash};

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// An app of an enrolled pod dials any address, in any way, and the node learns which.
#[test]
fn captures_every_family() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (pod, _other) = two_pods(&["10.9.0.1", "fd09::1"], &["10.9.0.2", "fd09::2"]);
    pod.enrol(&kernel, "a");
    for (dialled, original, local) in [
        ("192.0.2.10:80", "192.0.2.10:80", "10.9.0.1"),
        ("192.0.2.10:15008", "192.0.2.10:15008", "10.9.0.1"),
        ("169.254.169.254:80", "169.254.169.254:80", "10.9.0.1"),
        ("[2001:db8::10]:443", "[2001:db8::10]:443", "fd09::1"),
        ("[::ffff:192.0.2.10]:8080", "192.0.2.10:8080", "::ffff:10.9.0.1"),
    ] {
        let app = pod.connect(dialled).expect(dialled);
        let accepted = pod.accept_outbound();
        assert_eq!(kernel.marks().original_dst(&accepted).expect("its storage"), Some(address(original)), "{dialled}");
        assert_eq!(app.peer_addr().expect("a peer"), address(dialled), "what the app sees");
        assert_eq!(app.local_addr().expect("an address").ip().to_string(), local, "{dialled}");
        assert_joined(&app, &accepted);
        assert_joined(&accepted, &app);
    }
    assert_eq!(kernel.map_entries().expect("the maps"), MapEntries { pods: 1, addresses: 2, tuples: 0, tokens: 0 });
}

#[test]
fn passes_what_is_not_for_the_mesh() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (pod, other) = two_pods(&["10.9.0.1", "fd09::1"], &["10.9.0.2", "fd09::2"]);
    veth(&pod.netns, &other.netns, "net1");
    add_address(&pod.netns, "10.10.0.1", "net1");
    add_address(&other.netns, "10.10.0.2", "net1");
    reach(&pod.netns, address("10.10.0.2:9"));
    pod.enrol(&kernel, "a");

    let loopback = pod.listen("127.0.0.1:0");
    let own = pod.listen("10.9.0.1:0");
    let own_six = pod.listen("[fd09::1]:0");
    for listener in [loopback, own, own_six] {
        let app = pod.connect(&listener.local_addr().expect("bound").to_string()).expect("passed");
        assert_joined(&app, accept(&listener));
    }

    // Another network's interface.
    let beside = other.listen("10.10.0.2:0");
    let app = pod.socket(Domain::IPV4);
    app.bind_device(Some(b"net1")).expect("net1");
    app.connect(&beside.local_addr().expect("bound").into()).expect("passed");
    assert_joined(&app, accept(&beside));

    // A namespace that is not enrolled.
    let far = pod.listen("10.10.0.1:0");
    let app = other.connect(&far.local_addr().expect("bound").to_string()).expect("passed");
    assert_joined(&app, accept(&far));
    pod.assert_nothing_captured();
}

#[test]
fn a_pod_without_an_address_of_the_family_is_refused() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (four, six) = two_pods(&["10.9.0.1"], &["fd09::2"]);
    four.enrol(&kernel, "four");
    six.enrol(&kernel, "six");
    for (pod, to) in [(&four, "[2001:db8::10]:80"), (&six, "192.0.2.10:80"), (&six, "[::ffff:192.0.2.10]:80")] {
        assert_eq!(pod.connect(to).expect_err(to).kind(), ErrorKind::NetworkUnreachable, "{to}");
    }
}

#[test]
fn fast_open_and_multipath_are_captured() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (pod, _other) = two_pods(&["10.9.0.1"], &["10.9.0.2"]);
    // Client and server side, for every listener, without a cookie.
    pod.sysctl("ipv4/tcp_fastopen", "1543");
    pod.enrol(&kernel, "a");
    for port in 1..=20 {
        let to = SocketAddr::from(([192, 0, 2, 10], port));
        let app = pod.socket(Domain::IPV4);
        setsockopt(&app, TcpFastOpenConnect, &true).expect("fast open");
        app.connect(&to.into()).expect("captured");
        // The SYN leaves with these bytes.
        (&app).write_all(b"keelson").expect("sent");
        let accepted = pod.accept_outbound();
        assert_eq!(kernel.marks().original_dst(&accepted).expect("its storage"), Some(to));
    }
    let multipath = pod.netns.run(|| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP))).expect("the namespace");
    // Not every kernel has it; one that has it must not let it out.
    if let Ok(app) = multipath {
        app.connect(&address("192.0.2.11:80").into()).expect("captured");
        let accepted = pod.accept_outbound();
        assert_eq!(kernel.marks().original_dst(&accepted).expect("its storage"), Some(address("192.0.2.11:80")));
    }
}

#[test]
fn only_captured_connections_have_an_original_destination() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (pod, _other) = two_pods(&["10.9.0.1"], &["10.9.0.2"]);
    pod.enrol(&kernel, "a");
    // The app dials the listener itself.
    let _app = pod.connect(&format!("10.9.0.1:{}", pod.listeners.outbound_port)).expect("its own address");
    assert_eq!(kernel.marks().original_dst(pod.accept_outbound()).expect("its storage"), None);
}

#[test]
fn the_proxys_own_sockets_are_exempt() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (pod, other) = two_pods(&["10.9.0.1", "fd09::1"], &["10.9.0.2", "fd09::2"]);
    pod.enrol(&kernel, "a");
    for far in [other.listen("10.9.0.2:0"), other.listen("[fd09::2]:0")] {
        let to = far.local_addr().expect("bound");
        let proxy = pod.socket(Domain::for_address(to));
        kernel.marks().exempt(&proxy, Exempt::Proxy).expect("exempt");
        proxy.connect(&to.into()).expect("passed");
        assert_joined(&proxy, accept(&far));
    }
    pod.assert_nothing_captured();
}

#[test]
fn arrivals_are_steered_by_port() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (pod, other) = two_pods(&["10.9.0.1", "fd09::1"], &["10.9.0.2", "fd09::2"]);
    // The app owns these ports, also HBONE's: it must not matter.
    let _apps = [pod.listen("[::]:8080"), pod.listen("[::]:15008")];
    pod.enrol(&kernel, "a");
    for (to, listener) in [
        ("10.9.0.1:15008", &pod.listeners.hbone),
        ("[fd09::1]:15008", &pod.listeners.hbone),
        ("10.9.0.1:8080", &pod.listeners.plaintext),
        ("[fd09::1]:8080", &pod.listeners.plaintext),
        ("10.9.0.1:15006", &pod.listeners.plaintext),
        ("10.9.0.1:9", &pod.listeners.plaintext),
    ] {
        let peer = other.connect(to).expect(to);
        let accepted = accept(listener);
        // The port that was dialled, which the node needs.
        assert_eq!(accepted.local_addr().expect("bound").port(), address(to).port(), "{to}");
        assert_joined(&peer, accepted);
    }
    // The outbound listener is no way in.
    let _peer = other.connect(&format!("10.9.0.1:{}", pod.listeners.outbound_port)).expect("steered");
    accept(&pod.listeners.plaintext);
    pod.assert_nothing_captured();
}

#[test]
fn without_a_listener_nothing_gets_in_or_out() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (mut pod, other) = two_pods(&["10.9.0.1", "fd09::1"], &["10.9.0.2", "fd09::2"]);
    let app = pod.listen("[::]:8080");
    pod.enrol(&kernel, "a");
    // The listeners that are enrolled are closed by this.
    pod.reopen_listeners();
    for to in ["10.9.0.1:8080", "[fd09::1]:8080", "10.9.0.1:15008"] {
        assert_eq!(other.connect(to).expect_err(to).kind(), ErrorKind::ConnectionRefused, "{to}");
    }
    assert_eq!(pod.connect("192.0.2.10:80").expect_err("no listener").kind(), ErrorKind::ConnectionRefused);
    assert!(try_accept(&app).is_none());
}

/// The mark of the first dial must not outlive it.
#[test]
fn a_socket_that_dials_again_is_judged_again() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (mut pod, _other) = two_pods(&["10.9.0.1"], &["10.9.0.2"]);
    pod.enrol(&kernel, "a");
    pod.reopen_listeners();
    let local = pod.listen("127.0.0.1:0");
    let to = local.local_addr().expect("bound");
    let app = pod.socket(Domain::IPV4);
    let refused = app.connect(&address("192.0.2.10:80").into()).expect_err("no listener");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    app.connect(&to.into()).expect("passed");
    assert_eq!(app.peer_addr().expect("a peer").as_socket(), Some(to));
    assert_joined(&app, accept(&local));
}

/// `sk_lookup` runs twice for a connection with SYN cookies, and there is no socket between the two.
#[test]
fn syn_cookies_change_nothing() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (a, b) = two_pods(&["10.9.0.1", "fd09::1"], &["10.9.0.2", "fd09::2"]);
    for pod in [&a, &b] {
        // Always, not only under load; for both families.
        pod.sysctl("ipv4/tcp_syncookies", "2");
    }
    a.enrol(&kernel, "a");
    b.enrol(&kernel, "b");
    let app = b.listen("[::]:8080");
    for (original, to) in [("192.0.2.10:80", "10.9.0.2:8080"), ("[2001:db8::10]:80", "[fd09::2]:8080")] {
        let captured = a.connect(original).expect("captured");
        let accepted = a.accept_outbound();
        assert_eq!(kernel.marks().original_dst(&accepted).expect("its storage"), Some(address(original)));
        assert_joined(&captured, &accepted);

        for (how, listener) in [(Exempt::ProxyToken, &app), (Exempt::Proxy, &b.listeners.plaintext)] {
            let proxy = a.socket(Domain::for_address(address(to)));
            kernel.marks().exempt(&proxy, how).expect("exempt");
            proxy.connect(&address(to).into()).expect(to);
            assert_joined(&proxy, accept(listener));
        }
    }
    let MapEntries { tuples, tokens, .. } = kernel.map_entries().expect("the maps");
    assert_eq!((tuples, tokens), (0, 0));
}

#[test]
fn link_local_addresses_are_no_way_in() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (pod, other) = two_pods(&["10.9.0.1"], &["10.9.0.2"]);
    for (pod, last) in [(&pod, 1), (&other, 2)] {
        add_address(&pod.netns, &format!("fe80::9:{last}"), "eth0");
        add_address(&pod.netns, &format!("169.254.9.{last}"), "eth0");
    }
    let app = pod.listen("[::]:8080");
    let scope = other.netns.run(|| nix::net::if_::if_nametoindex("eth0")).expect("the namespace").expect("eth0");
    let ways_in = [format!("[fe80::9:1%{scope}]:8080"), "169.254.9.1:8080".to_owned()];
    for to in &ways_in {
        reach(&other.netns, address(to));
        other.connect(to).expect("not enrolled yet");
        accept(&app);
    }
    pod.enrol(&kernel, "a");
    for to in &ways_in {
        assert_eq!(other.connect(to).expect_err(to).kind(), ErrorKind::ConnectionRefused, "{to}");
    }
}

#[test]
fn a_token_leads_to_the_app_once_and_is_gone() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (a, b) = two_pods(&["10.9.0.1", "fd09::1"], &["10.9.0.2", "fd09::2"]);
    a.enrol(&kernel, "a");
    b.enrol(&kernel, "b");
    let app = b.listen("[::]:8080");
    for to in ["10.9.0.2:8080", "[fd09::2]:8080"] {
        let dial = |how| {
            let proxy = a.socket(Domain::for_address(address(to)));
            kernel.marks().exempt(&proxy, how).expect("exempt");
            proxy.connect(&address(to).into()).expect(to);
            proxy
        };
        let proxy = dial(Exempt::ProxyToken);
        assert_joined(&proxy, accept(&app));
        assert_eq!(kernel.map_entries().expect("the maps").tokens, 0, "taken when the app's side was established");

        let proxy = dial(Exempt::Proxy);
        assert_joined(&proxy, accept(&b.listeners.plaintext));
    }
    assert!(try_accept(&app).is_none());
}

/// Nobody answers, so only the dialling side's close can remove the token.
#[test]
fn a_token_dies_with_its_socket() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (a, _b) = two_pods(&["10.9.0.1"], &["10.9.0.2"]);
    a.enrol(&kernel, "a");
    let proxy = a.socket(Domain::IPV4);
    kernel.marks().exempt(&proxy, Exempt::ProxyToken).expect("exempt");
    proxy.set_nonblocking(true).expect("a socket");
    proxy.connect(&address("10.9.0.77:80").into()).expect_err("under way");
    assert_eq!(kernel.map_entries().expect("the maps").tokens, 1);
    drop(proxy);
    soon("no token", || (kernel.map_entries().expect("the maps").tokens == 0).then_some(()));
}

/// The id of the cgroup2 group that this test runs in.
fn own_cgroup() -> u64 {
    let membership = std::fs::read_to_string("/proc/self/cgroup").expect("/proc");
    let path = membership.lines().find_map(|line| line.strip_prefix("0::/")).expect("a cgroup2 line");
    let folder = crate::ebpf::cgroup2_root().expect("a cgroup2 mount").join(path);
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(folder).expect("the group's folder"))
}

#[test]
fn the_kubelets_probes_reach_the_app_and_nobody_elses() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (node, pod) = two_pods(&["10.9.0.1", "fd09::1"], &["10.9.0.2", "fd09::2"]);
    pod.enrol(&kernel, "pod");
    let cookie = node.netns.cookie().expect("a cookie");
    for to in ["10.9.0.2:0", "[fd09::2]:0"] {
        let app = pod.listen(to);
        let to = app.local_addr().expect("bound").to_string();
        // Somebody else on the node: judged like any plaintext.
        let nobody = Probers { cgroups: vec![u64::MAX], processes: vec![u32::MAX] };
        kernel.let_probes_through(cookie, &nobody).expect("set");
        let stranger = node.connect(&to).expect("steered");
        assert_joined(&stranger, accept(&pod.listeners.plaintext));
        // The kubelet.
        for kubelet in [
            Probers { cgroups: vec![own_cgroup()], ..Probers::default() },
            Probers { processes: vec![std::process::id()], ..Probers::default() },
        ] {
            kernel.let_probes_through(cookie, &kubelet).expect("set");
            let probe = node.connect(&to).expect("let through");
            assert_joined(&probe, accept(&app));
        }
    }
    // The node's own namespace is not captured: its connections go where they want to.
    let outside = node.listen("10.9.0.1:0");
    let own = node.connect(&outside.local_addr().expect("bound").to_string()).expect("passed");
    assert_joined(&own, accept(&outside));
    soon("every token to be gone", || (kernel.map_entries().expect("maps").tokens == 0).then_some(()));
}

#[test]
fn one_pods_handshakes_are_bounded_and_others_unharmed() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (mut greedy, modest) = two_pods(&["10.9.0.1"], &["10.9.0.2"]);
    greedy.narrow_listeners();
    greedy.enrol_within(&kernel, "greedy", Bounds { tuples: 4, tokens: 4 });
    modest.enrol(&kernel, "modest");

    let dial = |port: u16| {
        let app = greedy.socket(Domain::IPV4);
        app.set_nonblocking(true).expect("a socket");
        // Under way, or connected at once.
        let _ = app.connect(&SocketAddr::from(([192, 0, 2, 10], port)).into());
        app
    };
    // The listener's queue holds one or two, every other handshake waits.
    let mut apps: Vec<Socket> = (1..=30).map(dial).collect();
    let tuples = || kernel.map_entries().expect("the maps").tuples;
    for _ in 0..50 {
        eprintln!("{}", tuples());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    soon("a full pod", || (tuples() == 4).then_some(()));

    let app = modest.connect("192.0.2.20:80").expect("captured");
    let accepted = modest.accept_outbound();
    assert_eq!(kernel.marks().original_dst(&accepted).expect("its storage"), Some(address("192.0.2.20:80")));
    assert_joined(&app, &accepted);
    assert_eq!(tuples(), 4);

    apps.clear();
    soon("an empty pod", || (tuples() == 0).then_some(()));
}

#[test]
fn a_new_process_adopts_what_is_pinned() {
    let mut machine = Machine::new();
    let first = machine.open("node");
    let (mut pod, other) = two_pods(&["10.9.0.1", "fd09::1"], &["10.9.0.2", "fd09::2"]);
    pod.enrol(&first, "a");
    let programs = ours(&first);
    drop(first);
    pod.reopen_listeners();
    assert_eq!(pod.connect("192.0.2.10:80").expect_err("no node").kind(), ErrorKind::ConnectionRefused);

    let second = machine.open("node");
    let adopted = second.adopted().expect("the pins");
    assert_eq!(adopted.len(), 1);
    assert_eq!((adopted[0].uid_hash, adopted[0].cookie), (uid_hash("a"), pod.cookie()));
    assert_eq!(adopted[0].netns_inode.map(u64::from), Some(pod.netns.inode().expect("an inode")));
    let mut ips = adopted[0].ips.clone();
    ips.sort_unstable();
    assert_eq!(ips, pod.ips);
    assert!(ours(&second).iter().all(|id| !programs.contains(id)), "programs are replaced");
    assert_eq!(ours(&second).len(), programs.len(), "in place");

    // Twice, with other listeners each time.
    for _ in 0..2 {
        pod.reopen_listeners();
        pod.enrol(&second, "a");
        let app = pod.connect("192.0.2.10:80").expect("captured");
        let accepted = pod.accept_outbound();
        assert_eq!(second.marks().original_dst(&accepted).expect("its storage"), Some(address("192.0.2.10:80")));
        assert_joined(&app, &accepted);
        let peer = other.connect("10.9.0.1:15008").expect("steered");
        assert_joined(&peer, accept(&pod.listeners.hbone));
    }
    assert_eq!(second.adopted().expect("the pins").len(), 1);
}

#[test]
fn addresses_follow_the_enrolment() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (mut pod, other) = two_pods(&["10.9.0.1", "fd09::1"], &["10.9.0.2", "fd09::2"]);
    pod.enrol(&kernel, "a");
    pod.ips.truncate(1);
    pod.enrol(&kernel, "a");
    assert_eq!(kernel.map_entries().expect("the maps").addresses, 1);
    let _peer = other.connect("10.9.0.1:80").expect("steered");
    accept(&pod.listeners.plaintext);
    assert_eq!(other.connect("[fd09::1]:80").expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_released_pod_is_as_before() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (pod, other) = two_pods(&["10.9.0.1"], &["10.9.0.2"]);
    pod.enrol(&kernel, "a");
    kernel.release("a").expect("released");
    kernel.release("a").expect("releasing twice is no error");
    assert_eq!(kernel.map_entries().expect("the maps"), MapEntries::default());
    assert_eq!(kernel.adopted().expect("the pins"), []);

    let far = other.listen("10.9.0.2:0");
    let app = pod.connect(&far.local_addr().expect("bound").to_string()).expect("passed");
    assert_joined(&app, accept(&far));
    let near = pod.listen("10.9.0.1:0");
    let peer = other.connect(&near.local_addr().expect("bound").to_string()).expect("passed");
    assert_joined(&peer, accept(&near));
}

#[test]
fn a_pod_whose_namespace_died_is_reported_and_released() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (pod, _other) = two_pods(&["10.9.0.1"], &["10.9.0.2"]);
    pod.enrol(&kernel, "a");
    drop(pod);
    let gone =
        soon("the namespace's end", || kernel.adopted().expect("the pins").into_iter().find(|pod| pod.netns_inode.is_none()));
    drop(kernel);
    let kernel = machine.open("node");
    kernel.release_adopted(&gone).expect("released");
    assert_eq!(kernel.map_entries().expect("the maps"), MapEntries::default());
}

/// A pod's sandbox is made anew: the same uid and address in another namespace.
#[test]
fn a_pod_may_come_back_in_another_namespace() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (old, _other) = two_pods(&["10.9.0.1"], &["10.9.0.2"]);
    let (new, peer) = two_pods(&["10.9.0.1"], &["10.9.0.2"]);
    old.enrol(&kernel, "a");
    new.enrol(&kernel, "a");
    let adopted = kernel.adopted().expect("the pins");
    assert_eq!(adopted.iter().map(|pod| pod.cookie).collect::<Vec<_>>(), [new.cookie()]);
    let _peer = peer.connect("10.9.0.1:80").expect("steered");
    accept(&new.listeners.plaintext);
}

/// A second pod takes the address of one whose release is late.
#[test]
fn a_late_release_leaves_the_next_owner_of_the_address_alone() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (old, _other) = two_pods(&["10.9.0.1"], &["10.9.0.2"]);
    let (new, peer) = two_pods(&["10.9.0.1"], &["10.9.0.2"]);
    old.enrol(&kernel, "old");
    new.enrol(&kernel, "new");
    kernel.release("old").expect("released");
    let _peer = peer.connect("10.9.0.1:80").expect("steered");
    accept(&new.listeners.plaintext);
}

#[test]
fn two_instances_serve_their_own_pods() {
    let mut machine = Machine::new();
    let (one, two) = (machine.open("one"), machine.open("two"));
    let (a, b) = two_pods(&["10.9.0.1"], &["10.9.0.2"]);
    a.enrol(&one, "a");
    b.enrol(&two, "b");
    for (pod, mine, other, to) in [(&a, &one, &two, "10.9.0.2:80"), (&b, &two, &one, "10.9.0.1:80")] {
        let _app = pod.connect(to).expect("captured");
        let accepted = pod.accept_outbound();
        assert_eq!(mine.marks().original_dst(&accepted).expect("its storage"), Some(address(to)));
        assert_eq!(other.marks().original_dst(&accepted).expect("its storage"), None);
    }
    // Between them as between two machines.
    let proxy = a.socket(Domain::IPV4);
    one.marks().exempt(&proxy, Exempt::Proxy).expect("exempt");
    proxy.connect(&address("10.9.0.2:15008").into()).expect("steered");
    assert_joined(&proxy, accept(&b.listeners.hbone));

    one.uninstall().expect("uninstalled");
    let _app = b.connect("192.0.2.10:80").expect("still captured");
    b.accept_outbound();
}

#[test]
fn uninstall_leaves_nothing() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let (pod, other) = two_pods(&["10.9.0.1"], &["10.9.0.2"]);
    pod.enrol(&kernel, "a");
    let programs = ours(&kernel);
    assert_eq!(programs.len(), AttachPoint::ALL.len());
    // Another holder of a link does not keep it alive.
    let held = super::pins::open(&machine.pins().join("node/v1/links").join(mesh_common::names::CONNECT4)).expect("the pin");
    kernel.uninstall().expect("uninstalled");
    assert!(held.is_some());
    assert!(!machine.pins().exists());
    let cgroup = std::fs::File::open(super::cgroup2_root().expect("cgroup2")).expect("the root");
    for point in AttachPoint::ALL {
        let there = sys::effective_programs(std::os::fd::AsFd::as_fd(&cgroup), point.kernel()).expect("a query");
        assert!(there.iter().all(|id| !programs.contains(id)), "{}", point.name());
    }
    let far = other.listen("10.9.0.2:0");
    let app = pod.connect(&far.local_addr().expect("bound").to_string()).expect("passed");
    assert_joined(&app, accept(&far));
}

#[test]
fn the_attach_order_is_known() {
    let mut machine = Machine::new();
    let kernel = machine.open("node");
    let order = kernel.attach_order().expect("a query");
    for point in AttachPoint::ALL {
        let own = order.iter().filter(|program| program.point == point && program.owner == Owner::Own);
        assert_eq!(own.map(|program| program.name.as_str()).collect::<Vec<_>>(), [point.program()]);
    }
    // The kernel side of this test was attached in front of whatever the machine has, where the kernel can do that.
    if nix::sys::utsname::uname().is_ok_and(|name| newer_than_6_17(&name.release().to_string_lossy())) {
        assert_eq!(foreign_ahead(&order), Vec::<&super::ProgramAt>::new());
    }
}

fn newer_than_6_17(release: &str) -> bool {
    let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(17))
}

#[test]
fn errors_name_the_thing_and_the_cause() {
    let machine = tempfile::tempdir().expect("a folder");
    let error = Kernel::open(&machine.path().join("bpf"), machine.path(), "node").expect_err("no cgroup2");
    assert!(error.to_string().contains("is no cgroup2 hierarchy"), "{error}");
}

#[test]
fn a_thread_comes_back_from_a_namespace_even_by_a_panic() {
    let home = std::fs::read_link("/proc/thread-self/ns/net").expect("a link");
    let netns = new_netns();
    let inside = netns.run(|| std::fs::read_link("/proc/thread-self/ns/net").expect("a link")).expect("the namespace");
    assert_ne!(inside, home);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| netns.run(|| panic!("inside"))));
    assert!(panicked.is_err());
    assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").expect("a link"), home);
}

/// Ids of this instance's programs in the cgroup2 root.
fn ours(kernel: &Kernel) -> Vec<u32> {
    let order = kernel.attach_order().expect("a query");
    order.into_iter().filter(|program| program.owner == Owner::Own).map(|program| program.id).collect()
}
