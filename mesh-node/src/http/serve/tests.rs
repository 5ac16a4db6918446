//! Over real sockets, with raw bytes and with hyper's client.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// Answers with the path; `/wait` when it is let.
#[derive(Default)]
struct Echo {
    begun: Notify,
    go: Notify,
    given_up: AtomicUsize,
    cancelled: Notify,
    refused: Mutex<Vec<Reason>>,
}

struct OnDrop<'a>(&'a Echo);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.given_up.fetch_add(1, Relaxed);
        self.0.cancelled.notify_one();
    }
}

impl Exchange for Echo {
    async fn exchange(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        if request.uri().path() == "/wait" {
            let guard = OnDrop(&self);
            self.begun.notify_one();
            self.go.notified().await;
            std::mem::forget(guard);
        }
        Response::new(Body::full(request.uri().path().to_owned()))
    }

    fn refused(&self, reason: Reason) {
        self.refused.lock().expect("no panic").push(reason);
    }
}

struct Scene {
    client: TcpStream,
    echo: Arc<Echo>,
    drain: watch::Sender<bool>,
    served: JoinHandle<io::Result<()>>,
}

async fn scene(limits: Limits) -> Scene {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (server, _) = accepted.expect("a connection");
    crate::copy::break_on_close(&server);
    let (echo, drain) = (Arc::new(Echo::default()), watch::Sender::new(false));
    let (exchange, draining) = (echo.clone(), drain.subscribe());
    let served = tokio::spawn(async move { serve(Io::downstream(server), exchange, &limits, Arc::default(), draining).await });
    Scene { client: client.expect("a connection"), echo, drain, served }
}

impl Scene {
    async fn says(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).await.expect("room");
    }

    /// All that comes until the end, and the server is at its end too.
    async fn rest(mut self) -> String {
        let mut text = Vec::new();
        timeout(PATIENCE, self.client.read_to_end(&mut text)).await.expect("an end").expect("a clean one");
        drop(self.client);
        let _ = timeout(PATIENCE, self.served).await.expect("served to its end").expect("no panic");
        String::from_utf8(text).expect("text")
    }

    async fn hears(&mut self, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            let byte = timeout(PATIENCE, self.client.read_u8()).await.expect("something").expect("a byte");
            text.push(char::from(byte));
        }
        text
    }
}

