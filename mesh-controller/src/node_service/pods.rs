//! Which pods of a node belong to the mesh, told at once and again whenever that changes.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use mesh_config::{enrolment::Enrolment, kinds::Name, translate::Settings};
use mesh_proto::node::{NodePod, PodsResponse};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::placement::{Placed, Placement, PodsOfNode};

pub(super) type Responses = Pin<Box<dyn Stream<Item = Result<PodsResponse, Status>> + Send>>;

/// Follows the pods of a node until it leaves. A node that is slow gets the newest list, not each one.
pub(super) fn follow(node: String, placement: Option<watch::Receiver<Arc<Placement>>>, settings: Settings) -> Responses {
    let (responses, outgoing) = mpsc::channel(1);
    tokio::spawn(async move {
        // Whoever enrols by itself is told of no pod, and leaves alone what it is told nothing of.
        let Some(mut placement) = placement else {
            if responses.send(Ok(PodsResponse::default())).await.is_ok() {
                responses.closed().await;
            }
            return;
        };
        let mut told: Option<Arc<PodsOfNode>> = None;
        loop {
            let now = placement.borrow_and_update().pods_of(&node).cloned().unwrap_or_default();
            if told.as_ref() != Some(&now) {
                let pods = now.iter().map(|(name, pod)| node_pod(name, pod, &settings)).collect();
                if responses.send(Ok(PodsResponse { pods })).await.is_err() {
                    return;
                }
                told = Some(now);
            }
            tokio::select! {
                changed = placement.changed() => if changed.is_err() {
                    let _ = responses.send(Err(super::stopping())).await;
                    return;
                },
                () = responses.closed() => return,
            }
        }
    });
    Box::pin(ReceiverStream::new(outgoing))
}

fn node_pod(name: &Name, pod: &Placed, settings: &Settings) -> NodePod {
    let Placed { service_account, uid, addresses, ended: _, enrolment } = pod;
    NodePod {
        workload_uid: settings.pod_uid(&name.namespace, &name.name).to_string(),
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        service_account: service_account.to_string(),
        pod_uid: uid.to_string(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        enrolled: *enrolment == Enrolment::Enrolled,
    }
}
