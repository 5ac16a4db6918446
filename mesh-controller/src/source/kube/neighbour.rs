//! Whether istio-cni is installed: then `ambient` is its word, and pods that ask by it are not ours.

use kube::{Client, core::ApiResource};
use mesh_config::enrolment::Ownership;
use tokio::sync::{mpsc, watch};
use tracing::info;

use super::{
    follow::Delivery,
    health::Health,
    names::{Known, Lookout},
};

/// As Istio's charts label it.
const ISTIO_CNI: &str = "k8s-app=istio-cni-node";

/// Follows for ever. Nothing is taken to be ours before it is known.
pub(super) async fn watch(client: Client, deliveries: mpsc::Sender<Delivery>, health: Health) {
    let resource = ApiResource {
        group: "apps".into(),
        version: "v1".into(),
        api_version: "apps/v1".into(),
        kind: "DaemonSet".into(),
        plural: "daemonsets".into(),
    };
    let lookout = Lookout { client, resource, labels: Some(ISTIO_CNI), wanted: |_| true, health };
    let (sender, mut known) = watch::channel(Known::NotYet);
    let tell = async {
        while known.changed().await.is_ok() {
            let ambient = matches!(&*known.borrow_and_update(), Known::Names(names) if names.is_empty());
            info!(ambient, "pods labelled ambient belong to {}", if ambient { "this mesh" } else { "istio-cni" });
            if deliveries.send(Delivery::Ownership(Ownership { ambient })).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(lookout.run(sender), tell);
}
