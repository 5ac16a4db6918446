//! What an object is told about itself.

use serde::Serialize;

use crate::kinds::gateway::ParentRef;

/// Who writes conditions of the Gateway API.
pub const CONTROLLER: &str = "keelson.io/mesh-controller";

/// How much a message weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Level {
    /// The object, or this part of it, has no effect.
    Error,
    /// It has another effect than it says.
    Warning,
    /// Worth knowing.
    Info,
}

/// Why a message was written: stable, for tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// The object was refused; its last good version stays in force.
    Invalid,
    /// A field that this version does not know.
    UnknownField,
    /// A field that is known and has no effect.
    NotHonoured,
    /// A condition on requests, where the traffic may not be HTTP: it fails closed there.
    NotEnforcedAtL4,
    /// An action that this version does not carry out.
    UnsupportedAction,
    /// The object names another that is not there.
    TargetNotFound,
    /// Another object claims the same and has precedence.
    Conflict,
    /// The kind has no effect.
    UnsupportedKind,
    /// The object needs an address that nothing assigns here.
    NoAddress,
    /// The object names another that it may not name.
    NotPermitted,
    /// An attribute of a policy that this version cannot judge: it fails closed.
    NotEnforced,
}

/// One remark on an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Message {
    pub level: Level,
    pub code: Code,
    /// Such as `spec.rules[0].to[1].operation.methods`; empty for the whole object.
    pub field: String,
    pub text: String,
}

impl Message {
    pub fn new(level: Level, code: Code, field: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level, code, field: field.into(), text: text.into() }
    }
}

/// What the Gateway API wants to be told of an object, beside its messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Of the object itself: Gateways, GatewayClasses.
    pub own: Vec<Condition>,
    /// Of a route at each of its parents in the mesh.
    pub parents: Vec<ParentStatus>,
}

/// How a route stands at one parent (`RouteParentStatus`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    pub parent_ref: ParentRef,
    pub controller_name: &'static str,
    pub conditions: Vec<Condition>,
}

impl ParentStatus {
    pub fn new(parent_ref: ParentRef, conditions: Vec<Condition>) -> Self {
        Self { parent_ref, controller_name: CONTROLLER, conditions }
    }
}

/// A condition as Kubernetes writes them. When it last changed is known to whoever writes it, not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    pub r#type: &'static str,
    /// `True` or `False`.
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
    /// The object's `metadata.generation` that this is about, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl Condition {
    pub fn new(r#type: &'static str, holds: bool, reason: &'static str, message: impl Into<String>) -> Self {
        let status = if holds { "True" } else { "False" };
        Self { r#type, status, reason, message: message.into(), observed_generation: None }
    }

    pub fn holds(&self) -> bool {
        self.status == "True"
    }
}
