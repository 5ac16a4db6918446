//! Gateways, and references from routes to what they are attached to and to backends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::GATEWAY_GROUP;
use crate::kinds::Resource;

pub type Gateway = Resource<GatewaySpec>;
pub type GatewayClass = Resource<GatewayClassSpec>;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    pub gateway_class_name: String,
    /// Of waypoints nothing in them counts; other Gateways are not carried out.
    pub listeners: Vec<Value>,
    pub addresses: Vec<Value>,
    pub infrastructure: Option<Value>,
    pub allowed_listeners: Option<Value>,
    pub default_scope: Option<Value>,
    pub tls: Option<Value>,
    /// Of versions before 1.3.
    pub backend_tls: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClassSpec {
    pub controller_name: String,
    pub parameters_ref: Option<BTreeMap<String, Value>>,
    pub description: Option<String>,
}

/// What a route wants to be attached to; also the form in which its status names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    #[serde(default = "group")]
    pub group: String,
    #[serde(default = "gateway")]
    pub kind: String,
    /// None: that of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    /// Of a service: the name of a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

fn group() -> String {
    GATEWAY_GROUP.to_owned()
}

fn gateway() -> String {
    "Gateway".to_owned()
}

/// Where a route sends requests or copies of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendObject {
    #[serde(default)]
    pub group: String,
    #[serde(default = "service")]
    pub kind: String,
    pub name: String,
    /// None: that of the route.
    #[serde(default)]
    pub namespace: Option<String>,
    #[serde(default)]
    pub port: Option<u16>,
}

pub(super) fn service() -> String {
    "Service".to_owned()
}

/// An object of the route's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LocalObject {
    pub group: String,
    pub kind: String,
    pub name: String,
}
