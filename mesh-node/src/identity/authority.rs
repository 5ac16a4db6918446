//! The certificate authority over gRPC: `istio.v1.auth.IstioCertificateService/CreateCertificate`.
//!
//! The node asks for the identities of its pods in its own name: its token authenticates the node, and the identity stands in
//! the request's metadata as `ImpersonatedIdentity`, as ztunnel does. The authority signs only for pods on this node.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use mesh_policy::model::Identity;
use mesh_proto::ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient};
use prost_types::{Struct, Value, value::Kind};
use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Channel};

use super::store::{CertificateAuthority, SignError};

/// How this node asks.
#[derive(Clone, Debug)]
pub struct GrpcAuthoritySettings {
    /// Read for each call: a projected token is rotated under us.
    pub token: PathBuf,
    /// The `clusterid` of the call's metadata.
    pub cluster: String,
    /// Asked for; the authority may give less.
    pub validity: Duration,
}

/// The controller, or any CA of Istio's protocol.
pub struct GrpcAuthority {
    channel: Channel,
    settings: GrpcAuthoritySettings,
}

impl GrpcAuthority {
    pub fn new(channel: Channel, settings: GrpcAuthoritySettings) -> Self {
        Self { channel, settings }
    }

    async fn request(&self, identity: &Identity, csr_pem: &str) -> Result<Request<IstioCertificateRequest>, SignError> {
        let token = tokio::fs::read_to_string(&self.settings.token).await.map_err(|source| SignError::Token { source })?;
        let mut request = Request::new(IstioCertificateRequest {
            csr: csr_pem.to_owned(),
            validity_duration: i64::try_from(self.settings.validity.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(impersonated(identity)),
        });
        let malformed = |what| SignError::Refused { cause: format!("the {what} can not be sent as gRPC metadata") };
        let bearer: MetadataValue<_> = format!("Bearer {}", token.trim()).parse().map_err(|_| malformed("token"))?;
        request.metadata_mut().insert("authorization", bearer);
        let cluster = self.settings.cluster.parse().map_err(|_| malformed("cluster"))?;
        request.metadata_mut().insert("clusterid", cluster);
        Ok(request)
    }
}

impl CertificateAuthority for GrpcAuthority {
    async fn sign(&self, identity: &Identity, csr_pem: &str) -> Result<Vec<String>, SignError> {
        let request = self.request(identity, csr_pem).await?;
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        let answer = client.create_certificate(request).await.map_err(|status| failure(&status))?;
        Ok(answer.into_inner().cert_chain)
    }
}

fn impersonated(identity: &Identity) -> Struct {
    let value = Value { kind: Some(Kind::StringValue(identity.to_string())) };
    Struct { fields: BTreeMap::from([("ImpersonatedIdentity".to_owned(), value)]) }
}

fn failure(status: &Status) -> SignError {
    let cause = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition => {
            SignError::Refused { cause }
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => SignError::Unavailable { cause },
    }
}
