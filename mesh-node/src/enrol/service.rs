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
};
use crate::state::client::chain;

pub struct Service(pub Arc<Agent>);

#[tonic::async_trait]
impl EnrolmentService for Service {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let request = request.into_inner();
        let running = request.running;
        let record = record(request)?;
        let uid = record.uid.clone();
        self.0.enrol(record, running).await.map_err(|error| {
            warn!(uid, error = %chain(&error), "pod refused");
            match error {
                EnrolError::Invalid { .. } => Status::invalid_argument(chain(&error)),
                EnrolError::AddressTaken { .. } => Status::already_exists(chain(&error)),
                _ => Status::failed_precondition(chain(&error)),
            }
        })?;
        Ok(Response::new(EnrolResponse {}))
    }

    async fn unenrol(&self, request: Request<UnenrolRequest>) -> Result<Response<UnenrolResponse>, Status> {
        let uid = mesh_policy::model::WorkloadUid(request.into_inner().workload_uid.into());
        self.0.unenrol(&uid).await.map_err(|error| Status::internal(chain(&error)))?;
        Ok(Response::new(UnenrolResponse {}))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let pods = self.0.status().into_iter().map(|status| EnrolledPod {
            workload_uid: status.record.uid,
            namespace: status.record.namespace,
            name: status.record.name,
            service_account: status.record.service_account,
            netns_path: status.record.netns_path.display().to_string(),
            addresses: status.record.addresses.iter().map(ToString::to_string).collect(),
            state: if status.leaving { PodState::Releasing } else { PodState::Captured }.into(),
            message: String::new(),
            pod_uid: String::new(),
        });
        Ok(Response::new(ListResponse { pods: pods.collect() }))
    }
}

fn record(request: EnrolRequest) -> Result<PodRecord, Status> {
    let address = |text: &String| {
        text.parse::<IpAddr>().map_err(|_| Status::invalid_argument(format!("addresses: {text:?} is no IP address")))
    };
    let addresses = request.addresses.iter().map(address).collect::<Result<_, _>>()?;
    Ok(PodRecord {
        uid: request.workload_uid,
        namespace: request.namespace,
        name: request.name,
        service_account: request.service_account,
        netns_path: request.netns_path.into(),
        addresses,
    })
}
