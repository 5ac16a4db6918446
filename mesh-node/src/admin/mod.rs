//! The node's own HTTP: readiness, metrics, dumps, log level, drain. On loopback and a unix socket; never where pods are.

mod api;
mod dump;
mod server;

pub use api::{Admin, Readiness, SetLog};
pub use server::{Endpoint, bind_unix, blocking, serve_tcp, serve_unix};
