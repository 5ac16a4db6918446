//! Two nodes with a client, a server beside it and a server on the other node: once for each way to carry traffic.

use std::{
    fmt, fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use harness::{Binaries, Lab, LabOptions, in_netns};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{
    envoy::{self, Envoys},
    proxies::Proxies,
};
use crate::workspace;

/// The pod that the load comes from.
pub(super) const CLIENT: &str = "bench/client";

/// For the network, the mesh and five containers.
const DEADLINE: Duration = Duration::from_mins(2);

/// What carries the traffic between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Variant {
    /// The network alone
    None,
    /// This project
    Keelson,
    /// Two Envoys, CONNECT over mutual TLS between nodes; one, plain TCP, on the same node
    Envoy,
}

impl Variant {
    pub(super) const ALL: [Self; 3] = [Self::None, Self::Keelson, Self::Envoy];

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::None => "no mesh",
            Self::Keelson => "Keelson",
            Self::Envoy => "Envoy",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Keelson => "keelson",
            Self::Envoy => "envoy",
        }
    }
}

/// As on the command line.
impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Serialize for Variant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

/// Where the server is, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    SameNode,
    OtherNode,
}

impl Placement {
    pub(super) const ALL: [Self; 2] = [Self::SameNode, Self::OtherNode];

    pub(super) fn pod(self) -> &'static str {
        match self {
            Self::SameNode => "near",
            Self::OtherNode => "far",
        }
    }
}

/// What a server does at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    Echo,
    Sink,
    Http,
    /// With prior knowledge.
    Http2,
}

impl Port {
    /// Carried as bytes.
    pub(super) const L4: [Self; 3] = [Self::Echo, Self::Sink, Self::Http];

    pub(super) fn number(self) -> u16 {
        match self {
            Self::Echo => 9001,
            Self::Sink => 9002,
            Self::Http => 9080,
            Self::Http2 => 9082,
        }
    }
}

/// What is carried, and how.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    /// Of its labs' names.
    pub(super) prefix: &'static str,
    /// The folder's content.
    pub(super) manifest: fn() -> String,
    /// Starts Envoy on both nodes.
    pub(super) envoys: fn(&Path, &Setup) -> Result<Envoys>,
}

/// Connections.
pub(super) const L4: Plan = Plan { prefix: "bench", manifest, envoys: Envoys::tunnelling };

/// What setups are made with.
pub(super) struct Workshop {
    pub(super) root: PathBuf,
    pub(super) binaries: PathBuf,
    /// Only if it takes part.
    pub(super) envoy: Option<PathBuf>,
    pub(super) plan: Plan,
}

/// A lab with its traffic carried by `variant`.
pub(super) struct Setup {
    pub(super) variant: Variant,
    /// Certificates, and what else is made for it; reused by the next run.
    pub(super) folder: PathBuf,
    /// Where our own programs are.
    pub(super) binaries: PathBuf,
    /// Which Envoy, and how it is set up; none if it takes no part.
    envoy: Option<(PathBuf, Plan)>,
    /// Before the lab: they run in it.
    envoys: Option<Envoys>,
    pub(super) lab: Lab,
}

impl Setup {
    pub(super) fn up(variant: Variant, workshop: &Workshop) -> Result<Self> {
        let Workshop { root, binaries, envoy, plan } = workshop;
        let folder = workspace::target(root).join("keelson").join(plan.prefix).join(variant.word());
        let manifests = folder.join("manifests");
        workspace::write_atomically(&manifests.join("bench.yaml"), (plan.manifest)().as_bytes())?;
        let lab = Lab::up(LabOptions {
            id: Some(format!("{}{}", plan.prefix, variant.word())),
            binaries: Binaries { folder: binaries.clone() },
            deadline: DEADLINE,
            ..if variant == Variant::Keelson { LabOptions::new(manifests)? } else { LabOptions::plain(manifests)? }
        })?;
        reuse_ports(&lab)?;
        let envoy = match variant {
            Variant::Envoy => Some((envoy.clone().context("Envoy was not fetched")?, *plan)),
            Variant::None | Variant::Keelson => None,
        };
        let mut setup = Self { variant, folder, binaries: binaries.clone(), envoy, envoys: None, lab };
        setup.start_envoys()?;
        Ok(setup)
    }

    fn start_envoys(&mut self) -> Result<()> {
        // The old ones end first: the new ones take their addresses.
        self.envoys = None;
        if let Some((program, plan)) = &self.envoy {
            self.envoys = Some((plan.envoys)(program, self)?);
        }
        Ok(())
    }

    /// New processes in place of both proxies, which remember nothing.
    pub(super) fn renew(&mut self) -> Result<()> {
        if self.variant == Variant::Keelson {
            self.lab.restart_node("node-1")?;
            self.lab.restart_node("node-2")?;
        }
        self.start_envoys()
    }

    /// Empties all logs of the lab: a line for each request of a whole run would fill the machine's memory.
    pub(super) fn empty_logs(&self) -> Result<()> {
        for entry in fs::read_dir(self.lab.status().logs)? {
            let path = entry?.path();
            let emptied = fs::OpenOptions::new().write(true).open(&path).and_then(|log| log.set_len(0));
            emptied.with_context(|| format!("cannot empty {}", path.display()))?;
        }
        Ok(())
    }

    /// Where the client dials.
    pub(super) fn target(&self, placement: Placement, port: Port) -> Result<SocketAddr> {
        match self.variant {
            Variant::None => self.address(placement, port),
            // Its service, as applications do.
            Variant::Keelson => Ok((service(placement), port.number()).into()),
            Variant::Envoy => envoy::entrance(&self.lab, placement, port),
        }
    }