#[tokio::test]
async fn what_is_said_first_chooses_the_version() {
    let mut raw = scene(Limits::default()).await;
    raw.says(b"PRI").await;
    raw.says(b"NT /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let text = raw.rest().await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("/a"), "{text}");

    let scene = scene(Limits::default()).await;
    let io = TokioIo::new(scene.client);
    let handshake = hyper::client::conn::http2::Builder::new(TokioExecutor::new()).handshake(io);
    let (mut sender, connection) = handshake.await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = Request::get("http://x/b").body(Empty::<bytes::Bytes>::new()).expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    assert_eq!(response.into_body().collect().await.expect("a body").to_bytes(), "/b");
}

#[tokio::test]
async fn requests_follow_each_other_also_when_they_are_sent_at_once() {
    let mut scene = scene(Limits::default()).await;
    scene.says(b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\nGET /2 HTTP/1.1\r\nhost: x\r\n\r\nGET /3 HTTP/1.0\r\n\r\n").await;
    let text = scene.rest().await;
    let places = ["/1", "/2", "/3"].map(|answer| text.find(&format!("\r\n\r\n{answer}")));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{text}");
}

#[tokio::test]
async fn a_client_that_has_said_its_end_still_gets_its_answer() {
    let mut scene = scene(Limits::default()).await;
    scene.says(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    scene.client.shutdown().await.expect("connected");
    scene.echo.begun.notified().await;
    scene.echo.go.notify_one();
    assert!(scene.rest().await.ends_with("/wait"));
}

#[tokio::test]
async fn a_client_that_breaks_off_is_not_worked_for() {
    let mut scene = scene(Limits::default()).await;
    scene.says(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    scene.echo.begun.notified().await;
    SockRef::from(&scene.client).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(scene.client);
    timeout(PATIENCE, scene.echo.cancelled.notified()).await.expect("given up");
    assert_eq!(scene.echo.given_up.load(Relaxed), 1);
    let _ = timeout(PATIENCE, scene.served).await.expect("served to its end");
}

#[tokio::test]
async fn a_drain_ends_idle_connections_at_once_and_busy_ones_with_their_answer() {
    let silent = scene(Limits::default()).await;
    silent.drain.send_replace(true);
    assert_eq!(silent.rest().await, "");

    let mut idle = scene(Limits::default()).await;
    idle.says(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n").await;
    idle.hears("/a").await;
    idle.drain.send_replace(true);
    assert_eq!(idle.rest().await, "");

    let mut busy = scene(Limits::default()).await;
    busy.says(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    busy.echo.begun.notified().await;
    busy.drain.send_replace(true);
    tokio::task::yield_now().await;
    busy.echo.go.notify_one();
    let text = busy.rest().await;
    assert!(text.ends_with("/wait"), "{text}");
}

#[tokio::test]
async fn silence_ends_a_connection() {
    let limits = Limits { idle: Duration::from_millis(50), ..Limits::default() };
    let silent = scene(limits.clone()).await;
    timeout(PATIENCE, silent.served).await.expect("served to its end").expect("no panic").expect("no error");
    let mut idle = scene(limits).await;
    idle.says(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n").await;
    idle.hears("/a").await;
    timeout(PATIENCE, idle.served).await.expect("served to its end").expect("no panic").expect("no error");
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(70_000));
    let fields = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(101));
    let cases = [
        ("SSH-2.0-x\r\n\r\n".to_owned(), "HTTP/1.1 400 "),
        ("GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n".to_owned(), "HTTP/1.1 400 "),
        (long, "HTTP/1.1 4"),
        (fields, "HTTP/1.1 431 "),
    ];
    for (said, answer) in cases {
        let mut scene = scene(Limits::default()).await;
        scene.says(said.as_bytes()).await;
        let echo = scene.echo.clone();
        let text = scene.rest().await;
        assert!(text.starts_with(answer), "{:?}: {text}", &said[..20.min(said.len())]);
        assert_eq!(*echo.refused.lock().expect("no panic"), [Reason::BadRequest]);
    }
}

/// A second head as well as the first one; requests that are answered, and connections without any, may take their time.
#[tokio::test]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let limits = Limits { head: Duration::from_millis(50), ..Limits::default() };
    for whole in ["", "GET /a HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut scene = scene(limits.clone()).await;
        if !whole.is_empty() {
            scene.says(whole.as_bytes()).await;
            scene.hears("/a").await;
        }
        scene.says(b"GET /b HTTP/1.1\r\nhost:").await;
        let echo = scene.echo.clone();
        let text = scene.rest().await;
        assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
        assert_eq!(*echo.refused.lock().expect("no panic"), [Reason::RequestSlow]);
    }
    let mut slow = scene(limits.clone()).await;
    slow.says(b"GET /wait HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n").await;
    slow.echo.begun.notified().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    slow.says(b"x").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    slow.echo.go.notify_one();
    slow.hears("/wait").await;
}

#[tokio::test]
async fn a_head_of_http2_that_does_not_end_is_not_waited_for() {
    let limits = Limits { head: Duration::from_millis(50), ..Limits::default() };
    let mut scene = scene(limits).await;
    scene.says(PREFACE).await;
    // SETTINGS, and HEADERS of stream 1 without END_HEADERS and without its payload.
    scene.says(b"\0\0\0\x04\0\0\0\0\0\0\0\x05\x01\0\0\0\0\x01").await;
    let echo = scene.echo.clone();
    let _ = timeout(PATIENCE, scene.served).await.expect("served to its end").expect("no panic");
    assert_eq!(*echo.refused.lock().expect("no panic"), [Reason::RequestSlow]);
}

/// Ten thousand of them wait for a request: what they hold meanwhile counts.
#[tokio::test]
async fn a_connection_is_small() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let client = TcpStream::connect(listener.local_addr().expect("its address")).await.expect("a connection");
    let (drain, limits) = (watch::Sender::new(false), Limits::default());
    let serving = serve(Io::downstream(client), Arc::new(Echo::default()), &limits, Arc::default(), drain.subscribe());
    let size = size_of_val(&serving);
    assert!(size <= 3 << 10, "{size} bytes");
}
