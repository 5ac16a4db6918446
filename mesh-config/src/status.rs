//! What an object is told about itself.

use serde::Serialize;

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
    /// A condition on HTTP, or one that is unknown, which the transport cannot judge.
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
