//! The cluster's network: a namespace for the control plane with a bridge, one for each node, and routes between the pods
//! of different nodes. Nothing of it is in the machine's own namespace.

use std::process::Command;

use anyhow::{Context, Result};
use harness::netns;

use super::{
    address::{self, Families},
    interrupt,
    layout::Layout,
    state::Node,
};

/// For every namespace: packets are passed on, and an address can be used as soon as it is there.
const SETTINGS: &[(&str, &str)] = &[("ipv4/ip_forward", "1")];
const SETTINGS_V6: &[(&str, &str)] =
    &[("ipv6/conf/all/forwarding", "1"), ("ipv6/conf/default/accept_dad", "0"), ("ipv6/conf/all/accept_dad", "0")];

/// Makes all of it; what was made before an error is [`super::down`]'s to remove.
pub(super) fn create(layout: &Layout, families: Families, nodes: &[Node]) -> Result<()> {
    let control = layout.control_netns();
    make_namespace(&control, families)?;
    let mut commands = vec!["link add nodes type bridge".to_owned(), "link set nodes up".to_owned()];
    commands.extend(addresses(families, &address::control(), "nodes"));
    batch(&control, &commands)?;

    for node in nodes {
        let namespace = layout.node_netns(&node.name);
        make_namespace(&namespace, families)?;
        let mut commands = vec![format!("link add eth0 type veth peer name {} netns {control}", node.name)];
        commands.push("link set eth0 up".to_owned());
        commands.extend(addresses(families, &node.address, "eth0"));
        commands.extend(families.each(&address::control()).iter().map(|via| format!("route add default via {via}")));
        commands.extend(nodes.iter().filter(|other| other.name != node.name).flat_map(|other| routes(families, other)));
        batch(&namespace, &commands)?;
        let mut commands = vec![format!("link set {} master nodes up", node.name)];
        commands.extend(routes(families, node));
        batch(&control, &commands)?;
    }
    Ok(())
}

fn make_namespace(name: &str, families: Families) -> Result<()> {
    interrupt::check()?;
    netns::create(name)?;
    netns::sysctl(name, SETTINGS)?;
    if families == Families::V4AndV6 {
        netns::sysctl(name, SETTINGS_V6)?;
    }
    batch(name, &["link set lo up".to_owned()])
}

fn addresses(families: Families, address: &address::Dual, device: &str) -> Vec<String> {
    let with_length = |address: String| {
        if address.contains(':') {
            format!("address add {address}/64 dev {device} nodad")
        } else {
            format!("address add {address}/24 dev {device}")
        }
    };
    families.each(address).into_iter().map(with_length).collect()
}

/// To the pods of a node.
fn routes(families: Families, node: &Node) -> Vec<String> {
    let ways = families.each(&node.pods).into_iter().zip(families.each(&node.address));
    ways.map(|(pods, via)| format!("route add {pods} via {via}")).collect()
}

/// Runs commands of `ip` in a namespace.
fn batch(namespace: &str, commands: &[String]) -> Result<()> {
    let mut ip = Command::new("ip");
    ip.args(["-netns", namespace, "-batch", "-"]);
    interrupt::output_of(&mut ip, commands.join("\n").as_bytes())
        .map(drop)
        .with_context(|| format!("set up the network namespace {namespace}"))
}
