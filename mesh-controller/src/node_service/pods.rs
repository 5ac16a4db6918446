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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::StreamExt;
    use mesh_config::{
        kinds::Objects,
        validate::{Verdict, admit},
    };
    use serde_json::json;
    use tokio::time::timeout;

    use super::*;
    use crate::{placement::Places, source::Touched};

    const DEADLINE: Duration = Duration::from_secs(20);

    /// Puts a pod on a node; what is placed then.
    fn place(places: &mut Places, objects: &mut Objects, name: &str, node: &str, mode: &str) -> Arc<Placement> {
        let document = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": "shop", "name": name, "uid": "u", "labels": { "istio.io/dataplane-mode": mode } },
            "spec": { "nodeName": node, "serviceAccountName": "page", "containers": [] }, "status": { "podIP": "10.0.0.1" },
        });
        let Verdict::Admitted(admitted) = admit(&document) else { panic!("{document}") };
        let key = admitted.key;
        objects.insert(key.name.clone(), admitted.object);
        places.update(&Touched::from([key]), objects);
        Arc::new(places.placement().clone())
    }

    async fn next(responses: &mut Responses) -> Vec<NodePod> {
        timeout(DEADLINE, responses.next()).await.expect("a list in time").unwrap().unwrap().pods
    }

    #[tokio::test]
    async fn a_node_is_told_of_its_pods_at_once_and_when_they_change() {
        let (mut places, mut objects) = (Places::default(), Objects::default());
        let (sender, placement) = watch::channel(place(&mut places, &mut objects, "a", "n1", "keelson"));
        let mut responses = follow("n1".into(), Some(placement), Settings::default());
        let expected = NodePod {
            workload_uid: "Kubernetes//Pod/shop/a".into(),
            namespace: "shop".into(),
            name: "a".into(),
            service_account: "page".into(),
            pod_uid: "u".into(),
            addresses: vec!["10.0.0.1".into()],
            enrolled: true,
        };
        assert_eq!(next(&mut responses).await, std::slice::from_ref(&expected));
        // Of other nodes' pods it hears nothing.
        sender.send_replace(place(&mut places, &mut objects, "b", "n2", "keelson"));
        sender.send_replace(place(&mut places, &mut objects, "a", "n1", "none"));
        assert_eq!(next(&mut responses).await, [NodePod { enrolled: false, ..expected }]);
        drop(sender);
        assert!(timeout(DEADLINE, responses.next()).await.unwrap().unwrap().is_err());
    }

    #[tokio::test]
    async fn who_enrols_by_itself_is_told_of_no_pod() {
        let mut responses = follow("n1".into(), None, Settings::default());
        assert_eq!(next(&mut responses).await, []);
        assert!(timeout(Duration::from_millis(50), responses.next()).await.is_err(), "the stream stays open");
    }
}
