//! The wire: generated messages, clients and servers, and their conversion to and from [`mesh_policy::model`].
//!
//! `proto/` holds the definitions, `cargo xtask codegen` writes `src/generated/`. What comes from the wire is judged
//! once, in [`convert`]: past it, a value is right by construction.

pub mod cni;
pub mod convert;

/// Each proto package as one nested module.
#[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub, reason = "generated")]
#[rustfmt::skip]
mod generated;

/// Delta discovery (`envoy.service.discovery.v3`) and what its messages use.
pub mod xds {
    pub use crate::generated::{
        envoy::{config::core::v3::Node, service::discovery::v3::*},
        google::rpc::Status,
    };
}

/// `istio.workload`: workloads and services.
pub mod workload {
    pub use crate::generated::istio::workload::*;
}

/// `istio.security`: authorization at the transport.
pub mod authorization {
    pub use crate::generated::istio::security::*;
}

/// `istio.v1.auth`: the certificate service.
pub mod ca {
    pub use crate::generated::istio::v1::auth::*;
}

/// `keelson.mesh.v1`: settings and extent of the mesh.
pub mod mesh {
    pub use crate::generated::keelson::mesh::v1::*;
}

/// `keelson.config.v1`: routes and settings, and what is added to Istio's messages.
pub mod config {
    pub use crate::generated::keelson::config::v1::*;
}

/// `keelson.node.v1`: what a node reports to the controller.
pub mod node {
    pub use crate::generated::keelson::node::v1::*;
}

/// `keelson.enrol.v1`: how pods join and leave, served by the node.
pub mod enrol {
    pub use crate::generated::keelson::enrol::v1::*;
}

/// Type URLs of the resources on the discovery stream.
pub mod type_url {
    pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
    pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";
    pub const DOCUMENT: &str = "type.googleapis.com/keelson.config.v1.Document";
    pub const LABELS: &str = "type.googleapis.com/keelson.config.v1.Labels";
    pub const MESH: &str = "type.googleapis.com/keelson.mesh.v1.Mesh";
    pub const REQUEST_MATCH: &str = "type.googleapis.com/keelson.config.v1.RequestMatch";
    /// An extension of `Service`.
    pub const EXPORTS: &str = "type.googleapis.com/keelson.config.v1.Exports";
}
