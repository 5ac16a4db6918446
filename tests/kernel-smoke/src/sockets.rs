//! TCP with deadlines: what hangs fails, and says where.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mesh_node::enrol::routing::DELIVERY_MARK;
use socket2::{Domain, Socket, Type};

/// Generous: an emulated machine is slow. Reached only when something does not work.
const DEADLINE: Duration = Duration::from_secs(15);

/// An address and a port.
pub(crate) fn address(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// Connects from the network namespace of this thread.
pub(crate) fn connect(to: SocketAddr) -> Result<TcpStream> {
    TcpStream::connect_timeout(&to, DEADLINE).with_context(|| format!("connect to {to}"))
}

/// Connects with a socket that is prepared first, from the network namespace of this thread.
pub(crate) fn connect_prepared(to: SocketAddr, prepare: impl FnOnce(&Socket) -> io::Result<()>) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    prepare(&socket).context("prepare a socket of the proxy")?;
    socket.connect_timeout(&to.into(), DEADLINE).with_context(|| format!("connect to {to}"))?;
    Ok(socket.into())
}

/// What a socket of the proxy needs to deliver to an app over `lo` with the client's own address.
pub(crate) fn deliver_as(client: IpAddr, socket: &Socket) -> io::Result<()> {
    socket.set_mark(DELIVERY_MARK)?;
    socket.bind_device(Some(b"lo"))?;
    match client {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        IpAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    socket.bind(&SocketAddr::new(client, 0).into())
}

/// Accepts one connection.
pub(crate) fn accept(listener: &TcpListener, whose: &str) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(2));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => bail!("no connection arrived at {whose}"),
            Err(error) => return Err(error).with_context(|| format!("accept at {whose}")),
        }
    }
}
