//! Over real sockets: a server of hyper's, or one that says what it likes.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Request, StatusCode, Version as Spoken};
use http_body_util::BodyExt;
use hyper::{Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{Lease, Pool, SendErrorKind, Settings, Terms, Version};
use crate::{
    http::{Io, body::Body},
    metered::Cost,
    reason::{Failure, Reason},
};

fn pool() -> Pool<&'static str> {
    Pool::new(Arc::new(Cost::default()), Settings::default())
}

/// How to get there, and how often that was done.
struct Server {
    address: SocketAddr,
    connected: Arc<AtomicUsize>,
}

impl Server {
    async fn connect(address: SocketAddr, connected: Arc<AtomicUsize>) -> Result<Io, Failure> {
        connected.fetch_add(1, Relaxed);
        let stream = TcpStream::connect(address).await.map_err(|error| Failure::from_connect(&error, address))?;
        Ok(Io::upstream(stream))
    }

    fn connected(&self) -> usize {
        self.connected.load(Relaxed)
    }

    async fn lease(&self, pool: &Pool<&'static str>, version: Version) -> Result<Lease<&'static str>, Failure> {
        pool.lease(&"a", version, Terms::default(), || Self::connect(self.address, self.connected.clone())).await
    }

    async fn ask(&self, pool: &Pool<&'static str>, version: Version) -> (StatusCode, String) {
        let mut lease = self.lease(pool, version).await.expect("a connection");
        let response = lease.send(request(version)).await.expect("an answer");
        let (status, version) = (response.status(), response.version());
        let body = Body::received(response.into_body(), version).holding(lease).collect().await.expect("a body");
        (status, String::from_utf8(body.to_bytes().to_vec()).expect("text"))
    }
}

fn request(version: Version) -> Request<Body> {
    let builder = match version {
        Version::Http1 => Request::get("/x").header("host", "a"),
        Version::Http2 => Request::get("http://a/x").version(Spoken::HTTP_2),
    };
    builder.body(Body::empty()).expect("a request")
}

/// Answers every connection as hyper does.
async fn hyper_server(version: Version) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = |request: Request<Incoming>| async move {
                Ok::<_, Infallible>(Response::new(Body::full(request.uri().path().to_owned())))
            };
            tokio::spawn(async move {
                let io = TokioIo::new(stream);
                match version {
                    Version::Http1 => {
                        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service_fn(answer)).await;
                    }
                    Version::Http2 => {
                        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let _ = builder.max_concurrent_streams(2).serve_connection(io, service_fn(answer)).await;
                    }
                }
            });
        }
    });
    Server { address, connected: Arc::default() }
}

/// Says this to each connection once it has asked, and closes it.
async fn raw_server(says: &'static [&'static [u8]]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        for said in says {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(said).await;
        }
    });
    Server { address, connected: Arc::default() }
}

#[tokio::test]
async fn one_connection_carries_request_after_request() {
    for version in [Version::Http1, Version::Http2] {
        let (server, pool) = (hyper_server(version).await, pool());
        for _ in 0..5 {
            assert_eq!(server.ask(&pool, version).await, (StatusCode::OK, "/x".into()));
        }
        assert_eq!(server.connected(), 1, "{version:?}");
    }
}

#[tokio::test]
async fn http1_carries_one_at_a_time_and_http2_as_many_as_the_server_lets() {
    let (server, pool_) = (hyper_server(Version::Http1).await, pool());
    let first = server.lease(&pool_, Version::Http1).await.expect("a connection");
    let second = server.lease(&pool_, Version::Http1).await.expect("a connection");
    assert_eq!(server.connected(), 2);
    drop((first, second));

    let (server, pool) = (hyper_server(Version::Http2).await, pool());
    // The server's limit is known with its first words.
    server.ask(&pool, Version::Http2).await;
    let mut open = Vec::new();
    for expected in [1, 1, 2, 2, 3] {
        open.push(server.lease(&pool, Version::Http2).await.expect("a connection"));
        assert_eq!(server.connected(), expected);
        // Until the new connection has heard the server's limit too.
        server.ask(&pool, Version::Http2).await;
    }
}

/// As a DestinationRule has them.
#[tokio::test]
async fn terms_bound_what_a_connection_is_used_for() {
    let ask = async |server: &Server, pool: &Pool<&'static str>, version, terms| {
        let connect = || Server::connect(server.address, server.connected.clone());
        pool.lease(&"a", version, terms, connect).await.expect("a connection")
    };
    for version in [Version::Http1, Version::Http2] {
        for (terms, connections) in [
            (Terms::default(), 1),
            (Terms { requests: Some(2), ..Terms::default() }, 2),
            (Terms { age: Some(Duration::ZERO), ..Terms::default() }, 4),
            (Terms { age: Some(Duration::from_hours(1)), ..Terms::default() }, 1),
        ] {
            let (server, pool) = (hyper_server(version).await, pool());
            for _ in 0..4 {
                let mut lease = ask(&server, &pool, version, terms).await;
                let answer = lease.send(request(version)).await.expect("an answer");
                let version = answer.version();
                Body::received(answer.into_body(), version).holding(lease).collect().await.expect("a body");
            }
            assert_eq!(server.connected(), connections, "{version:?} {terms:?}");
        }
    }
    // The server would take two at a time.
    let (server, pool) = (hyper_server(Version::Http2).await, pool());
    let one = Terms { streams: Some(1), ..Terms::default() };
    let held = [ask(&server, &pool, Version::Http2, one).await, ask(&server, &pool, Version::Http2, one).await];
    assert_eq!(server.connected(), 2);
    drop(held);
}

