//! What nodes report and ask: served as `keelson.node.v1.NodeService`.

mod pods;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mesh_config::translate::Settings;
use mesh_policy::model::TunnelProtocol;
use mesh_proto::node::{
    CaptureRequest, CaptureResponse, CaptureState, PodsRequest, SyncRequest, SyncResponse, node_service_server::NodeService,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};
use tonic::{Request, Response, Status};

use crate::{
    auth::caller,
    distribute::{Nodes, Published},
    placement::Placement,
    reconcile::{Handle, Recorded},
};

/// How long an answer waits for acknowledgements.
const PATIENCE: Duration = Duration::from_secs(10);
/// What other replicas are given to tell their own nodes of a release, once they are told themselves.
const OTHERS: Duration = Duration::from_secs(2);
/// More workloads than any node has.
const MAX_WORKLOADS: usize = 10_000;
const MAX_UID: usize = 1024;

pub struct Reported {
    pub reconciler: Handle,
    pub nodes: Arc<Nodes>,
    pub published: watch::Receiver<Arc<Published>>,
    pub settings: Settings,
    /// None: nodes are told by somebody else which pods to capture.
    pub placement: Option<watch::Receiver<Arc<Placement>>>,
}

#[tonic::async_trait]
impl NodeService for Reported {
    type PodsStream = pods::Responses;

    async fn pods(&self, request: Request<PodsRequest>) -> Result<Response<pods::Responses>, Status> {
        let caller = caller(&request)?;
        own_name(&caller.node, &request.get_ref().node)?;
        Ok(Response::new(pods::follow(caller.node, self.placement.clone(), self.settings.clone())))
    }

    async fn capture(&self, request: Request<CaptureRequest>) -> Result<Response<CaptureResponse>, Status> {
        let caller = caller(&request)?;
        let CaptureRequest { node, workload_uid, state } = request.into_inner();
        own_name(&caller.node, &node)?;
        valid_uid(&workload_uid)?;
        let captured = match CaptureState::try_from(state) {
            Ok(CaptureState::Captured) => true,
            Ok(CaptureState::Releasing) => false,
            Ok(CaptureState::Unspecified) | Err(_) => {
                return Err(Status::invalid_argument("state is neither CAPTURED nor RELEASING"));
            }
        };
        let deadline = Instant::now() + PATIENCE;
        let recorded = self.reconciler.capture(&caller.node, &workload_uid, captured).await.map_err(|_| stopping())?;
        let Recorded { mut generation, told, others_serve } = recorded;
        if captured {
            // The pod itself may be known a little later than its capture.
            let mut published = self.published.clone();
            let advertised = published.wait_for(|published| published.tunnel(&workload_uid) == Some(TunnelProtocol::Hbone));
            match timeout_at(deadline, advertised).await {
                Ok(Ok(published)) => generation = generation.max(published.generation),
                Ok(Err(_)) => return Err(stopping()),
                Err(_) => return Ok(Response::new(CaptureResponse { acknowledged_by_all: false, pending_nodes: Vec::new() })),
            }
        }
        let pending_nodes = self.nodes.acknowledged(generation, &workload_uid, deadline).await;
        // A capture that others do not know of yet does no harm; a release that they do not know of would.
        let known = match told {
            Some(told) if !captured => {
                let told = matches!(timeout_at(deadline, told).await, Ok(Ok(true)));
                if told && others_serve {
                    sleep_until((Instant::now() + OTHERS).min(deadline)).await;
                }
                told
            }
            Some(_) | None => true,
        };
        Ok(Response::new(CaptureResponse { acknowledged_by_all: known && pending_nodes.is_empty(), pending_nodes }))
    }

    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<SyncResponse>, Status> {
        let caller = caller(&request)?;
        let SyncRequest { node, captured_workload_uids } = request.into_inner();
        own_name(&caller.node, &node)?;
        if captured_workload_uids.len() > MAX_WORKLOADS {
            return Err(Status::invalid_argument(format!("more than {MAX_WORKLOADS} workloads")));
        }
        for uid in &captured_workload_uids {
            valid_uid(uid)?;
        }
        let uids: BTreeSet<String> = captured_workload_uids.into_iter().collect();
        let unknown_workload_uids = self.reconciler.sync(&caller.node, uids).await.map_err(|_| stopping())?;
        Ok(Response::new(SyncResponse { unknown_workload_uids }))
    }
}

fn own_name(caller: &str, node: &str) -> Result<(), Status> {
    if caller == node {
        return Ok(());
    }
    Err(Status::permission_denied(format!("the token is of node {caller}, not of {node}")))
}

fn valid_uid(uid: &str) -> Result<(), Status> {
    if uid.is_empty() || uid.len() > MAX_UID {
        return Err(Status::invalid_argument("a workload's uid has 1 to 1024 bytes"));
    }
    Ok(())
}

fn stopping() -> Status {
    Status::unavailable("the controller is shutting down")
}
