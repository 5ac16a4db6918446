//! Follows the controller's list of this node's pods, and tries again what could not be done.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_policy::model::WorkloadUid;
use mesh_proto::node::{NodePod, PodsRequest, PodsResponse, node_service_client::NodeServiceClient};
use tokio::sync::{Notify, watch};
use tonic::{Code, Status, Streaming, transport::Channel};
use tracing::{info, warn};

use super::{
    Failures, Processes,
    plan::{Captured, Step, steps},
};
use crate::{
    enrol::{
        agent::{Agent, EnrolError},
        record::PodRecord,
    },
    state::client::chain,
};

const FIRST_BACK_OFF: Duration = Duration::from_millis(250);
const LAST_BACK_OFF: Duration = Duration::from_secs(15);
/// A controller that does not know the call is asked again after this: it may be upgraded.
const UNKNOWN_CALL: Duration = Duration::from_mins(1);

pub struct Follower {
    pub node: String,
    pub channel: Channel,
    pub token: Box<dyn Fn() -> std::io::Result<String> + Send + Sync>,
    pub agent: Arc<Agent>,
    pub processes: Processes,
    pub failures: Arc<Failures>,
}

impl Follower {
    /// For ever.
    pub async fn run(self) {
        let (publish, lists) = watch::channel(None);
        tokio::join!(self.listen(&publish), self.work(lists));
    }

