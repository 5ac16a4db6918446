//! Who is trusted as what: certificates for the components and users, and a kubeconfig for each that asks the API.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    address::{self, API_PORT, Dual},
    interrupt,
    layout::Layout,
    programs::Programs,
    state::Node,
    template::Templates,
};
use crate::workspace;

/// What `tests/cluster/tools/certificates` reads.
#[derive(Serialize)]
struct Request<'a> {
    folder: &'a Path,
    subjects: Vec<Subject>,
}

#[derive(Default, Serialize)]
struct Subject {
    name: String,
    common_name: String,
    group: String,
    names: Vec<String>,
    addresses: Vec<String>,
}

/// Components that ask the API from inside the control plane's namespace, and their users.
const USERS: &[(&str, &str, &str)] = &[
    // The group may do everything.
    ("admin", "admin", "system:masters"),
    ("kube-controller-manager", "system:kube-controller-manager", ""),
    ("kube-scheduler", "system:kube-scheduler", ""),
    ("kube-proxy", "system:kube-proxy", ""),
    ("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
    ("front-proxy", "front-proxy", ""),
];

/// Writes keys, certificates and the kubeconfigs of the control plane into the cluster's folder.
pub(super) fn write(layout: &Layout, programs: &Programs, nodes: &[Node]) -> Result<()> {
    let folder = layout.certificates();
    let mut subjects = vec![api_server()];
    for (name, common_name, group) in USERS {
        subjects.push(Subject {
            name: (*name).to_owned(),
            common_name: (*common_name).to_owned(),
            group: (*group).to_owned(),
            ..Subject::default()
        });
    }
    subjects.extend(nodes.iter().map(node));
    let request = serde_json::to_vec(&Request { folder: &folder, subjects })?;
    interrupt::output_of(&mut Command::new(programs.path("certificates")?), &request).context("write certificates")?;

    let templates = Templates::new()?;
    for user in ["admin", "kube-controller-manager", "kube-scheduler"] {
        let file = folder.join(format!("{user}.kubeconfig"));
        write_kubeconfig(&templates, &file, &inside(), user, &folder)?;
    }
    Ok(())
}

/// The API server's address for everything in the cluster's namespaces.
pub(super) fn inside() -> String {
    format!("https://{}:{API_PORT}", address::control().v4)
}

/// A kubeconfig for a user whose certificate is in `folder`, as the reader of the file sees it.
pub(super) fn write_kubeconfig(templates: &Templates, file: &Path, server: &str, user: &str, folder: &Path) -> Result<()> {
    let folder = folder.to_str().context("the cluster's folder has a plain name")?;
    let text = templates.fill("kubeconfig.yaml", &[("server", server), ("user", user), ("folder", folder)])?;
    workspace::write_atomically(file, text.as_bytes())
}

/// What a node needs to be trusted, into its own folder of configuration.
pub(super) fn hand_over(layout: &Layout, node: &Node, to: &Path) -> Result<()> {
    let folder = layout.certificates();
    let files = [
        ("ca.crt".to_owned(), "ca.crt"),
        (format!("{}.crt", node.name), "node.crt"),
        (format!("{}.key", node.name), "node.key"),
        ("kube-proxy.crt".to_owned(), "kube-proxy.crt"),
        ("kube-proxy.key".to_owned(), "kube-proxy.key"),
    ];
    for (from, name) in files {
        fs::copy(folder.join(&from), to.join(name)).with_context(|| format!("copy {from}"))?;
    }
    Ok(())
}

fn api_server() -> Subject {
    let names =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"];
    let mut addresses = vec!["127.0.0.1".to_owned(), "::1".to_owned()];
    for Dual { v4, v6 } in [address::control(), address::api_service()] {
        addresses.extend([v4, v6]);
    }
    Subject {
        name: "kube-apiserver".to_owned(),
        common_name: "kube-apiserver".to_owned(),
        names: names.map(str::to_owned).to_vec(),
        addresses,
        ..Subject::default()
    }
}

/// The names are those that the Node authorizer and NodeRestriction know nodes by.
fn node(node: &Node) -> Subject {
    Subject {
        name: node.name.clone(),
        common_name: format!("system:node:{}", node.name),
        group: "system:nodes".to_owned(),
        names: vec![node.name.clone()],
        addresses: vec![node.address.v4.clone(), node.address.v6.clone(), "127.0.0.1".to_owned()],
    }
}
