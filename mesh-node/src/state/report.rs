//! Tells the controller which pods are captured here, and waits for the mesh to let go of one that leaves.
//!
//! A workload is advertised as HBONE only when its node has reported that the capture stands. All is reported again
//! whenever the controller comes back, so that neither side has to remember what the other one was told.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mesh_policy::model::WorkloadUid;
use mesh_proto::node::{CaptureRequest, CaptureState, SyncRequest, node_service_client::NodeServiceClient};
use tokio::sync::{Notify, RwLock, watch};
use tonic::transport::Channel;
use tracing::{info, warn};

/// A call that takes longer is made again; the controller bounds its own wait at ten seconds.
const CALL: Duration = Duration::from_secs(12);
const ADVERTISING: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(250);

pub struct Reporter {
    node: String,
    channel: Channel,
    token: Box<dyn Fn() -> std::io::Result<String> + Send + Sync>,
    captured: Mutex<BTreeSet<WorkloadUid>>,
    /// Held for reading by every report that may call a pod captured. A release waits for those under way: one that arrived
    /// after it would have the mesh dial a pod that has left.
    order: RwLock<()>,
    changed: Notify,
    connected: watch::Receiver<bool>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("the controller is away")]
    Away,
    #[error("the token could not be read")]
    Token(#[source] std::io::Error),
    #[error("the controller refused: {}", .0.message())]
    Refused(tonic::Status),
    #[error("not acknowledged yet by: {}", .0.join(", "))]
    NotAcknowledged(Vec<String>),
}

impl Reporter {
    pub fn new(
        node: String,
        channel: Channel,
        token: Box<dyn Fn() -> std::io::Result<String> + Send + Sync>,
        connected: watch::Receiver<bool>,
    ) -> Arc<Self> {
        Arc::new(Self {
            node,
            channel,
            token,
            captured: Mutex::default(),
            order: RwLock::default(),
            changed: Notify::new(),
            connected,
        })
    }

    /// Reports, as soon as it can, that a pod's capture stands.
    pub fn captured(&self, uid: &WorkloadUid) {
        self.set(|captured| captured.insert(uid.clone()));
    }

    /// Returns when every connected node has acknowledged that the pod is reached by HBONE; at the latest after
    /// [`ADVERTISING`], when waiting longer would leave the pod open for a node that is away.
    pub async fn advertised(&self, uid: &WorkloadUid) {
        let until = tokio::time::Instant::now() + ADVERTISING;
        let mut connected = self.connected.clone();
        while tokio::time::Instant::now() < until {
            match tokio::time::timeout_at(until, connected.wait_for(|connected| *connected)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return,
            }
            let order = self.order.read().await;
            if !self.lock().contains(uid) {
                return;
            }
            let called = self.call(uid, CaptureState::Captured).await;
            drop(order);
            match called {
                Ok(()) => return,
                Err(error) => warn!(%uid, error = %super::client::chain(&error), "HBONE is not known to all nodes yet"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Withdraws HBONE and returns when every connected node has acknowledged it. An error means that some node may
    /// still dial the pod by HBONE; such a connection is refused, never sent in plaintext.
    pub async fn release(&self, uid: &WorkloadUid) -> Result<(), ReportError> {
        self.set(|captured| captured.remove(uid));
        drop(self.order.write().await);
        if !*self.connected.borrow() {
            return Err(ReportError::Away);
        }
        self.call(uid, CaptureState::Releasing).await
    }

    /// Says nothing more: another process reports for this node.
    pub fn retire(&self) {
        self.lock().clear();
    }

    /// Keeps the controller informed, for ever.
    pub async fn run(self: Arc<Self>) {
        let mut connected = self.connected.clone();
        loop {
            if connected.wait_for(|connected| *connected).await.is_err() {
                return;
            }
            match self.sync().await {
                Ok(()) => {
                    tokio::select! {
                        () = self.changed.notified() => {}
                        gone = connected.wait_for(|connected| !*connected) => {
                            if gone.is_err() { return }
                        }
                    }
                }
                Err(error) => {
                    warn!(error = %super::client::chain(&error), "the captured pods are not reported yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn sync(&self) -> Result<(), ReportError> {
        let _order = self.order.read().await;
        let captured: Vec<String> = self.lock().iter().map(ToString::to_string).collect();
        let count = captured.len();
        let request = SyncRequest { node: self.node.clone(), captured_workload_uids: captured };
        let mut client = NodeServiceClient::new(self.channel.clone());
        let call = client.sync(self.authorized(request)?);
        let answer = tokio::time::timeout(CALL, call).await.map_err(|_| ReportError::Away)?;
        let unknown = answer.map_err(ReportError::Refused)?.into_inner().unknown_workload_uids;
        info!(pods = count, unknown = unknown.len(), "captured pods reported");
        Ok(())
    }

    async fn call(&self, uid: &WorkloadUid, state: CaptureState) -> Result<(), ReportError> {
        let request = CaptureRequest { node: self.node.clone(), workload_uid: uid.to_string(), state: state.into() };
        let mut client = NodeServiceClient::new(self.channel.clone());
        let call = client.capture(self.authorized(request)?);
        let answer = tokio::time::timeout(CALL, call).await.map_err(|_| ReportError::Away)?;
        let answer = answer.map_err(ReportError::Refused)?.into_inner();
        if answer.acknowledged_by_all { Ok(()) } else { Err(ReportError::NotAcknowledged(answer.pending_nodes)) }
    }

    fn set(&self, change: impl FnOnce(&mut BTreeSet<WorkloadUid>) -> bool) {
        if change(&mut self.lock()) {
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<WorkloadUid>> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn authorized<T>(&self, message: T) -> Result<tonic::Request<T>, ReportError> {
        let mut request = tonic::Request::new(message);
        let token = (self.token)().map_err(ReportError::Token)?;
        if let Ok(bearer) = format!("Bearer {token}").parse() {
            request.metadata_mut().insert("authorization", bearer);
        }
        Ok(request)
    }
}
