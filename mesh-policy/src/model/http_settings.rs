//! MeshConfig, as far as it concerns HTTP.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::RetryPolicy;

/// Settings of all HTTP in the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSettings {
    /// Declared HTTP is served as HTTP unless a namespace or service opts out.
    pub enabled: bool,
    pub normalization: PathNormalization,
    /// MeshConfig `defaultHttpRetryPolicy`.
    pub retry: RetryPolicy,
    /// How long the first bytes of a connection are waited for where the protocol has to be found out.
    pub detection_timeout: Duration,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            normalization: PathNormalization::default(),
            retry: RetryPolicy::default(),
            detection_timeout: Duration::from_millis(200),
        }
    }
}

/// MeshConfig `pathNormalization`: what is done to a path before anything looks at it. Each does what those before it do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PathNormalization {
    None,
    /// RFC 3986 §6.2: dot segments away, unreserved characters decoded, `\` to `/`.
    #[default]
    Base,
    /// And repeated slashes become one.
    MergeSlashes,
    /// And `%2F`, `%5C` are decoded first.
    DecodeAndMergeSlashes,
}
