//! The discovery service: a task for each node's stream.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::Stream as FutureStream;
use mesh_proto::xds::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use tokio::{
    sync::{mpsc, watch},
    time::{interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use super::{
    nodes::Nodes,
    published::Published,
    stream::{Answer, Stream},
};
use crate::{
    auth::{Authenticator, Caller, caller},
    telemetry::{Telemetry, TypeLabel},
};

/// A node that takes nothing for so long is cut off; it connects again when it can.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// How soon a revoked token ends an open stream.
const TOKEN_CHECK: Duration = Duration::from_secs(5);

/// Serves `AggregatedDiscoveryService`.
#[derive(Clone)]
pub struct Discovery {
    pub published: watch::Receiver<Arc<Published>>,
    pub nodes: Arc<Nodes>,
    pub authenticator: Authenticator,
    pub telemetry: Arc<Telemetry>,
}

type Responses = Pin<Box<dyn FutureStream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type StreamAggregatedResourcesStream = Pin<Box<dyn FutureStream<Item = Result<DiscoveryResponse, Status>> + Send>>;
    type DeltaAggregatedResourcesStream = Responses;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("only the delta variant (DeltaAggregatedResources) is served"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let caller = caller(&request)?;
        let (responses, outgoing) = mpsc::channel(1);
        let discovery = self.clone();
        tokio::spawn(async move {
            let node = caller.node.clone();
            info!(node, "node connected");
            let ended = discovery.serve(caller, request.into_inner(), &responses).await;
            info!(node, reason = ended.message(), "node disconnected");
            // A node that is still there is told why; one that is gone does not listen.
            let _ = responses.try_send(Err(ended));
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

impl Discovery {
    /// Serves one stream until it ends, and says why it did.
    async fn serve(
        mut self,
        caller: Caller,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        responses: &mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    ) -> Status {
        let connection = self.nodes.connect(&caller.node);
        let mut stream = Stream::default();
        let mut token_check = interval(TOKEN_CHECK);
        loop {
            let published = self.published.borrow_and_update().clone();
            while let Some((kind, response)) = stream.response(&published) {
                let label = TypeLabel { resource: kind.label() };
                let count = response.resources.len() + response.removed_resources.len();
                debug!(node = caller.node, resource = kind.label(), count, generation = published.generation, "push");
                self.telemetry.metrics.pushes.get_or_create(&label).inc();
                self.telemetry.metrics.resources_pushed.get_or_create(&label).inc_by(count as u64);
                match timeout(SEND_TIMEOUT, responses.send(Ok(response))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Status::cancelled("the node has left"),
                    Err(_) => return Status::deadline_exceeded("the node takes no responses"),
                }
            }
            connection.progress.send_if_modified(|progress| {
                let next = stream.progress();
                let changed = *progress != next;
                *progress = next;
                changed
            });
            tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.note(&caller.node, stream.request(request, &published)),
                    Ok(None) => return Status::cancelled("the node has ended the stream"),
                    Err(status) => return status,
                },
                changed = self.published.changed() => if changed.is_err() {
                    return Status::unavailable("the controller is shutting down");
                },
                _ = token_check.tick() => if !self.authenticator.is_valid(&caller) {
                    return Status::unauthenticated("the token was revoked, or its pod is gone");
                },
            }
        }
    }

    fn note(&self, node: &str, answer: Answer) {
        let metrics = &self.telemetry.metrics;
        match answer {
            Answer::Acknowledged(kind) => drop(metrics.acks.get_or_create(&TypeLabel { resource: kind.label() }).inc()),
            Answer::Refused { kind, message } => {
                metrics.nacks.get_or_create(&TypeLabel { resource: kind.label() }).inc();
                warn!(node, resource = kind.label(), message, "the node refused resources and keeps those that it had");
            }
            Answer::UnknownType => debug!(node, "the node asks for a type that is not served"),
            Answer::Subscription | Answer::Stale => {}
        }
    }
}
