//! Connecting from inside a pod, past the capture.

use std::{net::SocketAddr, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::{
    copy,
    ebpf::{Exempt, SocketMarks},
    enrol::netns::Netns,
    reason::{Failure, Reason},
};

/// So long an address is alone in being tried (RFC 8305 §8).
const STAGGER: Duration = Duration::from_millis(250);

/// Makes connections that leave from a pod's namespace and are not captured again.
#[derive(Clone)]
pub struct Dialer {
    pub marks: SocketMarks,
    /// Istio's `connectTimeout`.
    pub timeout: Duration,
}

impl Dialer {
    /// Connects to an application, in the name of one.
    pub async fn dial_app(&self, netns: &Netns, to: SocketAddr, how: Exempt) -> Result<TcpStream, Failure> {
        let stream = self.dial(netns, to, how).await?;
        copy::break_on_close(&stream);
        Ok(stream)
    }

    /// Connects to an application at the first of these addresses that answers, in their order: the next is tried as soon as
    /// one has failed, and beside one that has not answered for a while (RFC 8305 §5). `to` is not empty.
    pub async fn dial_first(&self, netns: &Netns, to: &[SocketAddr], how: Exempt) -> Result<TcpStream, Failure> {
        let mut attempts = FuturesUnordered::new();
        let mut rest = to.iter();
        let mut last = None;
        loop {
            if let Some(address) = rest.next() {
                attempts.push(self.dial_app(netns, *address, how));
            }
            let more = rest.len() > 0;
            tokio::select! {
                Some(done) = attempts.next() => match done {
                    Ok(stream) => return Ok(stream),
                    Err(failure) => last = Some(failure),
                },
                () = tokio::time::sleep(STAGGER), if more => {}
                else => return Err(last.expect("there was an address")),
            }
        }
    }

    /// Connects to `to` with the pod's own address, so that the network sees pod to pod.
    pub async fn dial(&self, netns: &Netns, to: SocketAddr, how: Exempt) -> Result<TcpStream, Failure> {
        let internal = |what: &str, error: &dyn std::fmt::Display| Failure::new(Reason::Internal, format!("{what}: {error}"));
        let socket = netns.run(|| Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP)));
        let socket = socket.map_err(|error| internal("the pod's namespace", &error))?;
        let socket = socket.map_err(|error| internal("socket", &error))?;
        self.marks.exempt(&socket, how).map_err(|error| internal("exempting a socket from capture", &error))?;
        let connecting = TcpSocket::from_std_stream(socket.into()).connect(to);
        match tokio::time::timeout(self.timeout, connecting).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                Ok(stream)
            }
            Ok(Err(error)) => Err(Failure::from_connect(&error, to)),
            Err(_) => Err(Failure::new(Reason::ConnectTimeout, format!("{to}: no answer in {:?}", self.timeout))),
        }
    }
}
