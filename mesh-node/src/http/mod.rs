//! HTTP at the node, request by request.
//!
//! Outbound, [`bind`](mesh_policy::binding::bind) says whether a captured connection speaks HTTP and to whom; [`serve`] speaks it with the application and
//! has every request done by the source half ([`Client`]): route, fault, filters, then attempts over connections from
//! [`upstream`]. At the destination [`Server`] judges every request before the application sees a byte of it. On one node
//! both halves run in one process.

mod affinity;
mod attempt;
pub mod body;
mod client;
mod convert;
pub mod cors;
mod destination;
mod detect;
mod error;
mod facts;
pub mod fault;
pub mod header_ops;
pub mod headers;
mod heads;
mod io;
pub mod mirror;
mod place;
pub mod replay;
pub mod reply;
pub mod request_id;
mod retry;
mod serve;
mod server;
mod shadow;
pub mod trace;
mod upgrade;
pub mod upstream;

pub use client::Client;
pub use destination::{Endpoints, endpoints};
pub use detect::{begins_with_request, shows_request};
pub use io::{Io, Transport};
pub use mesh_policy::binding::{Binding, Bound, BoundTo};
pub use place::Place;
pub use serve::{Exchange, Limits, serve};
pub use server::Server;
