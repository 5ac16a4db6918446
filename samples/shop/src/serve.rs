//! Listening, for HTTP and for plain TCP: both IP versions, an orderly end on SIGTERM.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    server::conn::{http1, http2},
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

/// How long open connections may take to finish after SIGTERM.
const DRAIN: Duration = Duration::from_secs(3);

/// A listener on all addresses of both IP versions, or of IPv4 where there is no IPv6.
pub(crate) fn listen(port: u16) -> Result<TcpListener> {
    // Longer than any burst of a test; the kernel cuts it to net.core.somaxconn.
    const BACKLOG: u32 = 4096;
    let open = || -> io::Result<TcpListener> {
        let (socket, address) = match TcpSocket::new_v6() {
            Ok(socket) => (socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
            Err(_) => (TcpSocket::new_v4()?, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().with_context(|| format!("cannot listen on port {port}"))
}

/// Waits for SIGTERM or Ctrl-C.
pub(crate) async fn terminated() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupt = tokio::signal::ctrl_c() => Ok(interrupt?),
    }
}

/// Gives every connection to `handle` until SIGTERM; then no new ones, and the open ones get [`DRAIN`].
pub(crate) async fn connections<F>(listener: TcpListener, handle: impl Fn(TcpStream, SocketAddr, Ending) -> F) -> Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (end, ending) = watch::channel(());
    let mut open = JoinSet::new();
    let mut over = pin!(terminated());
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    // A line or a page at a time: nothing to gain from waiting for more.
                    let _ = stream.set_nodelay(true);
                    open.spawn(handle(stream, plain(peer), Ending(ending.clone())));
                }
                // The peer gave up, or descriptors ran out: neither ends a server.
                Err(error) => {
                    eprintln!("accept: {error}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            },
            Some(_) = open.join_next() => {}
            result = &mut over => {
                result?;
                break;
            }
        }
    }
    drop((listener, end));
    let _ = timeout(DRAIN, async { while open.join_next().await.is_some() {} }).await;
    Ok(())
}

/// Tells a connection that the server wants to end.
#[derive(Clone, Debug)]
pub(crate) struct Ending(watch::Receiver<()>);

impl Ending {
    pub(crate) async fn wait(&mut self) {
        // Nothing is ever sent: only the sender's end is news.
        while self.0.changed().await.is_ok() {}
    }
}

/// The two ends of a connection, as this program sees them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// What a port speaks; nothing is guessed from the first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    /// With prior knowledge, without TLS.
    Http2,
}

/// Serves HTTP on `port`; every request goes to `answer`.
pub(crate) async fn http<F, B>(
    port: u16,
    protocol: Protocol,
    answer: impl Fn(Request<Incoming>, Ends) -> F + Clone + Send + 'static,
) -> Result<()>
where
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let listener = listen(port)?;
    eprintln!("listening on port {port}");
    connections(listener, move |stream, peer, ending| {
        let answer = answer.clone();
        async move {
            let local = stream.local_addr().map_or(peer, plain);
            let ends = Ends { peer, local };
            let service = service_fn(move |request| {
                let answer = answer(request, ends);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            match protocol {
                Protocol::Http1 => serve_http1(stream, service, ending).await,
                Protocol::Http2 => serve_http2(stream, service, ending).await,
            }
        }
    })
    .await
}

async fn serve_http1<S, B>(stream: TcpStream, service: S, mut ending: Ending)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error = Infallible> + 'static,
{
    let mut server = http1::Builder::new();
    // A client that has said all it wants to say still gets its answer.
    server.half_close(true).timer(TokioTimer::new());
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = ending.wait() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn serve_http2<S, B>(stream: TcpStream, service: S, mut ending: Ending)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let mut server = http2::Builder::new(TokioExecutor::new());
    server.timer(TokioTimer::new());
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = ending.wait() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// An IPv4 peer of an IPv6 socket in its own form.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