#[tokio::test]
async fn those_who_wait_for_an_http2_connection_share_it() {
    let (server, pool) = (hyper_server(Version::Http2).await, pool());
    let (a, b) = tokio::join!(server.ask(&pool, Version::Http2), server.ask(&pool, Version::Http2));
    assert_eq!((a.0, b.0, server.connected()), (StatusCode::OK, StatusCode::OK, 1));
}

/// Each may be used once, and those who wait for the first one are more.
#[tokio::test]
async fn those_who_wait_in_vain_get_a_connection_of_their_own() {
    let (server, pool) = (hyper_server(Version::Http2).await, pool());
    let once = Terms { requests: Some(1), ..Terms::default() };
    let ask = async || {
        let connect = || Server::connect(server.address, server.connected.clone());
        let mut lease = pool.lease(&"a", Version::Http2, once, connect).await.expect("a connection");
        lease.send(request(Version::Http2)).await.expect("an answer").status()
    };
    let (a, b, c, d) = tokio::join!(ask(), ask(), ask(), ask());
    assert_eq!([a, b, c, d], [StatusCode::OK; 4]);
    assert_eq!(server.connected(), 4);
}

#[tokio::test]
async fn what_can_not_be_reached_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    drop(listener);
    let (server, pool) = (Server { address, connected: Arc::default() }, pool());
    for version in [Version::Http1, Version::Http2] {
        let refused = server.lease(&pool, version).await.expect_err("nobody listens");
        assert_eq!(refused.reason, Reason::ConnectRefused);
    }
}

#[tokio::test]
async fn a_connection_that_does_not_end_its_answer_is_not_used_again() {
    const CLOSES: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
    let (server, pool) = (raw_server(&[CLOSES, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]).await, pool());
    assert_eq!(server.ask(&pool, Version::Http1).await.1, "ok");
    assert_eq!(server.ask(&pool, Version::Http1).await.1, "ok");
    assert_eq!(server.connected(), 2);
}

#[tokio::test]
async fn failures_are_told_apart() {
    let cases: [(&'static [&'static [u8]], SendErrorKind); 3] = [
        (&[b""], SendErrorKind::Closed),
        (&[b"HTTP/1.1 2"], SendErrorKind::Closed),
        (&[b"SSH-2.0-server\r\n\r\n"], SendErrorKind::Protocol),
    ];
    for (says, kind) in cases {
        let (server, pool) = (raw_server(says).await, pool());
        let mut lease = server.lease(&pool, Version::Http1).await.expect("a connection");
        let error = lease.send(request(Version::Http1)).await.expect_err("no answer");
        assert_eq!((error.kind, error.unsent.is_none()), (kind, true), "{says:?}: {error:?}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let idle = Duration::from_millis(50);
    let of_rule = Terms { idle: Some(idle), ..Terms::default() };
    for (settings, terms) in [(Settings { idle, ..Settings::default() }, Terms::default()), (Settings::default(), of_rule)] {
        let pool: Pool<&'static str> = Pool::new(Arc::new(Cost::default()), settings);
        let connect = || Server::connect(address, Arc::default());
        let (lease, accepted) = tokio::join!(pool.lease(&"a", Version::Http1, terms, connect), listener.accept());
        drop(lease.expect("a connection"));
        let (mut stream, _) = accepted.expect("a connection");
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await;
        ended.expect("closed").expect("in good order, or reset");
        assert_eq!(rest, b"");
    }
}

#[tokio::test]
async fn destinations_that_nobody_is_connected_to_are_forgotten() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let pool: Pool<usize> = Pool::new(Arc::new(Cost::default()), Settings::default());
    let mut most = 0;
    let asked = async {
        // Each destination is asked once, and its server closes the connection afterwards.
        for destination in 0.. {
            let connect = || Server::connect(address, Arc::default());
            let ask = async {
                let mut lease = pool.lease(&destination, Version::Http1, Terms::default(), connect).await.expect("a connection");
                let response = lease.send(request(Version::Http1)).await.expect("an answer");
                Body::received(response.into_body(), Spoken::HTTP_11).holding(lease).collect().await.expect("a body");
            };
            let answer = async {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await;
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("somebody who listens");
                stream
            };
            let ((), stream) = tokio::join!(ask, answer);
            drop(stream);
            tokio::task::yield_now().await;
            most = most.max(pool.destinations());
            if destination >= 500 && pool.destinations() < most / 2 {
                return destination;
            }
        }
        unreachable!("there is no last number");
    };
    let asked = tokio::time::timeout(Duration::from_mins(1), asked).await.expect("closed connections are forgotten");
    assert!(most < asked, "{most} of {asked} destinations at a time");
}
