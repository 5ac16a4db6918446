//! What the network of fabric, nodes and pods looks like: text for `ip -batch`, and running it.
//!
//! Pods are routed, not bridged: a pod has one `/32` and one `/128`, everything goes to its node through a gateway address
//! that every node's end of a veth has, as Calico does. The fabric's bridge stands for the network between nodes.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::IpAddr,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    address::{self, Family, OUTSIDE_V4, OUTSIDE_V6},
    netns,
};

const BOTH: [Family; 2] = [Family::V4, Family::V6];
/// The gateway that a pod sees on its link.
const POD_GATEWAY_V4: &str = "169.254.77.1";
const POD_GATEWAY_V6: &str = "fe80::77";

/// Nodes forward; nothing waits for duplicate address detection; no packet is dropped for where it came from.
const ROUTER: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    // Every packet that can not go on is answered, not one a second.
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
];
const HOST: &[(&str, &str)] = &[("ipv6/conf/all/accept_dad", "0"), ("ipv6/conf/default/accept_dad", "0")];

/// Makes the fabric: a bridge with the gateway's addresses, and an address that stands for the internet.
pub(crate) fn make_fabric(fabric: &str) -> Result<()> {
    netns::create(fabric)?;
    netns::sysctl(fabric, ROUTER)?;
    let mut batch = String::from("link set lo up\nlink add br0 type bridge mcast_snooping 0\n");
    let _ = writeln!(batch, "addr add {}/16 dev br0", address::gateway(Family::V4));
    let _ = writeln!(batch, "addr add {}/64 dev br0 nodad", address::gateway(Family::V6));
    let _ = writeln!(batch, "addr add {OUTSIDE_V4}/32 dev lo\naddr add {OUTSIDE_V6}/128 dev lo nodad\nlink set br0 up");
    ip(fabric, &batch)
}

/// Makes the controller's namespace, a plain host on the fabric.
pub(crate) fn make_controller(fabric: &str, name: &str) -> Result<()> {
    netns::create(name)?;
    netns::sysctl(name, HOST)?;
    plug(fabric, "controller", name)?;
    ip(name, &on_fabric(BOTH.map(address::controller)))
}

/// Makes node `index` (from 1) of `count`, with routes to the pods of all others.
pub(crate) fn make_node(fabric: &str, name: &str, index: usize, count: usize) -> Result<()> {
    netns::create(name)?;
    netns::sysctl(name, ROUTER)?;
    plug(fabric, &format!("node{index}"), name)?;
    let mut batch = on_fabric(BOTH.map(|family| address::node(family, index)));
    for family in BOTH {
        for other in (1..=count).filter(|other| *other != index) {
            let _ = writeln!(batch, "route add {} via {}", address::pod_range(family, other), address::node(family, other));
        }
        // Else a packet to a pod that is gone would travel between node and fabric until it is too old.
        let _ = writeln!(batch, "route add unreachable {} metric 4278198272", address::pod_range(family, index));
    }
    ip(name, &batch)?;
    let routes =
        BOTH.map(|family| format!("route add {} via {}\n", address::pod_range(family, index), address::node(family, index)));
    ip(fabric, &routes.concat())
}

/// Makes a pod's namespace with `eth0`, whose other end is `link` in the node's namespace.
pub(crate) fn make_pod(node: &str, link: &str, pod: &str, addresses: &[IpAddr]) -> Result<()> {
    netns::create(pod)?;
    netns::sysctl(pod, HOST)?;
    ip(node, &node_side(link, pod, addresses))?;
    let families: Vec<Family> = addresses.iter().copied().map(Family::of).collect();
    if !families.contains(&Family::V6) {
        netns::sysctl(pod, &[("ipv6/conf/eth0/disable_ipv6", "1")])?;
    }
    ip(pod, &pod_side(addresses))
}

/// Removes a pod's namespace; its link and the routes over it go with it.
pub(crate) fn remove_pod(node: &str, link: &str, pod: &str) -> Result<()> {
    // At once and not when the kernel gets to the namespace: the name and the addresses are free from here on.
    ip(node, &format!("link del {link}\n"))?;
    netns::remove(pod)
}

fn node_side(link: &str, pod: &str, addresses: &[IpAddr]) -> String {
    let mut batch = format!("link add {link} type veth peer name eth0 netns {pod}\n");
    let _ = writeln!(batch, "addr add {POD_GATEWAY_V4}/32 dev {link}");
    let _ = writeln!(batch, "addr add {POD_GATEWAY_V6}/64 dev {link} nodad");
    let _ = writeln!(batch, "link set {link} up");
    for address in addresses {
        let _ = writeln!(batch, "route add {address} dev {link}");
    }
    batch
}

fn pod_side(addresses: &[IpAddr]) -> String {
    let mut batch = String::from("link set lo up\n");
    for address in addresses {
        let _ = match address {
            IpAddr::V4(address) => writeln!(batch, "addr add {address}/32 dev eth0"),
            IpAddr::V6(address) => writeln!(batch, "addr add {address}/128 dev eth0 nodad"),
        };
    }
    batch += "link set eth0 up\n";
    for address in addresses {
        let gateway = match address {
            IpAddr::V4(_) => POD_GATEWAY_V4,
            IpAddr::V6(_) => POD_GATEWAY_V6,
        };
        let scope = if address.is_ipv4() { " scope link" } else { "" };
        let _ = writeln!(batch, "route add {gateway} dev eth0{scope}");
        let _ = writeln!(batch, "route add default via {gateway} dev eth0 src {address}");
    }
    batch
}

fn on_fabric(addresses: [IpAddr; 2]) -> String {
    let [v4, v6] = addresses;
    format!(
        "link set lo up\naddr add {v4}/16 dev eth0\naddr add {v6}/64 dev eth0 nodad\nlink set eth0 up\n\
         route add default via {}\nroute add default via {}\n",
        address::gateway(Family::V4),
        address::gateway(Family::V6),
    )
}

/// Puts an `eth0` into the namespace `name` and its other end, `link`, on the bridge.
fn plug(fabric: &str, link: &str, name: &str) -> Result<()> {
    ip(fabric, &format!("link add {link} type veth peer name eth0 netns {name}\nlink set {link} master br0 up\n"))
}

/// Runs the lines of `batch` inside the namespace `name`; the first that fails ends it.
fn ip(name: &str, batch: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-n", name, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `ip`: is iproute2 installed?")?;
    child.stdin.take().expect("the standard input is a pipe").write_all(batch.as_bytes()).context("`ip` does not read")?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("`ip -n {name}` failed: {}\nin:\n{batch}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}
