//! `cargo xtask conformance`: the Gateway API's own tests of meshes, on the cluster for tests.
//!
//! The tests and the definitions of kinds are those of the modules `sigs.k8s.io/gateway-api` and `sigs.k8s.io/gateway-api/conformance`,
//! pinned in `tests/cluster/tools/conformance`; the servers and clients in their pods are Istio's echo programs
//! (`tests/cluster/tools/echo`). Some of the tests pass without any mesh, so the nodes' own counters are read before and after: the
//! traffic has to have passed through the proxies.
//!
//! Reading order: `command` (the steps), `echo` (the image), `placement` (which pods are on which node), `suite` (the run and what it
//! says), `counters`.

mod command;
mod counters;
mod echo;
mod placement;
mod suite;

pub(crate) use command::{Arguments, run};
