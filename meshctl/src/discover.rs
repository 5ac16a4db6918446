//! Finding the nodes: those that run on this machine, else those of a cluster.
//!
//! ```text
//! /run/keelson/<instance>/admin.sock             a node of this machine
//! /run/keelson/lab/<id>/nodes/<node>/admin.sock  a node of a laboratory: a mesh of its own
//! ```
//!
//! Where none runs here, or a cluster is named, the nodes are those of a cluster, asked through its API server.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    answer::Status,
    cli::Global,
    client,
    k8s::{ClusterArgs, PodPort, nodes},
};

const ADMIN: &str = "admin.sock";
const ENROL: &str = "enrol.sock";

/// Where to speak to a node proxy.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) admin: Admin,
    mesh: Mesh,
}

/// Where a node's admin endpoints are.
#[derive(Clone)]
pub(crate) enum Admin {
    /// On this machine, with the socket of the enrolment service beside it.
    Socket { admin: PathBuf, enrol: PathBuf },
    /// In a cluster. There, labels say who is enrolled.
    Pod(PodPort),
}

/// Nodes of one mesh are asked together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mesh {
    /// The one that this machine is part of.
    Machine,
    Lab(String),
    Cluster,
}

/// Which nodes to ask.
#[derive(Debug)]
pub(crate) struct Search {
    root: PathBuf,
    socket: Option<PathBuf>,
    lab: Option<String>,
    names: Vec<String>,
    pub(crate) cluster: ClusterArgs,
}

impl Search {
    pub(crate) fn new(global: Global) -> Self {
        let Global { root, socket, lab, nodes, cluster, output: _, no_color: _ } = global;
        Self { root, socket, lab, names: nodes, cluster }
    }

    /// Whether nodes were named, so that not to find them is an error in any case.
    pub(crate) fn is_explicit(&self) -> bool {
        self.socket.is_some() || self.lab.is_some() || !self.names.is_empty() || self.cluster.is_explicit()
    }

    /// Whether the nodes were named one by one.
    pub(crate) fn names_nodes(&self) -> bool {
        self.socket.is_some() || !self.names.is_empty()
    }

    /// At least one node, all of one mesh, sorted by name.
    ///
    /// # Errors
    ///
    /// When there is none, when one that was named is missing, and when several meshes run and none was chosen.
    pub(crate) async fn find(&self) -> Result<Vec<Node>> {
        if let Some(path) = &self.socket {
            let mut node = at(path)?;
            name_as_it_does(&mut node).await;
            return Ok(vec![node]);
        }
        if self.cluster.is_explicit() {
            return self.in_cluster().await;
        }
        let mut nodes = list(&self.root)?;
        if nodes.is_empty() && self.lab.is_none() && self.cluster.is_known() {
            return self.in_cluster().await.context("no node runs on this machine, and in the cluster");
        }
        for node in nodes.iter_mut().filter(|node| node.mesh == Mesh::Machine) {
            name_as_it_does(node).await;
        }
        if nodes.is_empty() {
            return Err(self.none());
        }
        let mut chosen = self.choose(nodes)?;
        chosen.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(chosen)
    }

    /// The nodes of the cluster that the command line or the environment names.
    pub(crate) async fn in_cluster(&self) -> Result<Vec<Node>> {
        let cluster = self.cluster.connect().await?;
        let found = nodes(&cluster).await?;
        if found.is_empty() {
            bail!("there is no node proxy in namespace {}: `meshctl install` brings them", cluster.namespace);
        }
        let node = |(name, port)| Node { name, admin: Admin::Pod(port), mesh: Mesh::Cluster };
        self.choose(found.into_iter().map(node).collect())
    }

    fn none(&self) -> anyhow::Error {
        let root = self.root.display();
        let hint = if is_root() { "" } else { " (you are not root: a node speaks to root alone)" };
        anyhow!(
            "no node found: looked for {root}/*/{ADMIN} and {root}/lab/*/nodes/*/{ADMIN}. Is a node proxy running on this \
             machine{hint}? --socket DIR names its runtime directory, KEELSON_RUN another place than {root}"
        )
    }

