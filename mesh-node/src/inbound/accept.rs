//! Accepting what the kernel steered to the pod's two inbound listeners.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;

use super::connection::Inbound;
use crate::{enrol::Pod, outbound::accept_each, worker::WorkerId};

/// Which listener it is: what arrived on port 15008, or on any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    Hbone,
    Plaintext,
}

/// Accepts a pod's inbound connections for as long as the task lives.
pub async fn accept(inbound: Arc<Inbound>, pod: Arc<Pod>, listener: std::net::TcpListener, arrival: Arrival) {
    let workers = inbound.workers.clone();
    let serve = move |stream: TcpStream, peer: SocketAddr, pod: Arc<Pod>, worker: WorkerId| {
        let inbound = inbound.clone();
        async move {
            match arrival {
                Arrival::Hbone => inbound.tunnel(pod, worker, stream, peer).await,
                Arrival::Plaintext => inbound.plaintext(pod, worker, stream, peer).await,
            }
        }
    };
    accept_each(&workers, pod, listener, serve).await;
}
