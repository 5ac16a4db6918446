//! Keelson's own resources: parts of the model that travel as they are, in JSON.
//!
//! They have no other reader than Keelson, so that the model's types are their wire format (ADR 0006). A field or kind
//! that a reader does not know refuses the whole document: what is not understood might be what narrows it.

use serde::{Deserialize, Serialize};

use super::{HttpSettings, Routes, RoutesKey, Telemetry, TelemetryKey, TrafficKey, TrafficRule};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Document {
    Routes(Box<Routes>),
    Traffic(Box<TrafficRule>),
    HttpSettings(Box<HttpSettings>),
    Telemetry(Box<Telemetry>),
}

/// What a document is; writes itself as its name on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DocumentKey {
    Routes(RoutesKey),
    Traffic(TrafficKey),
    HttpSettings,
    Telemetry(TelemetryKey),
}

impl Document {
    pub fn key(&self) -> DocumentKey {
        match self {
            Self::Routes(routes) => DocumentKey::Routes(routes.key.clone()),
            Self::Traffic(rule) => DocumentKey::Traffic(rule.key.clone()),
            Self::HttpSettings(_) => DocumentKey::HttpSettings,
            Self::Telemetry(telemetry) => DocumentKey::Telemetry(telemetry.key.clone()),
        }
    }
}

impl std::fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Routes(key) => write!(f, "routes {key}"),
            Self::Traffic(key) => write!(f, "traffic {key}"),
            Self::HttpSettings => f.write_str("http settings"),
            Self::Telemetry(key) => write!(f, "telemetry {key}"),
        }
    }
}
