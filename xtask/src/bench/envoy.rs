//! Envoy on both nodes, tunnelling as ambient's proxies do: TCP in, HTTP/2 CONNECT over mutual TLS 1.3 to the other node, TCP out.
//!
//! Nothing captures for it: clients dial it. On the same node it is one hop of plain TCP.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    thread,
};

use anyhow::{Context, Result};
use harness::{
    Lab,
    envoy::{
        Envoy,
        config::{Credentials, bootstrap, hbone_cluster, hbone_listener, tcp_cluster, tcp_listener},
    },
};
use serde_json::Value;

use super::{
    proxies::Proxies,
    setup::{Placement, Port, Setup, identity},
};
use crate::workspace;

/// Of the tunnels.
const HBONE: u16 = 15008;

/// One for each node.
pub(super) struct Envoys {
    client: Envoy,
    server: Envoy,
}

impl Envoys {
    /// Tunnels for [`super::setup::L4`].
    pub(super) fn tunnelling(program: &Path, setup: &Setup) -> Result<Self> {
        let Parties { client, far, client_name, far_name } = Parties::mint(setup)?;
        let lab = &setup.lab;
        let entrance_of_tunnels = SocketAddr::new(node(lab, "node-2")?, HBONE);
        let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
        let (mut targets, mut applications) = (Vec::new(), Vec::new());
        for port in Port::L4 {
            let far = setup.address(Placement::OtherNode, port)?;
            listeners.push(tcp_listener(entrance(lab, Placement::OtherNode, port)?, "tunnel", Some(&far.to_string())));
            let name = name(port);
            targets.push((far.to_string(), name));
            applications.push(tcp_cluster(name, far));
            clusters.push(tcp_cluster(name, setup.address(Placement::SameNode, port)?));
            listeners.push(tcp_listener(entrance(lab, Placement::SameNode, port)?, name, None));
        }
        clusters.push(hbone_cluster("tunnel", entrance_of_tunnels, &client, &[&far_name]));
        let tunnels = hbone_listener(entrance_of_tunnels, &far, &[&client_name], &targets);
        Self::start(program, setup, bootstrap(&listeners, &clusters), bootstrap(&[tunnels], &applications))
    }

    /// Envoys with these configurations; the server's first.
    pub(super) fn start(program: &Path, setup: &Setup, client: Value, server: Value) -> Result<Self> {
        let lab = &setup.lab;
        let status = lab.status();
        let threads = thread::available_parallelism()?.get();
        let start = |node: &str, config| Envoy::start(program, &status, &lab.node(node)?.place, node, threads, config);
        let server = start("node-2", server)?;
        let client = start("node-1", client)?;
        Ok(Self { client, server })
    }

    pub(super) fn proxies(&self) -> Proxies {
        Proxies { client: self.client.process(), server: self.server.process() }
    }
}

/// Who shakes hands, with certificates of a throw-away authority.
pub(super) struct Parties {
    pub(super) client: Credentials,
    pub(super) far: Credentials,
    pub(super) client_name: String,
    pub(super) far_name: String,
}

impl Parties {
    pub(super) fn mint(setup: &Setup) -> Result<Self> {
        let certificates = setup.folder.join("certificates");
        workspace::output(
            std::process::Command::new(setup.binaries.join("tls-peer"))
                .arg("mint")
                .arg(&certificates)
                .args(["client", "far"].map(|name| format!("{name}={}", identity(name)))),
        )?;
        Ok(Self {
            client: Credentials::in_folder(&certificates, "client"),
            far: Credentials::in_folder(&certificates, "far"),
            client_name: identity("client"),
            far_name: identity("far"),
        })
    }
}

/// Where the client's Envoy listens for connections to a server's port.
pub(super) fn entrance(lab: &Lab, placement: Placement, port: Port) -> Result<SocketAddr> {
    let base = match placement {
        Placement::SameNode => 20_000,
        Placement::OtherNode => 30_000,
    };
    Ok((node(lab, "node-1")?, base + port.number()).into())
}

/// Where tunnels end.
pub(super) fn tunnels(lab: &Lab) -> Result<SocketAddr> {
    Ok(SocketAddr::new(node(lab, "node-2")?, HBONE))
}

pub(super) fn node(lab: &Lab, name: &str) -> Result<IpAddr> {
    lab.node(name)?.addresses.into_iter().find(IpAddr::is_ipv4).with_context(|| format!("{name} has no IPv4 address"))
}

pub(super) fn name(port: Port) -> &'static str {
    match port {
        Port::Echo => "echo",
        Port::Sink => "sink",
        Port::Http => "http",
        Port::Http2 => "http2",
    }
}
