//! What the data path asks of the kernel: a mark on the proxy's own sockets, and where an app wanted to go.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use mesh_common::kernel::{SocketKind, SocketMark};

use super::sys;

/// Storage of sockets, by their descriptors. Cheap to clone, one system call an answer, no lock.
#[derive(Clone, Debug)]
pub struct SocketMarks {
    sockets: Arc<OwnedFd>,
}

/// Why a socket of the proxy is not captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exempt {
    /// It is the proxy's.
    Proxy,
    /// It is the proxy's and goes straight to an app of another **enrolled** pod of this node, whose policy was
    /// decided: that pod's inbound capture lets the connection through. Its token goes when the app's side is
    /// established, or with this socket.
    ProxyToken,
}

impl SocketMarks {
    pub(super) fn new(sockets: OwnedFd) -> Self {
        Self { sockets: Arc::new(sockets) }
    }

    /// Exempts a TCP socket from capture, before its `connect()`. The mark dies with the socket, and no pod can write one.
    pub fn exempt(&self, socket: impl AsFd, how: Exempt) -> io::Result<()> {
        let kind = match how {
            Exempt::Proxy => SocketKind::Proxy,
            Exempt::ProxyToken => SocketKind::ProxyToken,
        };
        sys::update(self.sockets.as_fd(), &key(socket.as_fd()), &SocketMark::exempt(kind))
    }

    /// What the app dialled whose connection was accepted as `accepted`; IPv4 for a v4-mapped address.
    ///
    /// `None` when the connection was not captured: somebody dialled the listener itself, or the pod had used up its
    /// bound of handshakes ([`super::Bounds`]).
    pub fn original_dst(&self, accepted: impl AsFd) -> io::Result<Option<SocketAddr>> {
        let mark: Option<SocketMark> = sys::lookup(self.sockets.as_fd(), &key(accepted.as_fd()))?;
        Ok(mark.filter(|mark| mark.kind() == SocketKind::Accepted).map(|mark| mark.original.socket_address()))
    }
}

/// Socket storage is keyed by descriptor, in user space.
fn key(socket: BorrowedFd<'_>) -> i32 {
    socket.as_raw_fd()
}
