//! Two network namespaces with a veth pair between them, standing for two pods, and a kernel side of the test's own.
//!
//! Namespaces have no name and die with their last descriptor; the BPF file system is mounted in a temporary folder.
//! Everything else is undone by `Drop`, in a panic too.

use std::{
    fmt::Debug,
    fs, io, iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
    process::{self, Command},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, umount2},
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    ebpf::{Bounds, EbpfError, Kernel, PidNamespace, PodCapture, cgroup2_root},
    enrol::netns::Netns,
};

/// Nothing here takes a second; a machine under load may take many.
const DEADLINE: Duration = Duration::from_secs(30);

/// Polls until there is an answer.
pub(super) fn soon<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = poll() {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Where a test pins, and the cgroup2 root of the machine.
pub(super) struct Machine {
    bpffs: PathBuf,
    instances: Vec<&'static str>,
    _folder: tempfile::TempDir,
}

impl Machine {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { bpffs: folder.path().join("bpf"), instances: Vec::new(), _folder: folder }
    }

    pub(super) fn open(&mut self, instance: &'static str) -> Kernel {
        self.instances.push(instance);
        self.try_open(instance).unwrap_or_else(|error| panic!("{}", report(&error)))
    }

    fn try_open(&self, instance: &str) -> Result<Kernel, EbpfError> {
        let processes = PidNamespace::own().expect("/proc");
        Kernel::open_numbering(&self.bpffs, &cgroup2_root().expect("a cgroup2 mount"), instance, processes)
    }

    /// The folder of all instances' pins.
    pub(super) fn pins(&self) -> PathBuf {
        self.bpffs.join("keelson")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for instance in &self.instances {
            if self.pins().join(instance).exists()
                && let Err(error) = self.try_open(instance).and_then(Kernel::uninstall)
            {
                eprintln!("{instance} stays installed: {}", report(&error));
            }
        }
        if let Err(error) = umount2(&self.bpffs, MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", self.bpffs.display());
        }
    }
}

/// An error with its causes.
fn report(error: &dyn std::error::Error) -> String {
    let causes = iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A network namespace with addresses on `eth0`, and the listeners that a node would have in it.
pub(super) struct Pod {
    pub(super) netns: Netns,
    pub(super) ips: Vec<IpAddr>,
    pub(super) listeners: Listeners,
}

/// The node's listeners in a pod.
pub(super) struct Listeners {
    outbound: Vec<TcpListener>,
    pub(super) outbound_port: u16,
    pub(super) plaintext: TcpListener,
    pub(super) hbone: TcpListener,
}

/// Pods `a` and `b` on one link, with these addresses (IPv4 in /24, IPv6 in /64).
pub(super) fn two_pods(a: &[&str], b: &[&str]) -> (Pod, Pod) {
    let (a_netns, b_netns) = (new_netns(), new_netns());
    veth(&a_netns, &b_netns, "eth0");
    let (a, b) = (Pod::with(a_netns, a), Pod::with(b_netns, b));
    for to in b.ips.iter().filter(|to| a.ips.iter().any(|own| own.is_ipv4() == to.is_ipv4())) {
        reach(&a.netns, SocketAddr::new(*to, 9));
    }
    (a, b)
}

/// Waits until a packet gets to an address and back, where nothing is captured yet and nobody listens at this UDP port.
///
/// The kernel puts links and addresses into service in its own time. Under load that may take longer than it looks for a
/// neighbour, and who dials too early is told that there is no such host.
pub(super) fn reach(from: &Netns, to: SocketAddr) {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let answer = || -> io::Result<usize> {
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        socket.connect(to)?;
        socket.send(b"there?")?;
        socket.recv(&mut [0])
    };
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    soon("a neighbour", || from.run(answer).expect("the namespace").is_err_and(refused).then_some(()));
}

/// Joins two namespaces by interfaces of that name.
pub(super) fn veth(a: &Netns, b: &Netns, name: &str) {
    let b_path = format!("/proc/{}/fd/{}", process::id(), b.as_fd().as_raw_fd());
    ip(a, &format!("link add {name} type veth peer name {name} netns {b_path}"));
    for netns in [a, b] {
        ip(netns, &format!("link set {name} up"));
    }
}

pub(super) fn new_netns() -> Netns {
    // In a thread of its own, which leaves this one where it is.
    let made = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: this test needs root");
        Netns::open("/proc/thread-self/ns/net")
    });
    let netns = made.join().expect("the thread").expect("the namespace");
    ip(&netns, "link set lo up");
    netns
}

/// Runs `ip` there.
pub(super) fn ip(netns: &Netns, arguments: &str) {
    let status = netns.run(|| Command::new("ip").args(arguments.split(' ')).status()).expect("the namespace");
    assert!(status.expect("ip, of iproute2").success(), "ip {arguments}");
}

