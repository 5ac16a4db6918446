//! `check.yaml`: what is asked, and what must come of it.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

/// All expectations must hold at once, in their order.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// One sentence: what the manifests bring about.
    pub about: String,
    pub expect: Vec<Expectation>,
}

impl Check {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("no {}", path.display()))?;
        let check: Self = serde_saphyr::from_str(&text).with_context(|| format!("{}", path.display()))?;
        ensure!(!check.expect.is_empty(), "{} expects nothing", path.display());
        Ok(check)
    }
}

/// Questions, and conditions on their answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Expectation {
    pub what: String,
    /// The pod that asks, `namespace/name`.
    pub from: String,
    #[serde(flatten)]
    pub ask: Ask,
    /// So many questions, one after the other; every answer must be as expected.
    #[serde(default = "once")]
    pub times: u32,
    /// So many at the same time.
    #[serde(default = "once")]
    pub concurrency: u32,
    #[serde(default)]
    pub answer: Answer,
    /// In place of `answer` for some: how the answers divide, in percent.
    #[serde(default)]
    pub shares: Option<Shares>,
}

fn once() -> u32 {
    1
}

/// How a question is put.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// A request by HTTP/1.1.
    Http(Http),
    /// A connection to `host:port`; `data` is said, and the answer read to its end.
    Tcp(Tcp),
    /// The mesh's own metrics: the sum over both nodes of a family's samples that have these labels.
    Metric(Metric),
    /// What has been written to a log: lines in which all of the texts stand.
    Log(Log),
    /// Another program of the pod: its standard output is the answer's body, and its exit status must be 0.
    Exec(Vec<String>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub url: String,
    #[serde(default = "get")]
    pub method: String,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(default)]
    pub data: String,
}

fn get() -> String {
    "GET".into()
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tcp {
    pub to: String,
    #[serde(default)]
    pub data: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Metric {
    pub name: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default = "some")]
    pub at_least: f64,
    /// More than this is too much.
    #[serde(default)]
    pub at_most: Option<f64>,
}

fn some() -> f64 {
    1.0
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Log {
    /// A pod's, `namespace/name`; in its absence those of all node proxies.
    #[serde(default)]
    pub pod: Option<String>,
    pub holding: Vec<String>,
    #[serde(default)]
    pub without: Vec<String>,
    #[serde(default = "once")]
    pub at_least: u32,
    #[serde(default)]
    pub at_most: Option<u32>,
}

/// What an answer must be like; what is not said does not matter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Answer {
    /// `ok`, `refused`, `reset`, `timeout` …, as `shop client` has them. `ok` if nothing is said.
    pub outcome: Option<String>,
    pub status: Option<u16>,
    /// Part of the body.
    pub body: Option<String>,
    /// Not part of the body.
    pub body_without: Option<String>,
    /// Values at JSON pointers of the body; `null`: nothing is there.
    pub json: BTreeMap<String, Value>,
    /// Texts within headers of the answer; `null`: no such header.
    pub headers: BTreeMap<String, Option<String>>,
    pub at_least_ms: Option<u64>,
    pub at_most_ms: Option<u64>,
}

/// How many percent of the answers have which value at a JSON pointer of the body (or, at `status`, which status).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shares {
    /// A JSON pointer, or `status`.
    pub of: String,
    /// From and to, both counted in.
    pub percent: BTreeMap<String, (f64, f64)>,
}
