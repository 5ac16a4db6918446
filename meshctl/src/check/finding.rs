//! One thing that was looked at.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Good,
    /// It works, and may not do what somebody expects.
    Warning,
    Bad,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) verdict: Verdict,
    /// What was looked at.
    pub(crate) what: String,
    /// How it is.
    pub(crate) says: String,
    /// What to do about it; empty where nothing is to be done.
    pub(crate) remedy: String,
}

impl Finding {
    pub(crate) fn good(what: impl Into<String>, says: impl Into<String>) -> Self {
        Self { verdict: Verdict::Good, what: what.into(), says: says.into(), remedy: String::new() }
    }

    pub(crate) fn warning(what: impl Into<String>, says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, what: what.into(), says: says.into(), remedy: remedy.into() }
    }

    pub(crate) fn bad(what: impl Into<String>, says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, what: what.into(), says: says.into(), remedy: remedy.into() }
    }
}
