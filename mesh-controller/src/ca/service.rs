//! Certificates for pods, asked for by their nodes: `istio.v1.auth.IstioCertificateService`.

use std::{sync::Arc, time::Duration};

use mesh_policy::model::Identity;
use mesh_proto::ca::{
    IstioCertificateRequest, IstioCertificateResponse, istio_certificate_service_server::IstioCertificateService,
};
use prost_types::value::Kind;
use tokio::{sync::watch, time::timeout};
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use super::{authority::AuthorityError, keeper::Keeper};
use crate::{auth::caller, placement::Placement, telemetry::Telemetry};

/// A node may hear of a pod a moment before its object is read here.
const PLACEMENT_PATIENCE: Duration = Duration::from_secs(2);
const MAX_REQUEST: usize = 16 << 10;
const SHORTEST: Duration = Duration::from_secs(10);

/// Signs for identities of pods that are on the calling node.
pub struct Certificates {
    pub keeper: Arc<Keeper>,
    pub placement: watch::Receiver<Arc<Placement>>,
    pub longest: Duration,
    pub telemetry: Arc<Telemetry>,
}

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let node = caller(&request)?.node;
        let signed = self.sign(&node, request.into_inner()).await;
        match &signed {
            Ok(identity) => {
                self.telemetry.metrics.certificates.inc();
                info!(node, identity = %identity.0, "certificate signed");
            }
            Err(status) => {
                self.telemetry.metrics.sign_errors.inc();
                warn!(node, reason = status.message(), "certificate refused");
            }
        }
        signed.map(|(_, cert_chain)| Response::new(IstioCertificateResponse { cert_chain }))
    }
}

impl Certificates {
    async fn sign(&self, node: &str, request: IstioCertificateRequest) -> Result<(Identity, Vec<String>), Status> {
        let IstioCertificateRequest { csr, validity_duration, metadata } = request;
        if csr.len() > MAX_REQUEST {
            return Err(Status::invalid_argument("the request is too large"));
        }
        let fields = metadata.unwrap_or_default().fields;
        let asked = fields.get("ImpersonatedIdentity").and_then(|value| match &value.kind {
            Some(Kind::StringValue(text)) => Some(text),
            _ => None,
        });
        let asked = asked.ok_or_else(|| {
            Status::invalid_argument("metadata ImpersonatedIdentity is missing: nodes have no identity of their own")
        })?;
        let identity: Identity = asked.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        self.placed(node, &identity).await?;

        let asked = u64::try_from(validity_duration).ok().filter(|seconds| *seconds != 0).map(Duration::from_secs);
        let lifetime = asked.unwrap_or(self.longest).clamp(SHORTEST, self.longest);
        let authority = self.keeper.authority();
        let chain = authority.sign(&identity, &csr, lifetime).map_err(|error| match error {
            AuthorityError::Request { .. } | AuthorityError::Key => Status::invalid_argument(error.to_string()),
            other => Status::internal(other.to_string()),
        })?;
        Ok((identity, chain))
    }

    async fn placed(&self, node: &str, identity: &Identity) -> Result<(), Status> {
        let mut placement = self.placement.clone();
        let allowed = placement.wait_for(|placement| placement.allows(node, identity).is_ok());
        if timeout(PLACEMENT_PATIENCE, allowed).await.is_ok_and(|found| found.is_ok()) {
            return Ok(());
        }
        let refusal = self.placement.borrow().allows(node, identity);
        refusal.map_err(|refusal| Status::permission_denied(refusal.to_string()))
    }
}
