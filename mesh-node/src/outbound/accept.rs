//! Accepting what the kernel redirected.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, error};

use super::connection::Outbound;
use crate::{copy, enrol::Pod, metered::Metered, reason::Reason, worker::WorkerId};

/// Accepts a pod's captured connections for as long as the task lives.
pub async fn accept(outbound: Arc<Outbound>, pod: Arc<Pod>, listener: std::net::TcpListener) {
    let workers = outbound.workers.clone();
    let serve = move |stream, peer, pod: Arc<Pod>, worker| {
        let outbound = outbound.clone();
        async move { outbound.serve(pod, worker, stream, peer).await }
    };
    accept_each(&workers, pod, listener, serve).await;
}

/// Accepts, and has each connection served on the pod's home worker or, when that is busy, on another.
pub(crate) async fn accept_each<S, F>(workers: &crate::worker::Workers, pod: Arc<Pod>, listener: std::net::TcpListener, serve: S)
where
    S: Fn(TcpStream, SocketAddr, Arc<Pod>, WorkerId) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return error!(uid = %pod.uid, %error, "a listener can not be served"),
    };
    // Inherited by what it accepts. Small messages must not wait for the far side's acknowledgement.
    let _ = SockRef::from(&listener).set_tcp_nodelay(true);
    copy::break_on_close(&listener);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error, &pod).await;
                continue;
            }
        };
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let Some(counted) = pod.connections.take() else {
            debug!(uid = %pod.uid, reason = %Reason::Overload, "connection refused");
            continue;
        };
        let worker = workers.pick(pod.home);
        let cost = pod.lane(worker).cost.clone();
        if worker == pod.home {
            // In a box: a future that another one takes along counts twice in its size.
            let serving = Box::pin(serve(stream, peer, pod.clone(), worker));
            tokio::spawn(Metered::new(cost, async move {
                serving.await;
                drop(counted);
            }));
        } else {
            let Ok(stream) = stream.into_std() else { continue };
            let (serve, pod) = (serve.clone(), pod.clone());
            workers.runtime(worker).spawn(Metered::new(cost, async move {
                if let Ok(stream) = TcpStream::from_std(stream) {
                    Box::pin(serve(stream, peer, pod, worker)).await;
                }
                drop(counted);
            }));
        }
    }
}

/// Out of descriptors or memory, accepting again at once would spin: connections wait in the backlog instead.
async fn pause_after(error: &io::Error, pod: &Pod) {
    let out_of = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    if error.raw_os_error().is_some_and(|code| out_of.contains(&code)) {
        error!(uid = %pod.uid, %error, "new connections wait: the node proxy is out of a resource");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
