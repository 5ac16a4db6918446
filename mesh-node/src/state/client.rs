//! The delta ADS client: one stream to the controller, every resource judged, every response acknowledged once it is in
//! force.
//!
//! A response is acknowledged only after the snapshot that contains it has been published: the controller may rely on
//! an acknowledgement as "this node acts on it". Refused resources are named in the answer; what was held under their
//! names stays in force.

use std::{sync::Arc, time::Duration};

use mesh_proto::xds::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::transport::Channel;
use tracing::{debug, info, warn};

use super::{
    disk::{self, StateFile},
    resources::{Resources, TYPES},
    store::Store,
};
use crate::telemetry::Telemetry;

/// Changes that arrive within this time share one snapshot.
const BATCH: Duration = Duration::from_millis(10);
/// The disk is written at most this often.
const SAVE_EVERY: Duration = Duration::from_secs(1);
const FIRST_BACK_OFF: Duration = Duration::from_millis(10);
const LAST_BACK_OFF: Duration = Duration::from_secs(15);
/// gRPC's INVALID_ARGUMENT, as a refusal is worded on this stream.
const INVALID_ARGUMENT: i32 = 3;

pub struct Client {
    pub node_id: String,
    pub channel: Channel,
    /// Read anew for every stream: tokens are renewed in place.
    pub token: Box<dyn Fn() -> std::io::Result<String> + Send + Sync>,
    pub store: Arc<Store>,
    pub telemetry: Arc<Telemetry>,
    pub file: StateFile,
    /// Whether a stream stands.
    pub connected: watch::Sender<bool>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("the controller ended the stream")]
    Ended,
    #[error("the token could not be read")]
    Token(#[source] std::io::Error),
    #[error("{} ({:?})", .0.message(), .0.code())]
    Status(tonic::Status),
}

impl Client {
    /// Replays the disk, then follows the controller for ever.
    pub async fn run(self) {
        let mut resources = Resources::default();
        match self.file.load(&mut resources) {
            Ok(rejected) => {
                for rejected in rejected {
                    warn!(%rejected, "a resource on disk is refused by this version");
                }
                if resources.received().next().is_some() {
                    self.store.publish(resources.snapshot_after(&self.store.load()));
                    info!("serving from the last good state until the controller answers");
                }
            }
            Err(error) => warn!(error = %chain(&error), "the last good state is not available"),
        }
        let mut back_off = FIRST_BACK_OFF;
        loop {
            let started = Instant::now();
            let mut pending = Pending::default();
            let error = match self.follow(&mut resources, &mut pending).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            self.settle(&resources, &pending).await;
            self.connected.send_replace(false);
            self.telemetry.metrics.xds_connected.set(0);
            if started.elapsed() > LAST_BACK_OFF {
                back_off = FIRST_BACK_OFF;
            }
            warn!(%error, retry_in_ms = back_off.as_millis() as u64, "no stream to the controller; the last state stays in force");
            tokio::time::sleep(back_off.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            back_off = (back_off * 2).min(LAST_BACK_OFF);
        }
    }

    async fn follow(&self, resources: &mut Resources, pending: &mut Pending) -> Result<std::convert::Infallible, StreamError> {
        let (requests, outgoing) = mpsc::channel(64);
        for type_url in TYPES {
            let request = DeltaDiscoveryRequest {
                node: Some(Node { id: self.node_id.clone(), ..Node::default() }),
                type_url: type_url.into(),
                resource_names_subscribe: vec!["*".into()],
                initial_resource_versions: resources.versions(type_url).collect(),
                ..DeltaDiscoveryRequest::default()
            };
            // The channel has room for all of them and its receiver is in hand.
            let _ = requests.try_send(request);
        }
        let mut request = tonic::Request::new(ReceiverStream::new(outgoing));
        let token = (self.token)().map_err(StreamError::Token)?;
        let bearer = format!("Bearer {token}").parse().map_err(|_| {
            StreamError::Token(std::io::Error::new(std::io::ErrorKind::InvalidData, "the token is not printable ASCII"))
        })?;
        request.metadata_mut().insert("authorization", bearer);
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel.clone()).max_decoding_message_size(256 << 20);
        let mut responses = client.delta_aggregated_resources(request).await.map_err(StreamError::Status)?.into_inner();
        info!("connected to the controller");
        self.connected.send_replace(true);
        self.telemetry.metrics.xds_connected.set(1);

        loop {
            tokio::select! {
                biased;
                () = at(pending.publish_at) => {
                    self.store.publish(resources.snapshot_after(&self.store.load()));
                    pending.publish_at = None;
                    pending.save_at.get_or_insert(Instant::now() + SAVE_EVERY);
                    for acknowledgement in pending.acknowledgements.drain(..) {
                        requests.send(acknowledgement).await.map_err(|_| StreamError::Ended)?;
                    }
                }
                response = responses.next() => {
                    let response = response.ok_or(StreamError::Ended)?.map_err(StreamError::Status)?;
                    self.telemetry.metrics.xds_messages.inc();
                    pending.acknowledgements.push(self.apply(resources, response));
                    pending.publish_at.get_or_insert(Instant::now() + BATCH);
                }
                () = at(pending.save_at) => {
                    pending.save_at = None;
                    self.save(disk::encode(resources)).await;
                }
            }
        }
    }

    /// What the stream brought before it ended comes into force and onto the disk all the same: there may be no other stream
    /// for long, and a restart before it.
    async fn settle(&self, resources: &Resources, pending: &Pending) {
        if pending.publish_at.is_some() {
            self.store.publish(resources.snapshot_after(&self.store.load()));
        }
        if pending.publish_at.is_some() || pending.save_at.is_some() {
            self.save(disk::encode(resources)).await;
        }
    }

    /// Judges a response and words its acknowledgement.
    fn apply(&self, resources: &mut Resources, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        debug!(
            type_url = response.type_url,
            changed = response.resources.len(),
            removed = response.removed_resources.len(),
            "resources received"
        );
        for name in &response.removed_resources {
            resources.remove(&response.type_url, name);
        }
        let mut refusals = Vec::new();
        for resource in response.resources {
            if let Err(rejected) = resources.upsert(&response.type_url, resource) {
                warn!(%rejected, type_url = response.type_url, "resource refused; the last good one stays in force");
                self.telemetry.metrics.xds_rejected.inc();
                refusals.push(rejected.to_string());
            }
        }
        let error_detail =
            (!refusals.is_empty()).then(|| Status { code: INVALID_ARGUMENT, message: refusals.join("; "), ..Status::default() });
        DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            error_detail,
            ..DeltaDiscoveryRequest::default()
        }
    }

    async fn save(&self, encoded: Vec<u8>) {
        let file = self.file.clone();
        let saved = tokio::task::spawn_blocking(move || file.save(&encoded)).await;
        if let Ok(Err(error)) = saved {
            warn!(error = %chain(&error), "the last good state is not saved");
        }
    }
}

#[derive(Default)]
struct Pending {
    acknowledgements: Vec<DeltaDiscoveryRequest>,
    publish_at: Option<Instant>,
    save_at: Option<Instant>,
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}
