//! Ports by name, in host byte order.
//!
//! The listeners inside a pod really bind port 0, so that an app may own any of these numbers:
//! they are what peers dial and what reports call a listener.

/// Where an app's captured connections are said to arrive.
pub const OUTBOUND: u16 = 15001;

/// The name of the listener for everything that reaches a pod outside HBONE.
pub const PLAINTEXT: u16 = 15006;

/// HTTP/2 CONNECT over mutual TLS, dialled by peers at the pod's own address.
pub const HBONE: u16 = 15008;
