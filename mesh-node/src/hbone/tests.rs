//! Whole tunnels over loopback sockets: a pool on one side, [`serve`] on the other, applications behind both.

mod cork;
mod handshake;
mod life;
mod pooling;
mod relaying;
mod serving;
mod waiting;

use std::{
    collections::VecDeque,
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::JoinHandle,
};

use super::*;
use crate::{
    copy::CopyError,
    identity::{
        TlsIdentity,
        testing::{TestCa, identity},
    },
};

/// A condition that must come, however slow the machine is.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), future).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

/// Waits until `holds`, looking again and again.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(what, wait).await;
}

/// Both ends of one TCP connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (dialled.expect("connect"), accepted.expect("accept").0)
}

fn request(authority: &str) -> ConnectRequest {
    ConnectRequest {
        authority: authority.parse().expect("a target"),
        baggage: Baggage { service: "page".into(), ..Baggage::default() },
        forwarded: Forwarded::parse("for=\"10.0.0.1:4000\""),
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().ok(),
    }
}

/// A node that accepts HBONE for the identity `stock`, on a port of loopback.
struct Node {
    address: SocketAddr,
    handler: Arc<Apps>,
    /// How its connections ended.
    ended: mpsc::UnboundedReceiver<Result<(), ServeError>>,
    drain: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Node {
    async fn start(tls: Arc<TlsIdentity>, settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let handler = Arc::new(Apps::default());
        let drain = Arc::new(Notify::new());
        let (report, ended) = mpsc::unbounded_channel();
        let (apps, drains) = (Arc::clone(&handler), Arc::clone(&drain));
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                apps.tunnels.fetch_add(1, Relaxed);
                let (apps, drains, tls, settings, report) =
                    (Arc::clone(&apps), Arc::clone(&drains), tls.server_config(), settings.clone(), report.clone());
                tokio::spawn(async move {
                    let budget = Arc::clone(&apps.budget);
                    let served = serve(tcp, tls, apps, &settings, budget, async move { drains.notified().await }).await;
                    let _ = report.send(served);
                });
            }
        });
        Self { address, handler, ended, drain, task }
    }

    /// The applications' side of the next stream that is connected.
    async fn app(&self) -> TcpStream {
        let mut found = None;
        until("an application's connection", || {
            found = self.handler.connected.lock().expect("lock").pop_front();
            found.is_some()
        })
        .await;
        found.expect("just found")
    }

    fn tunnels(&self) -> usize {
        self.handler.tunnels.load(Relaxed)
    }
}

/// Decides by the host name of the target; everything else is connected to a socket that the test takes.
struct Apps {
    infos: Mutex<Vec<ConnectInfo>>,
    connected: Mutex<VecDeque<TcpStream>>,
    relayed: Mutex<Vec<Result<Copied, CopyError>>>,
    tunnels: AtomicUsize,
    deciding: AtomicUsize,
    budget: Arc<Budget>,
}

impl Default for Apps {
    fn default() -> Self {
        Self {
            infos: Mutex::default(),
            connected: Mutex::default(),
            relayed: Mutex::default(),
            tunnels: AtomicUsize::new(0),
            deciding: AtomicUsize::new(0),
            budget: Budget::new(Budget::DEFAULT),
        }
    }
}

/// Counts the handlers that decide.
struct Deciding<'a>(&'a AtomicUsize);

impl Drop for Deciding<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Handler for Apps {
    type Upstream = TcpStream;

    async fn connect(&self, info: &ConnectInfo) -> Result<TcpStream, Refusal> {
        self.infos.lock().expect("lock").push(info.clone());
        let host = match &info.authority {
            Target::Address(_) => "",
            Target::Host { name, .. } => name,
        };
        match host {
            "elsewhere" => Err(Refusal::BadTarget),
            "forbidden" => Err(Refusal::Denied),
            "down" => Err(Refusal::Unavailable),
            "silent" => {
                self.deciding.fetch_add(1, Relaxed);
                let _deciding = Deciding(&self.deciding);
                std::future::pending().await
            }
            _ => {
                let (ours, app) = pair().await;
                self.connected.lock().expect("lock").push_back(app);
                Ok(ours)
            }
        }
    }

    async fn relay(&self, _info: ConnectInfo, upstream: TcpStream, stream: H2Stream) {
        let result = copy_bidirectional(&mut armed(upstream), stream, &NoMeter).await;
        self.relayed.lock().expect("lock").push(result);
    }
}

struct NoMeter;

impl crate::copy::Meter for NoMeter {
    fn sent(&self, _bytes: u64) {}
    fn received(&self, _bytes: u64) {}
}

type DialFuture = std::pin::Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// A pod of the identity `page`, whose pool dials plainly.
struct Pod {
    pool: Pool<fn(SocketAddr) -> DialFuture>,
    tls: Arc<TlsIdentity>,
    budget: Arc<Budget>,
}

impl Pod {
    fn new(ca: &TestCa, settings: Settings) -> Self {
        Self::with(ca, settings, Budget::new(Budget::DEFAULT))
    }

    fn with(ca: &TestCa, settings: Settings, budget: Arc<Budget>) -> Self {
        fn dial(address: SocketAddr) -> DialFuture {
            Box::pin(TcpStream::connect(address))
        }
        Self { pool: Pool::new(dial as fn(SocketAddr) -> DialFuture, settings, Arc::clone(&budget)), tls: ca.tls("page"), budget }
    }

    fn key(address: SocketAddr) -> PoolKey {
        PoolKey { source: identity("page"), destination: Arc::new([identity("stock")]), address }
    }

    async fn open(&self, address: SocketAddr, authority: &str) -> Result<H2Stream, HboneError> {
        within("an answer", self.pool.open(&Self::key(address), &self.tls, &request(authority))).await
    }

    /// An application's connection, carried to the node; and what becomes of it.
    async fn dial(&self, address: SocketAddr) -> (TcpStream, JoinHandle<Result<Copied, CopyError>>) {
        let stream = self.open(address, "10.0.0.2:80").await.expect("a stream");
        let (app, ours) = pair().await;
        (app, tokio::spawn(async move { copy_bidirectional(&mut armed(ours), stream, &NoMeter).await }))
    }
}

/// A pod and a node that trust each other.
async fn both() -> (TestCa, Pod, Node) {
    both_with(Settings::default(), Settings::default()).await
}

async fn both_with(client: Settings, server: Settings) -> (TestCa, Pod, Node) {
    let ca = TestCa::new();
    let pod = Pod::new(&ca, client);
    let node = Node::start(ca.tls("stock"), server).await;
    (ca, pod, node)
}

/// The peer closed. Its socket may be gone before our last frame, which is no matter.
fn assert_closed(ended: Option<&Result<(), ServeError>>) {
    assert!(matches!(ended, Some(Ok(()) | Err(ServeError::Broken { .. }))), "{ended:?}");
}

/// As every application's connection is in the node.
fn armed(socket: TcpStream) -> TcpStream {
    crate::copy::break_on_close(&socket);
    socket
}
