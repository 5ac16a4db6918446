//! GRPCRoute.

use serde::Deserialize;
use serde_json::Value;

use super::{Filter, HttpBackend, ParentRef, ValueMatch};
use crate::kinds::Resource;

pub type GrpcRoute = Resource<GrpcRouteSpec>;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRouteSpec {
    pub parent_refs: Vec<ParentRef>,
    pub use_default_gateways: Option<String>,
    pub hostnames: Vec<String>,
    pub rules: Vec<GrpcRouteRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRouteRule {
    pub name: Option<String>,
    pub matches: Vec<GrpcMatch>,
    /// Those of HTTP, as far as gRPC has them.
    pub filters: Vec<Filter>,
    pub backend_refs: Vec<HttpBackend>,
    pub session_persistence: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GrpcMatch {
    /// None: every service and method.
    pub method: Option<GrpcMethod>,
    pub headers: Vec<ValueMatch>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GrpcMethod {
    pub r#type: GrpcMethodType,
    pub service: Option<String>,
    pub method: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum GrpcMethodType {
    #[default]
    Exact,
    RegularExpression,
}
