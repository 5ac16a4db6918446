//! The node proxy: captures the traffic of this node's pods in the kernel, carries it between nodes under mutual
//! TLS, enforces policy at the destination, and measures.
//!
//! Read in the order of a connection's life: [`enrol`] (a pod joins), [`ebpf`] (the kernel side), [`outbound`]
//! (accept, plan, dial), [`http`] (request by request, where a port speaks it), [`hbone`] (the tunnel), [`inbound`] (verify,
//! authorize, deliver), [`copy`].
//! [`app`] puts the parts together.

pub mod admin;
pub mod app;
pub mod authz;
pub mod balance;
pub mod config;
pub mod copy;
pub mod ebpf;
pub mod enrol;
pub mod hbone;
pub mod http;
pub mod identity;
pub mod inbound;
pub mod log;
pub mod metered;
pub mod outbound;
pub mod reason;
pub mod state;
pub mod telemetry;
pub mod worker;