/// Adds an address without waiting for duplicates of it.
pub(super) fn add_address(netns: &Netns, address: &str, device: &str) {
    let (length, nodad) = if address.contains(':') { (64, " nodad") } else { (24, "") };
    ip(netns, &format!("addr add {address}/{length} dev {device}{nodad}"));
}

impl Pod {
    fn with(netns: Netns, addresses: &[&str]) -> Self {
        for address in addresses {
            add_address(&netns, address, "eth0");
        }
        let ips: Vec<IpAddr> = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        let listeners = Listeners::open(&netns, &ips, 128);
        Self { netns, ips, listeners }
    }

    pub(super) fn cookie(&self) -> u64 {
        self.netns.cookie().expect("the cookie")
    }

    /// As a node that was started anew.
    pub(super) fn reopen_listeners(&mut self) {
        self.listeners = Listeners::open(&self.netns, &self.ips, 128);
    }

    /// Outbound listeners that hold one connection at most until it is accepted.
    pub(super) fn narrow_listeners(&mut self) {
        self.listeners = Listeners::open(&self.netns, &self.ips, 0);
    }

    pub(super) fn enrol(&self, kernel: &Kernel, uid: &str) {
        self.enrol_within(kernel, uid, Bounds::default());
    }

    pub(super) fn enrol_within(&self, kernel: &Kernel, uid: &str, bounds: Bounds) {
        let ifindex = self.netns.run(|| if_nametoindex("eth0")).expect("the namespace").expect("eth0");
        let capture = PodCapture {
            uid,
            netns: self.netns.as_fd(),
            cookie: self.cookie(),
            ips: &self.ips,
            ifindex,
            outbound_ports: &[self.listeners.outbound_port],
            plaintext: self.listeners.plaintext.as_fd(),
            hbone: self.listeners.hbone.as_fd(),
            bounds,
        };
        kernel.enrol(&capture).unwrap_or_else(|error| panic!("{}", report(&error)));
    }

    /// Listens as an app of the pod.
    pub(super) fn listen(&self, address: &str) -> TcpListener {
        self.netns.run(|| TcpListener::bind(address)).expect("the namespace").expect("a free port")
    }

    /// A socket of the pod's.
    pub(super) fn socket(&self, domain: Domain) -> Socket {
        self.netns.run(|| Socket::new(domain, Type::STREAM, Some(Protocol::TCP))).expect("the namespace").expect("a socket")
    }

    /// Connects as an app of the pod.
    pub(super) fn connect(&self, to: &str) -> io::Result<TcpStream> {
        let to: SocketAddr = to.parse().expect("an address");
        let socket = self.socket(Domain::for_address(to));
        socket.connect_timeout(&to.into(), DEADLINE)?;
        Ok(socket.into())
    }

    /// What the node's outbound listeners accept next.
    pub(super) fn accept_outbound(&self) -> TcpStream {
        soon("a captured connection", || self.listeners.outbound.iter().find_map(try_accept))
    }

    pub(super) fn assert_nothing_captured(&self) {
        assert!(self.listeners.outbound.iter().all(|listener| try_accept(listener).is_none()), "captured");
    }

    /// Sets a sysctl below `/proc/sys/net`, of the pod's.
    pub(super) fn sysctl(&self, name: &str, value: &str) {
        self.netns.run(|| fs::write(format!("/proc/sys/net/{name}"), value)).expect("the namespace").expect(name);
    }
}

impl Listeners {
    fn open(netns: &Netns, ips: &[IpAddr], outbound_backlog: i32) -> Self {
        let open = || -> io::Result<Self> {
            let mut outbound = Vec::new();
            let mut outbound_port = 0;
            for ip in ips {
                let listener = listen(SocketAddr::new(*ip, outbound_port), outbound_backlog)?;
                outbound_port = listener.local_addr()?.port();
                outbound.push(listener);
            }
            let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
            Ok(Self { outbound, outbound_port, plaintext: listen(any, 128)?, hbone: listen(any, 128)? })
        };
        netns.run(open).expect("the namespace").expect("listeners")
    }
}

/// Without `IPV6_V6ONLY`, so that the wildcard takes both families.
fn listen(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Waits for the next connection.
pub(super) fn accept(listener: &TcpListener) -> TcpStream {
    soon("a connection", || try_accept(listener))
}

/// The next connection, if one is waiting.
pub(super) fn try_accept(listener: &TcpListener) -> Option<TcpStream> {
    listener.set_nonblocking(true).expect("a socket");
    match listener.accept() {
        Ok((stream, _)) => {
            stream.set_nonblocking(false).expect("a socket");
            stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
            Some(stream)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => panic!("accept: {error}"),
    }
}

/// Sends in one direction and expects the bytes at the other end.
pub(super) fn assert_joined(mut from: impl io::Write + Debug, mut to: impl io::Read + Debug) {
    from.write_all(b"keelson").expect("a connection");
    let mut bytes = [0; 7];
    to.read_exact(&mut bytes).expect("seven bytes");
    assert_eq!(&bytes, b"keelson");
}
