//! Whether the kernel programs work on the running kernel: every one is loaded and attached, and connections of both
//! address families go through each. Run by `cargo xtask test --kernels`, on this machine and inside small emulated ones.
//!
//! It works in namespaces of its own: two of the network, joined by a veth pair, and one of mounts with a BPF file system
//! that takes every pin with it when this process ends, however it ends.

mod place;
mod sockets;

use std::{fs, net::TcpListener, os::fd::AsFd, process::ExitCode};

use anyhow::{Context, Result, ensure};
use mesh_node::ebpf::{Bounds, Exempt, Kernel, PodCapture, cgroup2_root};
use socket2::Socket;

use crate::{
    place::{Family, Place},
    sockets::{accept, address, connect, connect_prepared, deliver_as},
};

/// Names the pod's pin, in a BPF file system of our own.
const POD: &str = "kernel-smoke//Pod/smoke/pod";
/// Where the app listens inside the pod.
const APP: u16 = 8080;
/// Where a server listens outside.
const SERVER: u16 = 7000;
/// HBONE's port, as clients dial it.
const HBONE: u16 = 15008;

fn main() -> ExitCode {
    // What the caller looks for (xtask, `kernels::boot`).
    match run() {
        Ok(summary) => {
            println!("kernel-smoke passed: {summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("kernel-smoke failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    let place = Place::make().context("make namespaces")?;
    let cgroup = cgroup2_root().context("no cgroup2 is mounted")?;
    let kernel = Kernel::open(place.bpffs(), &cgroup, "kernel-smoke").context("load and attach")?;
    kernel.attach_order().context("read what is attached")?;

    let pod = Pod::start(&place)?;
    pod.enrol(&place, &kernel).context("enrol the pod")?;
    let server = TcpListener::bind(("::", SERVER)).context("listen outside")?;
    for family in Family::ALL {
        captured(&place, &kernel, &pod, family).with_context(|| format!("outbound capture, {family:?}"))?;
        exempted(&place, &kernel, &server, family).with_context(|| format!("the proxy's own socket, {family:?}"))?;
        steered(&pod, family).with_context(|| format!("inbound capture, {family:?}"))?;
        delivered(&place, &kernel, &pod, family).with_context(|| format!("delivery to the app, {family:?}"))?;
    }

    kernel.release(POD).context("release the pod")?;
    for family in Family::ALL {
        let _app = connect(address(family.pod(), APP)).context("dial a released pod")?;
        accept(&pod.app, "the app of a released pod")?;
        let _server = place.pod().run(|| connect(address(family.outside(), SERVER)))?.context("dial from a released pod")?;
        accept(&server, "the server that a released pod dials")?;
    }
    kernel.uninstall().context("uninstall")?;
    Ok(format!("Linux {}, every program, IPv4 and IPv6", release.trim()))
}

/// The app and the proxy's listeners inside the pod.
struct Pod {
    app: TcpListener,
    outbound: TcpListener,
    plaintext: TcpListener,
    hbone: TcpListener,
}

impl Pod {
    fn start(place: &Place) -> Result<Self> {
        let listen = |port: u16| TcpListener::bind(("::", port)).with_context(|| format!("listen at port {port} in the pod"));
        place.pod().run(|| Ok(Self { app: listen(APP)?, outbound: listen(0)?, plaintext: listen(0)?, hbone: listen(0)? }))?
    }

    fn enrol(&self, place: &Place, kernel: &Kernel) -> Result<()> {
        kernel.enrol(&PodCapture {
            uid: POD,
            netns: place.pod().as_fd(),
            cookie: place.pod().cookie()?,
            ips: &Family::ALL.map(Family::pod),
            ifindex: place.interface()?,
            outbound_ports: &[self.outbound.local_addr()?.port()],
            plaintext: self.plaintext.as_fd(),
            hbone: self.hbone.as_fd(),
            bounds: Bounds::default(),
        })?;
        Ok(())
    }
}

/// The pod dials somewhere: the proxy accepts and learns where, and the app sees the peer that it dialled.
fn captured(place: &Place, kernel: &Kernel, pod: &Pod, family: Family) -> Result<()> {
    let dialled = address(family.elsewhere(), 80);
    let app = place.pod().run(|| connect(dialled))??;
    let accepted = accept(&pod.outbound, "the outbound listener")?;
    let original = kernel.marks().original_dst(&accepted)?;
    ensure!(original == Some(dialled), "the original destination is {original:?}, not {dialled}");
    let peer = app.peer_addr()?;
    ensure!(peer == dialled, "the app sees {peer}, not {dialled}");
    Ok(())
}

/// The proxy dials out of the pod with a marked socket: it gets there.
fn exempted(place: &Place, kernel: &Kernel, server: &TcpListener, family: Family) -> Result<()> {
    let to = address(family.outside(), SERVER);
    let _proxy = place.pod().run(|| connect_prepared(to, |socket| kernel.marks().exempt(socket, Exempt::Proxy)))??;
    let accepted = accept(server, "the server outside")?;
    let peer = accepted.peer_addr()?.ip().to_canonical();
    ensure!(peer == family.pod(), "the server sees {peer}, not the pod");
    Ok(())
}

/// Somebody dials the pod: the proxy accepts, at the address and port that were dialled.
fn steered(pod: &Pod, family: Family) -> Result<()> {
    for (port, listener) in [(APP, &pod.plaintext), (HBONE, &pod.hbone)] {
        let dialled = address(family.pod(), port);
        let _client = connect(dialled)?;
        let accepted = accept(listener, "an inbound listener").with_context(|| format!("dialled {dialled}"))?;
        let local = accepted.local_addr()?;
        ensure!((local.ip().to_canonical(), local.port()) == (dialled.ip(), port), "accepted at {local}, not at {dialled}");
    }
    Ok(())
}

/// The proxy dials the app over `lo` as the client: the app sees the client, and nothing is steered to the proxy again.
fn delivered(place: &Place, kernel: &Kernel, pod: &Pod, family: Family) -> Result<()> {
    let to = address(family.pod(), APP);
    let prepare = |socket: &Socket| {
        kernel.marks().exempt(socket, Exempt::Proxy)?;
        deliver_as(family.outside(), socket)
    };
    let _proxy = place.pod().run(|| connect_prepared(to, prepare))??;
    let peer = accept(&pod.app, "the app")?.peer_addr()?.ip().to_canonical();
    ensure!(peer == family.outside(), "the app sees {peer}, not the client {}", family.outside());
    Ok(())
}