    async fn listen(&self, publish: &watch::Sender<Option<Arc<Vec<NodePod>>>>) {
        let mut back_off = FIRST_BACK_OFF;
        loop {
            let started = Instant::now();
            let error = match self.open().await {
                Ok(stream) => forward(stream, publish).await,
                Err(status) => status,
            };
            if started.elapsed() > LAST_BACK_OFF {
                back_off = FIRST_BACK_OFF;
            }
            if error.code() == Code::Unimplemented {
                info!("the controller does not tell which pods belong to the mesh; whoever starts them does");
                back_off = UNKNOWN_CALL;
            } else {
                warn!(error = error.message(), "which pods belong to the mesh is not heard; all stay as they are");
            }
            tokio::time::sleep(back_off.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            back_off = (back_off * 2).min(LAST_BACK_OFF);
        }
    }

    async fn open(&self) -> Result<Streaming<PodsResponse>, Status> {
        let mut request = tonic::Request::new(PodsRequest { node: self.node.clone() });
        let token = (self.token)().map_err(|error| Status::unauthenticated(format!("the token can not be read: {error}")))?;
        let bearer = format!("Bearer {token}").parse();
        let bearer = bearer.map_err(|_| Status::unauthenticated("the token is not printable ASCII"))?;
        request.metadata_mut().insert("authorization", bearer);
        let mut client = NodeServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        Ok(client.pods(request).await?.into_inner())
    }

    /// Does what a list asks for, whenever one comes, a pause is over, or something was done that others waited for.
    async fn work(&self, mut lists: watch::Receiver<Option<Arc<Vec<NodePod>>>>) {
        let released = Arc::new(Notify::new());
        loop {
            let list = lists.borrow_and_update().clone();
            if let Some(list) = list {
                self.act(&list, &released).await;
            }
            tokio::select! {
                changed = lists.changed() => if changed.is_err() { return },
                () = released.notified() => {}
                () = until(self.failures.next()) => {}
            }
        }
    }

    async fn act(&self, list: &[NodePod], released: &Arc<Notify>) {
        let mut joining = Vec::new();
        for step in steps(list, &self.captured()) {
            match step {
                Step::Enrol(pod) => joining.push(pod),
                Step::Release(pod) => self.release(pod, released.clone()),
            }
        }
        // The others have left, or the plugin has captured them meanwhile.
        self.failures.keep(&joining.iter().map(|pod| pod.workload_uid.as_str()).collect());
        joining.retain(|pod| self.failures.is_due(pod));
        if joining.is_empty() {
            return;
        }
        let uids: Vec<&str> = joining.iter().map(|pod| pod.pod_uid.as_str()).collect();
        let mut namespaces = match self.processes.namespaces(&uids) {
            Ok(namespaces) => namespaces,
            Err(error) => {
                for pod in joining {
                    self.failed(pod, &error);
                }
                return;
            }
        };
        for pod in joining {
            match namespaces.remove(&pod.pod_uid) {
                Some(Ok(paths)) => self.enrol(pod, paths).await,
                Some(Err(error)) => self.failed(pod, &error),
                None => {
                    let problem = format!("is {}, which another pod of the list has", pod.pod_uid);
                    self.failed(pod, &EnrolError::Invalid { field: "pod_uid", problem });
                }
            }
        }
    }

    /// Captures a pod in the first of the namespaces that has its address.
    async fn enrol(&self, pod: &NodePod, namespaces: Vec<std::path::PathBuf>) {
        let addresses: Result<Vec<IpAddr>, _> = pod.addresses.iter().map(|address| address.parse()).collect();
        let Ok(addresses) = addresses else {
            let problem = format!("has {:?}, not all of which are IP addresses", pod.addresses);
            return self.failed(pod, &EnrolError::Invalid { field: "addresses", problem });
        };
        let mut last = None;
        for netns_path in namespaces {
            let record = PodRecord {
                uid: pod.workload_uid.clone(),
                pod_uid: pod.pod_uid.clone(),
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                service_account: pod.service_account.clone(),
                netns_path,
                addresses: addresses.clone(),
            };
            match self.agent.enrol(record, true).await {
                Ok(()) => return self.failures.forget(&pod.workload_uid),
                Err(error @ EnrolError::NoInterface { .. }) => last = Some(error),
                Err(error) => return self.failed(pod, &error),
            }
        }
        if let Some(error) = last {
            self.failed(pod, &error);
        }
    }

    /// Waits for other nodes' acknowledgements, so that it must not hold up anybody else.
    fn release(&self, pod: &NodePod, released: Arc<Notify>) {
        let (agent, uid, pod_uid) = (self.agent.clone(), WorkloadUid(pod.workload_uid.as_str().into()), pod.pod_uid.clone());
        let of_record = agent.status().into_iter().find(|status| status.record.uid == pod.workload_uid);
        // Whoever enrolled it may not have said its uid.
        let pod_uid = of_record.map_or(pod_uid, |status| status.record.pod_uid);
        tokio::spawn(async move {
            match agent.unenrol(&uid, Some(&pod_uid)).await {
                Ok(()) => released.notify_one(),
                Err(error) => warn!(%uid, error = %chain(&error), "a pod that leaves the mesh could not be released"),
            }
        });
    }

    fn captured(&self) -> BTreeMap<String, Captured> {
        let statuses = self.agent.status().into_iter();
        let captured = statuses.map(|status| {
            let have = Captured { pod_uid: status.record.pod_uid, leaving: status.leaving, alive: status.alive };
            (status.record.uid, have)
        });
        captured.collect()
    }

    fn failed(&self, pod: &NodePod, error: &dyn std::error::Error) {
        let message = chain(error);
        let again = self.failures.note(pod, message.clone());
        warn!(uid = pod.workload_uid, error = message, again_in_s = again.as_secs(), "a pod that runs could not be captured");
    }
}

/// Returns why it ended.
async fn forward(mut stream: Streaming<PodsResponse>, publish: &watch::Sender<Option<Arc<Vec<NodePod>>>>) -> Status {
    loop {
        match stream.message().await {
            Ok(Some(PodsResponse { pods })) => {
                let enrolled = pods.iter().filter(|pod| pod.enrolled).count();
                info!(pods = pods.len(), enrolled, "the controller names this node's pods");
                publish.send_replace(Some(Arc::new(pods)));
            }
            Ok(None) => return Status::unavailable("the controller ended the stream"),
            Err(status) => return status,
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
