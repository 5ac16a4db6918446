//! The last step inside the pod: over `lo`, from the client's own address.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::ports::Lease;
use crate::{
    copy,
    ebpf::{Exempt, SocketMarks},
    enrol::{Pod, routing::DELIVERY_MARK},
    reason::{Failure, Reason},
};

/// Further ports to try when one is still held by a closed connection.
const TRIES: usize = 8;

/// A connection to the application, and the source port that it has taken.
pub struct Delivered {
    pub stream: TcpStream,
    pub lease: Option<Lease>,
}

#[derive(Clone)]
pub struct Deliverer {
    pub marks: SocketMarks,
    pub timeout: Duration,
}

impl Deliverer {
    /// Connects to `target`, an address of the pod, from `client`.
    ///
    /// Where the client's address is of the other family (a tunnel over IPv4 to an IPv6 target) it can not be kept, and
    /// the application sees the pod's own.
    pub async fn deliver(&self, pod: &Pod, client: IpAddr, target: SocketAddr) -> Result<Delivered, Failure> {
        if client.is_ipv4() != target.is_ipv4() || pod.addresses.contains(&client) {
            let stream = self.connect(pod, None, target).await?;
            return Ok(Delivered { stream, lease: None });
        }
        let mut last = Failure::from(Reason::DeliveryPortsExhausted);
        for _ in 0..TRIES {
            let Some(lease) = pod.delivery_ports.take(client, target.port()) else {
                let detail = format!("{client} has as many connections to port {} as there are source ports", target.port());
                return Err(Failure::new(Reason::DeliveryPortsExhausted, detail));
            };
            match self.connect(pod, Some(SocketAddr::new(client, lease.port())), target).await {
                Ok(stream) => return Ok(Delivered { stream, lease: Some(lease) }),
                Err(failure) if failure.reason == Reason::DeliveryPortsExhausted => last = failure,
                Err(failure) => return Err(failure),
            }
        }
        Err(last)
    }

    async fn connect(&self, pod: &Pod, from: Option<SocketAddr>, target: SocketAddr) -> Result<TcpStream, Failure> {
        let internal = |error: &dyn std::fmt::Display| Failure::new(Reason::Internal, format!("delivery to {target}: {error}"));
        let socket = pod.netns.run(|| self.socket(from, target)).map_err(|error| internal(&error))?;
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) if port_is_busy(&error) => return Err(Reason::DeliveryPortsExhausted.into()),
            Err(error) => return Err(internal(&error)),
        };
        match tokio::time::timeout(self.timeout, TcpSocket::from_std_stream(socket.into()).connect(target)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                copy::break_on_close(&stream);
                Ok(stream)
            }
            Ok(Err(error)) if port_is_busy(&error) => Err(Reason::DeliveryPortsExhausted.into()),
            Ok(Err(error)) => Err(Failure::from_connect(&error, target)),
            Err(_) => Err(Failure::new(
                Reason::ConnectTimeout,
                format!("{target}: the application did not answer in {:?}", self.timeout),
            )),
        }
    }

    /// Made inside the pod's namespace: the device is looked up there.
    fn socket(&self, from: Option<SocketAddr>, target: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        self.marks.exempt(&socket, Exempt::Proxy)?;
        socket.bind_device(Some(b"lo"))?;
        if let Some(from) = from {
            socket.set_mark(DELIVERY_MARK)?;
            if from.is_ipv4() {
                socket.set_ip_transparent_v4(true)?;
            } else {
                socket.set_ip_transparent_v6(true)?;
            }
            socket.set_reuse_address(true)?;
            socket.bind(&from.into())?;
        }
        Ok(socket)
    }
}

fn port_is_busy(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}
