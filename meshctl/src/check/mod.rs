//! What `meshctl check` looks at, one file an area. Each gives findings: what was looked at, how it is, and the remedy if it is not well.

mod components;
mod finding;
mod kinds;
mod network_policies;
mod nodes;
mod pods;
mod privileges;

pub(crate) use components::components;
pub(crate) use finding::{Finding, Verdict};
pub(crate) use kinds::kinds;
pub(crate) use nodes::nodes;
pub(crate) use pods::pods;
pub(crate) use privileges::privileges;
