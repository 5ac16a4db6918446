//! The node proxy, asked over its enrolment socket.

use std::{path::Path, time::Duration};

use mesh_proto::enrol::{EnrolRequest, EnrolledPod, ListRequest, enrolment_service_client::EnrolmentServiceClient};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

/// Why the node proxy did not do it.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("the node proxy's socket {socket} is not served")]
    Away {
        socket: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("the path of the node proxy's socket, {socket:?}, is no UTF-8")]
    Path { socket: std::path::PathBuf },
    #[error("the node proxy refuses: {}", .0.message())]
    Refused(Status),
    #[error("the node proxy has not captured it")]
    NotCaptured,
}

impl NodeError {
    /// Whether asking again a moment later may help. An address that another pod has is free as soon as that one's end is seen.
    pub fn passes(&self) -> bool {
        match self {
            Self::Away { .. } | Self::NotCaptured => true,
            Self::Path { .. } => false,
            Self::Refused(status) => !matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition),
        }
    }

    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Away { .. } => {
                "is the pod of keelson-node running on this node? To take the mesh off the cluster: meshctl uninstall"
            }
            Self::Path { .. } => "see --runtime-dir of the node proxy",
            Self::Refused(_) | Self::NotCaptured => "the log of this node's pod of keelson-node says more",
        }
    }
}

/// Has a pod captured. `within` bounds the wait for an answer.
pub async fn enrol(socket: &Path, pod: EnrolRequest, within: Duration) -> Result<(), NodeError> {
    connect(socket, within).await?.enrol(pod).await.map(drop).map_err(NodeError::Refused)
}

/// Every pod that the node proxy knows.
pub async fn list(socket: &Path, within: Duration) -> Result<Vec<EnrolledPod>, NodeError> {
    let answer = connect(socket, within).await?.list(ListRequest {}).await;
    Ok(answer.map_err(NodeError::Refused)?.into_inner().pods)
}

async fn connect(socket: &Path, within: Duration) -> Result<EnrolmentServiceClient<Channel>, NodeError> {
    let path = socket.to_str().ok_or_else(|| NodeError::Path { socket: socket.to_owned() })?;
    let away = |source| NodeError::Away { socket: path.to_owned(), source };
    let endpoint = Endpoint::from_shared(format!("unix:{path}")).map_err(away)?.timeout(within).connect_timeout(within);
    Ok(EnrolmentServiceClient::new(endpoint.connect().await.map_err(away)?))
}
