//! Which streams share a tunnel.

use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn all_who_come_at_once_share_one_handshake() {
    let (_ca, pod, node) = both().await;
    let streams = join_all((0..50).map(|_| pod.open(node.address, "10.0.0.2:80"))).await;
    assert!(streams.iter().all(Result::is_ok));
    assert_eq!((node.tunnels(), pod.pool.snapshot()[0].streams), (1, 50));
}

#[tokio::test]
async fn a_failed_handshake_fails_all_who_waited_and_is_tried_again() {
    let (_ca, pod, node) = both().await;
    let free = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        listener.local_addr().expect("address")
    };
    let results = join_all((0..10).map(|_| pod.open(free, "10.0.0.2:80"))).await;
    assert!(results.iter().all(|result| matches!(result, Err(HboneError::Dial { .. }))));
    assert_eq!(pod.pool.snapshot(), []);
    assert!(pod.open(node.address, "10.0.0.2:80").await.is_ok());
}

#[tokio::test]
async fn who_gives_up_does_not_spoil_the_handshake_for_the_rest() {
    let (_ca, pod, node) = both().await;
    let key = Pod::key(node.address);
    let asked = request("10.0.0.2:80");
    let mut first = Box::pin(pod.pool.open(&key, &pod.tls, &asked));
    // It starts the handshake and goes away.
    let started = futures_util::poll!(first.as_mut());
    assert!(started.is_pending());
    drop(first);
    pod.open(node.address, "10.0.0.2:80").await.expect("a stream");
    assert_eq!(node.tunnels(), 1);
}

#[tokio::test]
async fn a_full_tunnel_gets_another_beside_it() {
    let ours = Settings { client_streams: 2, ..Settings::default() };
    let theirs = Settings { server_streams: 2, ..Settings::default() };
    for (client, server) in [(ours, Settings::default()), (Settings::default(), theirs)] {
        let (_ca, pod, node) = both_with(client, server).await;
        // The peer's limit is known once it has spoken.
        drop(pod.open(node.address, "10.0.0.2:80").await.expect("a stream"));
        until("the stream's end", || pod.pool.snapshot().iter().all(|tunnel| tunnel.streams == 0)).await;
        let mut streams = Vec::new();
        for _ in 0..5 {
            streams.push(pod.open(node.address, "10.0.0.2:80").await.expect("a stream"));
        }
        let mut held: Vec<usize> = pod.pool.snapshot().iter().map(|tunnel| tunnel.streams).collect();
        held.sort_unstable();
        assert_eq!(held, [1, 2, 2]);
        // Places that are given back are taken again.
        streams.clear();
        until("the streams' end", || pod.pool.snapshot().iter().all(|tunnel| tunnel.streams == 0)).await;
        pod.open(node.address, "10.0.0.2:80").await.expect("a stream");
        assert_eq!(node.tunnels(), 3);
    }
}

#[tokio::test]
async fn another_destination_identity_is_another_tunnel() {
    let (_ca, pod, node) = both().await;
    let mut key = Pod::key(node.address);
    let _one = pod.pool.open(&key, &pod.tls, &request("10.0.0.2:80")).await.expect("a stream");
    key.destination = Arc::new([identity("stock"), identity("other")]);
    let _two = pod.pool.open(&key, &pod.tls, &request("10.0.0.2:80")).await.expect("a stream");
    assert_eq!(node.tunnels(), 2);
}

#[tokio::test]
async fn a_new_certificate_makes_a_new_tunnel_and_the_old_stream_goes_on() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (ca, mut pod, node) = both().await;
    let (mut client, carried) = pod.dial(node.address).await;
    let mut server = node.app().await;
    pod.tls = ca.tls("page");
    let _new = pod.open(node.address, "10.0.0.2:80").await.expect("a stream");
    assert_eq!(node.tunnels(), 2);
    client.write_all(b"x").await.expect("write");
    let mut byte = [0];
    within("the old stream", server.read_exact(&mut byte)).await.expect("read");
    drop((client, server));
    within("the end", carried).await.expect("task").expect("a clean end");
    assert_eq!(pod.pool.snapshot().len(), 1);
}

#[tokio::test]
async fn evicted_and_dropped_pools_close_their_tunnels() {
    let (_ca, pod, mut node) = both().await;
    let stream = pod.open(node.address, "10.0.0.2:80").await.expect("a stream");
    pod.pool.evict(node.address);
    assert_eq!(pod.pool.snapshot(), []);
    drop(stream);
    assert_closed(within("the end", node.ended.recv()).await.as_ref());
    drop(pod.open(node.address, "10.0.0.2:80").await.expect("a stream"));
    drop(pod);
    assert_closed(within("the end", node.ended.recv()).await.as_ref());
    assert_eq!(node.tunnels(), 2);
}

#[tokio::test]
async fn what_a_burst_needed_is_closed_and_one_tunnel_is_kept() {
    let client = Settings { client_streams: 2, spare_idle_timeout: Duration::from_millis(50), ..Settings::default() };
    let (_ca, pod, mut node) = both_with(client, Settings::default()).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(pod.open(node.address, "10.0.0.2:80").await.expect("a stream"));
    }
    assert_eq!(pod.pool.snapshot().len(), 3);
    let last = streams.pop();
    streams.clear();
    until("only the first and the busy one are left", || pod.pool.snapshot().len() == 2).await;
    drop(last);
    until("only the first is left", || pod.pool.snapshot().len() == 1).await;
    for _ in 0..2 {
        assert_closed(within("the end of a spare one", node.ended.recv()).await.as_ref());
    }
    pod.open(node.address, "10.0.0.2:80").await.expect("a stream");
    assert_eq!(node.tunnels(), 3, "no new one for it");
}
