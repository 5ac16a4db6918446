//! The namespaces in which the test runs, and the addresses in them.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::{self, Command},
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_node::enrol::{netns::Netns, routing::DELIVERY_MARK};
use nix::{
    mount::{MsFlags, mount},
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};
use tempfile::TempDir;

/// The pod's interface.
const INTERFACE: &str = "eth0";

/// An address family, with its addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The pod's address.
    pub(crate) fn pod(self) -> IpAddr {
        self.host(2)
    }

    /// The address at the other end of the pod's link.
    pub(crate) fn outside(self) -> IpAddr {
        self.host(1)
    }

    /// An address that nobody has, and to which no route leads (RFC 5737, RFC 3849).
    pub(crate) fn elsewhere(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(192, 0, 2, 10).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 10).into(),
        }
    }

    fn host(self, last: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 80, 0, last).into(),
            Self::V6 => Ipv6Addr::new(0xfd80, 0, 0, 0, 0, 0, 0, last.into()).into(),
        }
    }
}

/// This process's own mounts and network, a pod's network, and a link between the two.
pub(crate) struct Place {
    pod: Netns,
    bpffs: TempDir,
}

impl Place {
    /// Moves this process, which must have one thread, into new namespaces.
    pub(crate) fn make() -> Result<Self> {
        let bpffs = tempfile::tempdir().context("make a folder for the BPF file system")?;
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("leave the namespaces of the machine: as root?")?;
        // Nothing that is mounted here is seen by others. A file system of a kernel's first process has no parent to leave.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .context("make mounts private")?;
        mount(Some("bpf"), bpffs.path(), Some("bpf"), MsFlags::empty(), None::<&str>).context("mount a BPF file system")?;

        let pod = thread::spawn(|| -> Result<Netns> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(Netns::open("/proc/thread-self/ns/net")?)
        });
        let pod = pod.join().map_err(|_| anyhow!("the thread that made a namespace panicked"))??;
        let place = Self { pod, bpffs };
        place.link()?;
        Ok(place)
    }

    /// The pod's network namespace.
    pub(crate) fn pod(&self) -> &Netns {
        &self.pod
    }

    /// A BPF file system that ends with this process.
    pub(crate) fn bpffs(&self) -> &Path {
        self.bpffs.path()
    }

    /// The number of the pod's interface, in the pod.
    pub(crate) fn interface(&self) -> Result<u32> {
        self.pod.run(|| if_nametoindex(INTERFACE))?.context("the pod has no interface")
    }

    fn link(&self) -> Result<()> {
        let here = process::id();
        let in_pod = || {
            ip("link set lo up")?;
            ip(&format!("link add {INTERFACE} type veth peer name {INTERFACE} netns {here}"))?;
            configure(Family::pod)?;
            route_deliveries()
        };
        // In a thread of its own: a process's number stands for the namespace of its first thread, which stays outside.
        let linked = thread::scope(|scope| scope.spawn(|| self.pod.run(in_pod)).join());
        linked.map_err(|_| anyhow!("the thread that made a link panicked"))???;
        configure(Family::outside)
    }
}

/// As an enrolled pod has it: what carries the mark of a delivery is local, whatever its addresses.
fn route_deliveries() -> Result<()> {
    fs::write("/proc/sys/net/ipv4/tcp_fwmark_accept", "1").context("set tcp_fwmark_accept")?;
    for family in ["-4", "-6"] {
        ip(&format!("{family} rule add fwmark {DELIVERY_MARK} lookup 100"))?;
        ip(&format!("{family} route add local default dev lo table 100"))?;
    }
    Ok(())
}

fn configure(own: fn(Family) -> IpAddr) -> Result<()> {
    for family in Family::ALL {
        let (length, options) = match family {
            Family::V4 => (24, ""),
            Family::V6 => (64, " nodad"),
        };
        ip(&format!("address add {}/{length} dev {INTERFACE}{options}", own(family)))?;
    }
    ip(&format!("link set {INTERFACE} up"))
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("cannot start ip (package iproute2)")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
