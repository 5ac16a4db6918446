//! Pods join and leave. Repeating either is harmless.

use anyhow::{Context, Result, bail};
use mesh_proto::enrol::{EnrolRequest, EnrolledPod};
use serde_json::json;

use crate::{
    Outcome,
    cli::{EnrolArgs, PodReference, UnenrolArgs},
    client::ask_all,
    discover::Node,
    enrolment,
    output::Printer,
};

pub(crate) async fn enrol(nodes: &[Node], pod: EnrolArgs, printer: &Printer) -> Result<Outcome> {
    let [node] = nodes else { bail!("on which node is the pod? Say --node NAME; there are {}", names(nodes)) };
    let EnrolArgs { netns, namespace, name, service_account, addresses, uid, running } = pod;
    let uid = uid.unwrap_or_else(|| default_uid(&namespace, &name));
    let netns_path = std::path::absolute(&netns)?.into_os_string().into_string();
    let request = EnrolRequest {
        workload_uid: uid.clone(),
        netns_path: netns_path.map_err(|path| anyhow::anyhow!("{} is no UTF-8", path.display()))?,
        addresses: addresses.iter().map(ToString::to_string).collect(),
        service_account,
        running,
        name: name.clone(),
        namespace: namespace.clone(),
        ..EnrolRequest::default()
    };
    enrolment::enrol(node, request).await?;
    let value = json!({ "uid": uid, "node": node.name, "state": "Captured" });
    printer.done(&format!("{namespace}/{name} is captured on {}", node.name), &value)?;
    Ok(Outcome::Complete)
}

/// As the controller calls a pod of the cluster that it is in.
fn default_uid(namespace: &str, name: &str) -> String {
    format!("Kubernetes//Pod/{namespace}/{name}")
}

pub(crate) async fn unenrol(nodes: &[Node], pod: UnenrolArgs, printer: &Printer) -> Result<Outcome> {
    let wanted = pod.uid.map(PodReference::Uid).or(pod.pod).context("the command line names no pod")?;
    let found = find(nodes, &wanted).await?;
    let (node, uid) = match (found, nodes) {
        (Some(found), _) => found,
        // The node has the last word: it may be in the middle of taking the pod in.
        (None, [node]) => (node.clone(), uid_of(&wanted)),
        (None, nodes) => bail!("{} is captured on none of {}", told(&wanted), names(nodes)),
    };
    enrolment::unenrol(&node, &uid).await?;
    let value = json!({ "uid": uid, "node": node.name, "state": "Released" });
    printer.done(&format!("{} is let go on {}", told(&wanted), node.name), &value)?;
    Ok(Outcome::Complete)
}

/// The node that has the pod, and the pod's uid. A node that does not answer is not passed over: it may be the one.
async fn find(nodes: &[Node], wanted: &PodReference) -> Result<Option<(Node, String)>> {
    let is_it = |pod: &EnrolledPod| match wanted {
        PodReference::Uid(uid) => pod.workload_uid == *uid,
        PodReference::Name { namespace, name } => pod.namespace == *namespace && pod.name == *name,
    };
    let answers = ask_all(nodes, |node| async move {
        let pods = enrolment::list(&node).await?;
        Ok((node, pods))
    })
    .await?;
    for (_, (node, pods)) in answers.given {
        if let Some(pod) = pods.into_iter().find(is_it) {
            return Ok(Some((node, pod.workload_uid)));
        }
    }
    match answers.missing.into_iter().next() {
        Some((node, error)) => Err(error.context(format!("{} is on no other node, and {node} does not answer", told(wanted)))),
        None => Ok(None),
    }
}

fn uid_of(pod: &PodReference) -> String {
    match pod {
        PodReference::Uid(uid) => uid.clone(),
        PodReference::Name { namespace, name } => default_uid(namespace, name),
    }
}

fn told(pod: &PodReference) -> String {
    match pod {
        PodReference::Uid(uid) => uid.clone(),
        PodReference::Name { namespace, name } => format!("{namespace}/{name}"),
    }
}

fn names(nodes: &[Node]) -> String {
    nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ")
}
