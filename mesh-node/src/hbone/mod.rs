//! HBONE: an application's TCP connection as one HTTP/2 CONNECT stream, inside mutual TLS to the destination pod's port 15008.
//!
//! Outbound: [`Pool::open`] finds or makes a [`Tunnel`] and opens a stream in it. Inbound: [`serve`] accepts a tunnel and asks
//! a [`Handler`] about each CONNECT. On both sides [`copy_bidirectional`] joins the [`H2Stream`] with a socket.
//!
//! The form on the wire is Istio ambient's (`:authority`, `baggage`, `forwarded`, `traceparent`; 200, 400, 401, 503).

pub mod client;
pub mod cork;
pub mod error;
pub mod headers;
pub mod io;
mod keepalive;
pub mod pool;
mod queue;
pub mod relay;
pub mod server;
pub mod settings;
mod staged;
pub mod stream;
pub mod tls;
pub mod window;

#[cfg(test)]
mod tests;

pub use client::Tunnel;
pub use error::HboneError;
pub use headers::{Baggage, ConnectRequest, Forwarded, ForwardedFor, Target, TraceParent};
pub use io::{ResetWatch, StreamIo};
pub use pool::{Dial, Pool, PoolKey, TunnelSnapshot};
pub use relay::{Copied, copy_bidirectional};
pub use server::{ConnectInfo, Handler, Refusal, ServeError, serve};
pub use settings::{Settings, Spawner};
pub use stream::{H2Stream, Role, StreamError};
pub use window::Budget;
