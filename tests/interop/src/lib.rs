//! What other implementations of HBONE need to meet ours: certificates of the mesh's authority, or of one made up on the
//! spot, in the PEM files that they read; and a client that measures TLS handshakes alone.
//!
//! The tests themselves are in `tests/`; `cargo xtask bench` uses the program `tls-peer`.

pub mod certificates;
pub mod handshakes;
