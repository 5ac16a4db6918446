//! Bytes, ends and resets, through a whole tunnel.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::copy::{End, break_on_close};

#[tokio::test]
async fn ten_mebibytes_each_way_arrive_as_they_were() {
    let (_ca, pod, node) = both().await;
    let (client, carried) = pod.dial(node.address).await;
    let server = node.app().await;
    let pattern = |seed: u8| (0..10_usize << 20).map(move |index| (index * 31 / 7) as u8 ^ seed).collect::<Vec<u8>>();
    let speak = |socket: TcpStream, seed: u8| async move {
        let (mut reader, mut writer) = socket.into_split();
        let sending = tokio::spawn(async move {
            writer.write_all(&pattern(seed)).await.expect("write");
            writer.shutdown().await.expect("shutdown");
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.expect("read");
        sending.await.expect("sending");
        received
    };
    let (at_client, at_server) = within("the exchange", async { tokio::join!(speak(client, 1), speak(server, 2)) }).await;
    assert!(at_client == pattern(2) && at_server == pattern(1));
    let copied = within("the end", carried).await.expect("task").expect("a clean end");
    assert_eq!(copied, Copied { sent: 10 << 20, received: 10 << 20 });
    until("the budget's return", || pod.budget.used() == 0 && node.handler.budget.used() == 0).await;
}

#[tokio::test]
async fn many_small_writes_arrive_as_they_were() {
    let (_ca, pod, node) = both().await;
    let (mut client, carried) = pod.dial(node.address).await;
    let mut server = node.app().await;
    let writing = tokio::spawn(async move {
        for index in 0..20_000_u32 {
            client.write_all(&index.to_be_bytes()).await.expect("write");
        }
        client.shutdown().await.expect("shutdown");
        client
    });
    let mut received = Vec::new();
    within("the bytes", server.read_to_end(&mut received)).await.expect("read");
    let expected: Vec<u8> = (0..20_000_u32).flat_map(u32::to_be_bytes).collect();
    assert!(received == expected);
    drop((writing.await.expect("task"), server));
    within("the end", carried).await.expect("task").expect("a clean end");
}

#[tokio::test]
async fn an_end_in_one_direction_leaves_the_other_open() {
    for client_first in [true, false] {
        let (_ca, pod, node) = both().await;
        let (client, carried) = pod.dial(node.address).await;
        let server = node.app().await;
        let (mut first, mut second) = if client_first { (client, server) } else { (server, client) };
        first.write_all(b"question").await.expect("write");
        first.shutdown().await.expect("shutdown");
        let mut heard = Vec::new();
        within("the end of the question", second.read_to_end(&mut heard)).await.expect("read");
        assert_eq!(heard, b"question");
        // The other direction works on, long after.
        second.write_all(b"answer").await.expect("write");
        second.shutdown().await.expect("shutdown");
        let mut heard = Vec::new();
        within("the end of the answer", first.read_to_end(&mut heard)).await.expect("read");
        assert_eq!(heard, b"answer");
        within("the end", carried).await.expect("task").expect("a clean end");
        until("the node's end", || !node.handler.relayed.lock().expect("lock").is_empty()).await;
        assert!(node.handler.relayed.lock().expect("lock")[0].is_ok());
    }
}

/// In which state of the connection one side breaks.
#[derive(Clone, Copy, Debug)]
enum When {
    Open,
    /// After the side that breaks has ended its own direction.
    OwnEnd,
    /// After the side that sees it has ended its direction.
    OtherEnd,
}

#[tokio::test]
async fn a_reset_is_a_reset_at_the_other_end() {
    for when in [When::Open, When::OwnEnd, When::OtherEnd] {
        for client_breaks in [true, false] {
            let (_ca, pod, node) = both().await;
            let (client, carried) = pod.dial(node.address).await;
            let server = node.app().await;
            let (mut breaks, mut sees) = if client_breaks { (client, server) } else { (server, client) };
            let mut byte = [0];
            breaks.write_all(b"x").await.expect("write");
            sees.read_exact(&mut byte).await.expect("read");
            match when {
                When::Open => {}
                When::OwnEnd => {
                    breaks.shutdown().await.expect("shutdown");
                    assert_eq!(within("the end", sees.read(&mut byte)).await.expect("read"), 0);
                }
                When::OtherEnd => {
                    sees.shutdown().await.expect("shutdown");
                    assert_eq!(within("the end", breaks.read(&mut byte)).await.expect("read"), 0);
                }
            }
            break_on_close(&breaks);
            drop(breaks);
            let seen = match when {
                // Its own reading has ended, so the reset shows as an error on the socket.
                When::OwnEnd => {
                    within("an error", async {
                        loop {
                            let ready = sees.ready(tokio::io::Interest::ERROR).await.expect("ready");
                            if ready.is_error() {
                                break sees.take_error().expect("error").expect("a pending error");
                            }
                        }
                    })
                    .await
                }
                When::Open | When::OtherEnd => within("a reset", sees.read(&mut byte)).await.expect_err("no clean end"),
            };
            // Linux calls a reset EPIPE on a socket whose peer had ended its direction.
            let expected = if matches!(when, When::OwnEnd) { io::ErrorKind::BrokenPipe } else { io::ErrorKind::ConnectionReset };
            assert_eq!(seen.kind(), expected, "{when:?} {client_breaks}");
            let here = within("the end", carried).await.expect("task").expect_err("broken");
            assert_eq!(here.end, if client_breaks { End::Downstream } else { End::Upstream }, "{when:?}");
            until("the node's end", || !node.handler.relayed.lock().expect("lock").is_empty()).await;
            let there = node.handler.relayed.lock().expect("lock").remove(0).expect_err("broken");
            assert_eq!(there.end, if client_breaks { End::Downstream } else { End::Upstream }, "{when:?}");
        }
    }
}

#[tokio::test]
async fn a_tunnel_that_breaks_resets_its_connections() {
    let (_ca, pod, node) = both().await;
    let tcp = TcpStream::connect(node.address).await.expect("connect");
    let (settings, budget) = (Settings::default(), Arc::clone(&pod.budget));
    let tunnel = Tunnel::connect(tcp, &pod.tls, &[identity("stock")], &settings, budget).await.expect("a tunnel");
    let stream = tunnel.open(&request("10.0.0.2:80")).await.expect("a stream");
    let (mut client, ours) = pair().await;
    let carried = tokio::spawn(async move { copy_bidirectional(&mut armed(ours), stream, &NoMeter).await });
    let mut server = node.app().await;
    client.write_all(b"x").await.expect("write");
    let mut byte = [0];
    server.read_exact(&mut byte).await.expect("read");
    tunnel.kill();
    for socket in [&mut client, &mut server] {
        let seen = within("a reset", socket.read(&mut byte)).await.expect_err("no clean end");
        assert_eq!(seen.kind(), io::ErrorKind::ConnectionReset);
    }
    assert!(within("the end", carried).await.expect("task").is_err());
}

#[tokio::test]
async fn streams_that_nobody_reads_leave_their_sibling_alone() {
    let (_ca, pod, node) = both().await;
    let mut stalled = Vec::new();
    let taken = Arc::new(AtomicUsize::new(0));
    for _ in 0..20 {
        let (client, _carried) = pod.dial(node.address).await;
        let server = node.app().await;
        // More than every buffer on the way takes; the server never reads.
        let (reader, mut writer) = client.into_split();
        let taken = taken.clone();
        let writing = tokio::spawn(async move {
            while let Ok(bytes) = writer.write(&[7; 1 << 14]).await {
                taken.fetch_add(bytes, Relaxed);
            }
        });
        stalled.push((reader, server, writing));
    }
    let budget = Arc::clone(&node.handler.budget);
    let window = super::super::settings::STREAM_WINDOW as usize;
    // The node learns what waits in a stream when it next looks at it, so that the writers know better when all is full.
    let mut looks = VecDeque::from([0; 20]);
    until("twenty full windows", || {
        looks.push_back(taken.load(Relaxed));
        taken.load(Relaxed) >= 20 * window && looks.pop_front() == looks.back().copied()
    })
    .await;

    let (mut client, _carried) = pod.dial(node.address).await;
    let mut server = node.app().await;
    let mut heard = vec![0; 1 << 20];
    for round in 0..20_u8 {
        let said = vec![round; 1 << 20];
        let (wrote, read) =
            within("the sibling's turn", async { tokio::join!(client.write_all(&said), server.read_exact(&mut heard)) }).await;
        wrote.expect("write");
        read.expect("read");
        assert!(heard == said);
    }
    assert_eq!(node.tunnels(), 1, "one tunnel carried all of them");
    assert!(stalled.iter().all(|(_, _, writing)| !writing.is_finished()));
    let bound = 21 * super::super::settings::MAX_STREAM_WINDOW as usize;
    assert!(budget.used() <= bound, "{} bytes wait, {bound} may", budget.used());
}

#[tokio::test]
async fn a_pod_over_its_budget_is_squeezed_and_not_starved() {
    let ca = TestCa::new();
    let pod = Pod::with(&ca, Settings::default(), Budget::new(0));
    let node = Node::start(ca.tls("stock"), Settings::default()).await;
    // Everything that comes to the pod is over its budget of nothing.
    let (mut client, _carried) = pod.dial(node.address).await;
    let mut server = node.app().await;
    let sent = vec![5; 8 << 20];
    let mut heard = vec![0; sent.len()];
    let (wrote, read) = within("all of it", async { tokio::join!(server.write_all(&sent), client.read_exact(&mut heard)) }).await;
    wrote.expect("write");
    read.expect("read");
    assert!(heard == sent);
}
