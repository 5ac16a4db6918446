//! The enrolment service of a node, over its unix socket.

use std::{fmt::Display, time::Duration};

use anyhow::{Result, anyhow, bail};
use mesh_proto::enrol::{
    EnrolRequest, EnrolledPod, ListRequest, UnenrolRequest, enrolment_service_client::EnrolmentServiceClient,
};
use tokio::net::UnixStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    client::unreachable,
    discover::{Admin, Node},
};

/// Letting a pod go waits for other nodes and for open connections; the node has a limit of its own well below this.
const PATIENCE: Duration = Duration::from_mins(2);

/// Returns when the pod's traffic is captured.
pub(crate) async fn enrol(node: &Node, pod: EnrolRequest) -> Result<()> {
    let what = format!("enrol {}/{}", pod.namespace, pod.name);
    connect(node).await?.enrol(pod).await.map_err(|status| refusal(node, what, &status))?;
    Ok(())
}

/// Returns when the pod's traffic flows without the proxy.
pub(crate) async fn unenrol(node: &Node, uid: &str) -> Result<()> {
    let request = UnenrolRequest { workload_uid: uid.to_owned(), ..UnenrolRequest::default() };
    connect(node).await?.unenrol(request).await.map_err(|status| refusal(node, format!("let go of {uid}"), &status))?;
    Ok(())
}

pub(crate) async fn list(node: &Node) -> Result<Vec<EnrolledPod>> {
    let answer = connect(node).await?.list(ListRequest {}).await;
    Ok(answer.map_err(|status| refusal(node, "list its pods", &status))?.into_inner().pods)
}

async fn connect(node: &Node) -> Result<EnrolmentServiceClient<Channel>> {
    let Admin::Socket { enrol: socket, .. } = &node.admin else {
        bail!(
            "in a cluster, labels say which pods belong to the mesh: kubectl label pod NAME istio.io/dataplane-mode=ambient (or none)"
        );
    };
    // Once by hand: the transport's own error does not say what is wrong with the socket.
    drop(UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?);
    let path = socket.to_str().ok_or_else(|| anyhow!("{} is no UTF-8", socket.display()))?;
    let channel = Endpoint::from_shared(format!("unix:{path}"))?.timeout(PATIENCE).connect().await?;
    Ok(EnrolmentServiceClient::new(channel))
}

fn refusal(node: &Node, what: impl Display, status: &Status) -> anyhow::Error {
    let (node, message) = (&node.name, status.message());
    match status.code() {
        Code::Unavailable | Code::Cancelled => anyhow!("{node} broke off before it could {what}: {message}"),
        Code::DeadlineExceeded => anyhow!("{node} did not {what} within {} s", PATIENCE.as_secs()),
        _ => anyhow!("{node} did not {what}: {message}"),
    }
}
