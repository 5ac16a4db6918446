//! The proxy's sockets inside a pod: where its captured connections arrive, so that the listener *is* the identity.
//!
//! All bind port 0, whatever their ports are called elsewhere: an application may own 15001, 15006 and 15008.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

/// How many outbound ports a pod has. All its captured connections share the 4-tuple space of its own address: a port
/// gives room for the ephemeral range (28,000 by default), and they are chosen by a hash of the destination.
pub const OUTBOUND_PORTS: usize = 4;

/// Connections that wait to be accepted, per listener.
const BACKLOG: i32 = 4096;

pub struct Listeners {
    pub outbound: Vec<TcpListener>,
    pub plaintext: TcpListener,
    pub hbone: TcpListener,
}

impl Listeners {
    /// Opens them in the network namespace that this thread is in. Non-blocking.
    pub fn open() -> io::Result<Self> {
        let outbound = (0..OUTBOUND_PORTS).map(|_| listen()).collect::<io::Result<_>>()?;
        Ok(Self { outbound, plaintext: listen()?, hbone: listen()? })
    }

    /// The same sockets by descriptors of their own.
    pub fn try_clone(&self) -> io::Result<Self> {
        let Self { outbound, plaintext, hbone } = self;
        let outbound = outbound.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?;
        Ok(Self { outbound, plaintext: plaintext.try_clone()?, hbone: hbone.try_clone()? })
    }

    pub fn outbound_ports(&self) -> io::Result<Vec<u16>> {
        self.outbound.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
    }

    /// Every port that is the proxy's own inside the pod.
    pub fn own_ports(&self) -> io::Result<Vec<u16>> {
        let mut ports = self.outbound_ports()?;
        ports.push(self.plaintext.local_addr()?.port());
        ports.push(self.hbone.local_addr()?.port());
        Ok(ports)
    }
}

/// One socket for both families; for IPv4 alone where the kernel has no IPv6.
fn listen() -> io::Result<TcpListener> {
    let (socket, any) = match Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)) {
        Ok(socket) => {
            socket.set_only_v6(false)?;
            (socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
        }
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            (socket, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
        }
        Err(error) => return Err(error),
    };
    socket.set_nonblocking(true)?;
    socket.bind(&any.into())?;
    // Accepted sockets inherit it. They stand on the port that the client dialled, and an application that starts, or starts
    // again, while one is open could not bind that port otherwise (EADDRINUSE, although it asked for SO_REUSEADDR).
    socket.set_reuse_address(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