    /// Where the server listens.
    pub(super) fn address(&self, placement: Placement, port: Port) -> Result<SocketAddr> {
        let pod = self.lab.pod(&format!("bench/{}", placement.pod()))?;
        Ok((pod.v4().context("the pods have IPv4 addresses")?, port.number()).into())
    }

    /// Nothing carries traffic without a mesh.
    pub(super) fn proxies(&self) -> Result<Option<Proxies>> {
        match self.variant {
            Variant::None => Ok(None),
            Variant::Keelson => {
                let process = |node| self.lab.node(node)?.process.with_context(|| format!("the proxy of {node} is down"));
                Ok(Some(Proxies { client: process("node-1")?, server: process("node-2")? }))
            }
            Variant::Envoy => Ok(self.envoys.as_ref().map(Envoys::proxies)),
        }
    }

    /// Runs a program in the client's pod to its end and reads the JSON that it printed.
    pub(super) fn ask(&self, words: &[&str]) -> Result<Value> {
        let output = self.lab.exec(CLIENT, words)?;
        let (told, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{}: {} {} {}", words.join(" "), output.status, told.trim(), error.trim());
        serde_json::from_str(told.trim()).with_context(|| format!("{} said {told:?}", words.join(" ")))
    }

    /// Starts a program in the client's pod.
    pub(super) fn spawn(&self, words: &[&str]) -> Result<Child> {
        self.lab.spawn_in(CLIENT, words)
    }

    pub(super) fn down(self) -> Result<()> {
        let Self { variant, folder: _, binaries: _, envoy: _, envoys, lab } = self;
        drop(envoys);
        lab.down().with_context(|| format!("the lab with {}", variant.text()))
    }
}

/// Thousands of connections a second use up every port unless those of ended ones are taken again, and the node does
/// so in captured pods anyway: no way of carrying traffic shall be slower for that.
fn reuse_ports(lab: &Lab) -> Result<()> {
    let status = lab.status();
    let places = status.pods().map(|(_, pod)| &pod.place).chain(status.nodes.values().map(|node| &node.place));
    for place in places {
        in_netns(&place.netns, || -> Result<()> {
            for (key, value) in [("tcp_tw_reuse", "1"), ("ip_local_port_range", "1024 65000")] {
                fs::write(format!("/proc/sys/net/ipv4/{key}"), value).with_context(|| format!("cannot set {key}"))?;
            }
            Ok(())
        })??;
    }
    Ok(())
}

/// The address of the service of one server.
fn service(placement: Placement) -> IpAddr {
    let last = match placement {
        Placement::SameNode => 1,
        Placement::OtherNode => 2,
    };
    IpAddr::from([10, 96, 1, last])
}

/// The folder: plain TCP services, and a policy that lets the client in by its identity.
fn manifest() -> String {
    let http = Port::Http.number();
    let containers = format!(
        "
  - {{name: echo, command: [shop, echo], readinessProbe: {{tcpSocket: {{port: 9001}}}}}}
  - {{name: http, command: [shop, details, --quiet, --port, '{http}'], readinessProbe: {{tcpSocket: {{port: {http}}}}}}}"
    );
    let ports = Port::L4.map(|port| format!("{{name: tcp-{0}, port: {0}}}", port.number())).join(", ");
    let mut documents = parties(&containers, &ports);
    documents.push(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: client, namespace: bench}
spec:
  rules:
  - from: [{source: {principals: [cluster.local/ns/bench/sa/client]}}]"
            .to_owned(),
    );
    documents.join("\n---\n") + "\n"
}

/// Documents of both nodes, the client, and of a server on each node with its service.
pub(super) fn parties(containers: &str, ports: &str) -> Vec<String> {
    let mut documents = vec![
        "{apiVersion: v1, kind: Namespace, metadata: {name: bench, labels: {istio.io/dataplane-mode: keelson}}}".to_owned(),
        "{apiVersion: v1, kind: Node, metadata: {name: node-1}}".to_owned(),
        "{apiVersion: v1, kind: Node, metadata: {name: node-2}}".to_owned(),
        "
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: bench, labels: {app: client}, annotations: {keelson.dev/ip-families: IPv4}}
spec:
  nodeName: node-1
  serviceAccountName: client
  containers:
  - {name: client, command: [shop, idle]}"
            .to_owned(),
    ];
    for placement in Placement::ALL {
        let (name, address) = (placement.pod(), service(placement));
        let node = match placement {
            Placement::SameNode => "node-1",
            Placement::OtherNode => "node-2",
        };
        documents.push(format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: bench, labels: {{app: {name}}}, annotations: {{keelson.dev/ip-families: IPv4}}}}
spec:
  nodeName: {node}
  serviceAccountName: {name}
  containers:{containers}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: bench}}
spec: {{clusterIP: {address}, clusterIPs: [{address}], selector: {{app: {name}}}, ports: [{ports}]}}"
        ));
    }
    documents
}

/// The identity of a pod of the bench, in Keelson's trust domain.
pub(super) fn identity(account: &str) -> String {
    format!("spiffe://cluster.local/ns/bench/sa/{account}")
}

/// Waits for the line of `client hold` that says that all connections are open.
pub(super) fn all_open(lines: impl Iterator<Item = std::io::Result<String>>) -> Result<()> {
    for line in lines {
        let told: Value = serde_json::from_str(&line?)?;
        if told["event"] == "open" {
            ensure!(told["failed"] == 0, "{} connections of {} failed", told["failed"], told["open"]);
            return Ok(());
        }
    }
    bail!("the client has ended");
}
