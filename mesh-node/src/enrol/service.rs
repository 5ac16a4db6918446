//! The enrolment service on the node's unix socket, for whoever starts pods here: a CNI plugin, the lab, `meshctl`.

use std::{net::IpAddr, sync::Arc};

use mesh_proto::enrol::{
    EnrolRequest, EnrolResponse, EnrolledPod, ListRequest, ListResponse, PodState, UnenrolRequest, UnenrolResponse,
    enrolment_service_server::EnrolmentService,
};
use tonic::{Request, Response, Status};
use tracing::warn;

use super::{
    agent::{Agent, EnrolError},
    record::PodRecord,
    running::Failures,
};
use crate::state::client::chain;

pub struct Service {
    pub agent: Arc<Agent>,
    /// Pods that run here, belong to the mesh and could not be captured.
    pub failures: Arc<Failures>,
}

#[tonic::async_trait]
impl EnrolmentService for Service {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let request = request.into_inner();
        let running = request.running;
        let record = record(request)?;
        let uid = record.uid.clone();
        self.agent.enrol(record, running).await.map_err(|error| {
            warn!(uid, error = %chain(&error), "pod refused");
            match error {
                EnrolError::Invalid { .. } => Status::invalid_argument(chain(&error)),
                EnrolError::AddressTaken { .. } => Status::already_exists(chain(&error)),
                EnrolError::Retired => Status::unavailable(chain(&error)),
                _ => Status::failed_precondition(chain(&error)),
            }
        })?;
        Ok(Response::new(EnrolResponse {}))
    }

    async fn unenrol(&self, request: Request<UnenrolRequest>) -> Result<Response<UnenrolResponse>, Status> {
        let UnenrolRequest { workload_uid, pod_uid } = request.into_inner();
        let uid = mesh_policy::model::WorkloadUid(workload_uid.into());
        let pod_uid = Some(pod_uid.as_str()).filter(|uid| !uid.is_empty());
        self.agent.unenrol(&uid, pod_uid).await.map_err(|error| Status::internal(chain(&error)))?;
        Ok(Response::new(UnenrolResponse {}))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let mut pods = self.failures.list();
        pods.extend(self.agent.status().into_iter().map(|status| EnrolledPod {
            workload_uid: status.record.uid,
            namespace: status.record.namespace,
            name: status.record.name,
            service_account: status.record.service_account,
            netns_path: status.record.netns_path.display().to_string(),
            addresses: status.record.addresses.iter().map(ToString::to_string).collect(),
            state: if status.leaving { PodState::Releasing } else { PodState::Captured }.into(),
            message: String::new(),
            pod_uid: status.record.pod_uid,
        }));
        Ok(Response::new(ListResponse { pods }))
    }
}

fn record(request: EnrolRequest) -> Result<PodRecord, Status> {
    let address = |text: &String| {
        text.parse::<IpAddr>().map_err(|_| Status::invalid_argument(format!("addresses: {text:?} is no IP address")))
    };
    let addresses = request.addresses.iter().map(address).collect::<Result<_, _>>()?;
    Ok(PodRecord {
        uid: request.workload_uid,
        pod_uid: request.pod_uid,
        namespace: request.namespace,
        name: request.name,
        service_account: request.service_account,
        netns_path: request.netns_path.into(),
        addresses,
    })
}
