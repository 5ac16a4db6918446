//! The node proxies of a cluster: one pod a node, reached through the API server.

use std::{cmp::Reverse, collections::BTreeMap};

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, Portforwarder},
};
use tokio::io::DuplexStream;

use super::Cluster;

/// Where a node proxy serves its admin endpoints: on its node's loopback device.
const ADMIN: u16 = 15000;

/// A port of a pod, as seen from inside the pod.
#[derive(Clone)]
pub(crate) struct PodPort {
    cluster: Cluster,
    pod: String,
    port: u16,
}

/// Each node that has a proxy, by name, and where to ask it.
pub(crate) async fn nodes(cluster: &Cluster) -> Result<Vec<(String, PodPort)>> {
    let list = ListParams::default().labels("app.kubernetes.io/name=keelson-node");
    let pods =
        cluster.own::<Pod>().list(&list).await.map_err(|error| cluster.told(error)).context("cannot list the nodes' pods")?;
    let mut best: BTreeMap<String, Pod> = BTreeMap::new();
    for pod in pods {
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { continue };
        // While one takes over from another, there are two.
        if best.get(&node).is_none_or(|other| rank(&pod) > rank(other)) {
            best.insert(node, pod);
        }
    }
    let port = |pod: Pod| PodPort { cluster: cluster.clone(), pod: pod.metadata.name.unwrap_or_default(), port: ADMIN };
    Ok(best.into_iter().map(|(node, pod)| (node, port(pod))).collect())
}

/// The one that stays and is ready, then the newest.
fn rank(pod: &Pod) -> impl Ord + use<> {
    let leaves = pod.metadata.deletion_timestamp.is_some();
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    (Reverse(leaves), ready, pod.metadata.creation_timestamp.clone())
}

impl PodPort {
    /// `pod keelson-system/keelson-node-x7k2p`, for messages.
    pub(crate) fn told(&self) -> String {
        format!("pod {}/{}", self.cluster.namespace, self.pod)
    }

    /// A connection; it lives as long as the forwarder.
    pub(crate) async fn connect(&self) -> Result<(DuplexStream, Portforwarder)> {
        let pods: Api<Pod> = self.cluster.own();
        let mut forwarder = pods
            .portforward(&self.pod, &[self.port])
            .await
            .map_err(|error| self.cluster.told(error))
            .with_context(|| format!("cannot reach {}", self.told()))?;
        let stream = forwarder.take_stream(self.port).context("a forwarded port has a stream")?;
        Ok((stream, forwarder))
    }

    /// Why a forwarded connection broke off, as far as the kubelet says.
    pub(crate) async fn why(&self, forwarder: &mut Portforwarder) -> anyhow::Error {
        let said = match forwarder.take_error(self.port) {
            Some(said) => said.await.unwrap_or_default(),
            None => String::new(),
        };
        match said.as_str() {
            "" => anyhow!("{} broke the connection off", self.told()),
            said => anyhow!("{} can not be reached at its port {}: {}", self.told(), self.port, said.trim()),
        }
    }
}