    fn choose(&self, nodes: Vec<Node>) -> Result<Vec<Node>> {
        let all = nodes.clone();
        let wanted = |node: &Node| match (&self.lab, &node.mesh) {
            (None, _) => true,
            (Some(wanted), Mesh::Lab(id)) => wanted == id,
            (Some(_), Mesh::Machine | Mesh::Cluster) => false,
        };
        let mut nodes: Vec<_> = nodes.into_iter().filter(wanted).collect();
        if let (Some(lab), true) = (&self.lab, nodes.is_empty()) {
            bail!("no lab {lab} runs here; there {}", describe(&meshes(&all)));
        }
        for name in &self.names {
            if !nodes.iter().any(|node| node.name == *name) {
                let known: BTreeSet<_> = nodes.iter().map(|node| node.name.as_str()).collect();
                bail!("there is no node {name}; known: {}", known.into_iter().collect::<Vec<_>>().join(", "));
            }
        }
        nodes.retain(|node| self.names.is_empty() || self.names.contains(&node.name));
        // What a lab that was killed has left behind is no choice, unless there is nothing else.
        if meshes(&nodes).len() > 1 && nodes.iter().any(is_served) {
            let live: BTreeSet<_> = nodes.iter().filter(|node| is_served(node)).map(|node| node.mesh.clone()).collect();
            nodes.retain(|node| live.contains(&node.mesh));
        }
        let found = meshes(&nodes);
        if found.len() > 1 {
            let machine = if found.contains(&Mesh::Machine) { ", or with --socket DIR for this machine's own node" } else { "" };
            bail!("several meshes run here: there {}. Choose one with --lab ID{machine}", describe(&found));
        }
        Ok(nodes)
    }
}

/// The nodes whose sockets are below `root`, whether anybody serves them or not.
fn list(root: &Path) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for folder in folders(root)? {
        let mut found = match file_name(&folder).as_str() {
            "lab" => labs(&folder)?,
            name => Vec::from_iter(node_in(&folder, name.to_owned(), Mesh::Machine)),
        };
        nodes.append(&mut found);
    }
    Ok(nodes)
}

fn labs(folder: &Path) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for lab in folders(folder)? {
        let mesh = Mesh::Lab(file_name(&lab));
        nodes.extend(folders(&lab.join("nodes"))?.iter().filter_map(|node| node_in(node, file_name(node), mesh.clone())));
    }
    Ok(nodes)
}

fn node_in(folder: &Path, name: String, mesh: Mesh) -> Option<Node> {
    let (admin, enrol) = (folder.join(ADMIN), folder.join(ENROL));
    fs::metadata(&admin).is_ok_and(|file| file.file_type().is_socket()).then_some(Node {
        name,
        admin: Admin::Socket { admin, enrol },
        mesh,
    })
}

/// Empty where there is nothing to look into.
fn folders(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!("{} is closed to you: a node speaks to root alone", path.display())
        }
        Err(error) => return Err(error).with_context(|| format!("looking for nodes in {}", path.display())),
    };
    let mut folders: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

/// The node at an admin socket, at an enrolment socket, or with a runtime directory.
fn at(path: &Path) -> Result<Node> {
    let file = fs::metadata(path).map_err(|error| client::unreachable(path, &error))?;
    let node = |admin: PathBuf, enrol: PathBuf| Node {
        name: path.display().to_string(),
        admin: Admin::Socket { admin, enrol },
        mesh: Mesh::Machine,
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    match file_name(path).as_str() {
        _ if file.is_dir() => Ok(node(path.join(ADMIN), path.join(ENROL))),
        _ if !file.file_type().is_socket() => bail!("{} is neither a socket nor a directory", path.display()),
        ENROL => Ok(node(folder.join(ADMIN), path.to_owned())),
        _ => Ok(node(path.to_owned(), folder.join(ENROL))),
    }
}

/// A runtime directory may be called anything; the node knows its name. One that does not answer keeps the path's.
async fn name_as_it_does(node: &mut Node) {
    if let Ok(status) = client::get::<Status>(node, "/status").await {
        node.name = status.node;
    }
}

/// Whether somebody listens; a socket that may not be asked counts, so that the error is told later.
fn is_served(node: &Node) -> bool {
    match &node.admin {
        Admin::Socket { admin, .. } => {
            UnixStream::connect(admin).err().is_none_or(|error| error.kind() != io::ErrorKind::ConnectionRefused)
        }
        Admin::Pod(_) => true,
    }
}

fn meshes(nodes: &[Node]) -> BTreeSet<Mesh> {
    nodes.iter().map(|node| node.mesh.clone()).collect()
}

fn describe(meshes: &BTreeSet<Mesh>) -> String {
    let labs: Vec<_> = meshes.iter().filter_map(|mesh| if let Mesh::Lab(id) = mesh { Some(id.as_str()) } else { None }).collect();
    let machine = if meshes.contains(&Mesh::Machine) { "this machine's own node" } else { "" };
    match (labs.as_slice(), machine) {
        ([], "") => "is none".to_owned(),
        ([], machine) => format!("is {machine}"),
        ([lab], "") => format!("is lab {lab}"),
        ([lab], machine) => format!("are lab {lab} and {machine}"),
        (labs, "") => format!("are labs {}", labs.join(", ")),
        (labs, machine) => format!("are labs {} and {machine}", labs.join(", ")),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
