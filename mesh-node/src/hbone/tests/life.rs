//! How tunnels end.

use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::identity::testing::Leaf;

#[tokio::test]
async fn a_draining_node_keeps_its_streams_and_takes_no_more() {
    let (_ca, pod, mut node) = both().await;
    let (mut client, carried) = pod.dial(node.address).await;
    let mut server = node.app().await;
    node.drain.notify_waiters();
    // The pool finds the tunnel closed to new streams and makes another.
    until("a second tunnel", || {
        node.tunnels() == 2 || {
            let key = Pod::key(node.address);
            let asked = request("10.0.0.2:80");
            futures_util::FutureExt::now_or_never(pod.pool.open(&key, &pod.tls, &asked));
            false
        }
    })
    .await;
    client.write_all(b"still here").await.expect("write");
    let mut heard = [0; 10];
    within("the old stream", server.read_exact(&mut heard)).await.expect("read");
    assert_eq!(&heard, b"still here");
    drop((client, server));
    within("the end", carried).await.expect("task").expect("a clean end");
    assert_closed(within("the drain's end", node.ended.recv()).await.as_ref());
}

#[tokio::test]
async fn a_drain_does_not_wait_for_ever() {
    let server = Settings { drain_timeout: Duration::from_millis(50), ..Settings::default() };
    let (_ca, pod, mut node) = both_with(Settings::default(), server).await;
    let (mut client, _carried) = pod.dial(node.address).await;
    node.drain.notify_waiters();
    assert!(matches!(within("the drain's end", node.ended.recv()).await, Some(Err(ServeError::DrainTimeout { .. }))));
    let seen = within("a reset", client.read(&mut [0])).await.expect_err("no clean end");
    assert_eq!(seen.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_idle_tunnel_is_closed_and_a_busy_one_is_not() {
    let client = Settings { idle_timeout: Duration::from_millis(50), ..Settings::default() };
    let (_ca, pod, mut node) = both_with(client, Settings::default()).await;
    let stream = pod.open(node.address, "10.0.0.2:80").await.expect("a stream");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(pod.pool.snapshot().len(), 1, "a stream is open in it");
    drop(stream);
    assert_closed(within("the end", node.ended.recv()).await.as_ref());
    until("the pool's end", || pod.pool.snapshot().is_empty()).await;
    pod.open(node.address, "10.0.0.2:80").await.expect("a new tunnel");
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_gone() {
    // A peer that is stopped: it holds the connection and does nothing.
    let settings =
        Settings { ping_interval: Duration::from_millis(50), ping_timeout: Duration::from_millis(200), ..Settings::default() };
    let ca = TestCa::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let stock = ca.tls("stock");
    let stopped = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.expect("accept");
        let tls = tokio_rustls::TlsAcceptor::from(stock.server_config()).accept(tcp).await.expect("handshake");
        std::future::pending::<()>().await;
        drop(tls);
    });
    let tcp = TcpStream::connect(address).await.expect("connect");
    let budget = Budget::new(Budget::DEFAULT);
    let tunnel = Tunnel::connect(tcp, &ca.tls("page"), &[identity("stock")], &settings, budget).await.expect("a tunnel");
    within("the end", tunnel.ended()).await;
    let error = tunnel.open(&request("10.0.0.2:80")).await.expect_err("closed");
    assert!(matches!(error, HboneError::Closed { .. }), "{error:?}");
    stopped.abort();
}

#[tokio::test]
async fn an_expired_certificate_closes_the_tunnel_at_both_ends() {
    for page_expires in [true, false] {
        let ca = TestCa::new();
        let short = |account: &str| {
            let identity = identity(account);
            let not_after = SystemTime::now() + Duration::from_secs(2);
            let (chain, key) = ca.issue(&Leaf { not_after, ..Leaf::of(&identity.to_string()) });
            Arc::new(TlsIdentity::new(&identity, key, chain, &crate::identity::Aliases::default()).expect("good"))
        };
        let mut pod = Pod::new(&ca, Settings::default());
        let stock = if page_expires { ca.tls("stock") } else { short("stock") };
        if page_expires {
            pod.tls = short("page");
        }
        let mut node = Node::start(stock, Settings::default()).await;
        let (mut client, _carried) = pod.dial(node.address).await;
        let seen = within("a reset", client.read(&mut [0])).await.expect_err("no clean end");
        assert_eq!(seen.kind(), io::ErrorKind::ConnectionReset);
        // Which end is first to see it is open, so the node may see its peer go.
        assert!(within("the end", node.ended.recv()).await.is_some());
        // A certificate holds to the end of its last second.
        let refused = async {
            loop {
                match pod.open(node.address, "10.0.0.2:80").await {
                    Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(error) => break error,
                }
            }
        };
        let error = within("a refusal", refused).await;
        assert_eq!(error.reason(), crate::reason::Reason::TlsHandshake, "{error:?}");
    }
}
