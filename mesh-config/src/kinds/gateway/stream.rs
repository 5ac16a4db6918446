//! TCPRoute and TLSRoute: connections as they are.

use serde::Deserialize;

use super::{ParentRef, parent::service};
use crate::kinds::Resource;

pub type TcpRoute = Resource<TcpRouteSpec>;
pub type TlsRoute = Resource<TlsRouteSpec>;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpRouteSpec {
    pub parent_refs: Vec<ParentRef>,
    pub use_default_gateways: Option<String>,
    pub rules: Vec<StreamRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsRouteSpec {
    pub parent_refs: Vec<ParentRef>,
    pub use_default_gateways: Option<String>,
    /// Names of SNI; `*.` may come first. None: every name.
    pub hostnames: Vec<String>,
    pub rules: Vec<StreamRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamRule {
    pub name: Option<String>,
    pub backend_refs: Vec<StreamBackend>,
}

/// A backend with its share.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamBackend {
    #[serde(default)]
    pub group: String,
    #[serde(default = "service")]
    pub kind: String,
    pub name: String,
    #[serde(default)]
    pub namespace: Option<String>,
    #[serde(default)]
    pub port: Option<u16>,
    /// None: 1.
    #[serde(default)]
    pub weight: Option<u32>,
}
