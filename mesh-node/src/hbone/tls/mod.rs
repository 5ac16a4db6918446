//! TLS 1.3 under HTTP/2: rustls shakes hands and keeps the secrets, the records are sealed and opened here.
//!
//! rustls' own streams read a socket in pieces of 4 KiB, copy each record twice and hold its buffers for ever. Here a read takes
//! what the socket has, up to [`buffers::READ`], records are decrypted where they lie, and several are sealed into one buffer
//! that one system call writes. An idle connection holds no buffer: they belong to the thread.
//!
//! The handshake is rustls' unbuffered API, certificates are checked by the verifiers of its configuration. When it is over the
//! connection becomes a `KernelConnection`, rustls' interface for records that are not its own: it derives the next
//! secrets after a KeyUpdate. What remains of RFC 8446 after the handshake is here: records (§5), closure and error alerts
//! (§6), KeyUpdate (§4.6.3); session tickets are passed over, since nothing is resumed; everything else is refused.

mod buffers;
mod incoming;
mod outgoing;
mod record;
mod shake;
mod stream;

#[cfg(test)]
mod tests;

pub use shake::{Peer, accept, connect};
pub use stream::TlsStream;
