//! Real sockets on loopback: a client, the copy in the middle, a server.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Meter for std::sync::Arc<Counts> {
    fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }
}

struct Middle {
    client: TcpStream,
    server: TcpStream,
    counts: std::sync::Arc<Counts>,
    copy: JoinHandle<Result<(), CopyError>>,
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("[::1]:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (dialled.expect("connect"), accepted.expect("accept").0)
}

async fn middle() -> Middle {
    let (client, mut downstream) = pair().await;
    let (mut upstream, server) = pair().await;
    break_on_close(&downstream);
    break_on_close(&upstream);
    let counts = std::sync::Arc::new(Counts::default());
    let meter = counts.clone();
    let copy = tokio::spawn(async move { bidirectional(&mut downstream, &mut upstream, &meter).await });
    Middle { client, server, counts, copy }
}

/// Bytes that a shift or a loss would show in.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as u8).collect()
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let Middle { mut client, mut server, counts, copy } = middle().await;
    client.write_all(b"question").await.expect("write");
    client.shutdown().await.expect("half-close");
    let mut question = String::new();
    server.read_to_string(&mut question).await.expect("read to the end");
    assert_eq!(question, "question");
    // The other direction is still open, long after the first one ended.
    server.write_all(b"answer").await.expect("write");
    server.shutdown().await.expect("half-close");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("a clean end");
    assert_eq!(answer, "answer");
    copy.await.expect("task").expect("no error");
    assert_eq!((counts.sent.load(Relaxed), counts.received.load(Relaxed)), (8, 6));
}

#[tokio::test]
async fn many_bytes_cross_both_ways_at_once() {
    const LENGTH: usize = 8 * 1024 * 1024 + 17;
    let Middle { client, server, counts, copy } = middle().await;
    let talk = |stream: TcpStream| async move {
        let (mut read, mut write) = stream.into_split();
        let sending = tokio::spawn(async move {
            write.write_all(&pattern(LENGTH)).await.expect("write");
            write.shutdown().await.expect("half-close");
        });
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.expect("a clean end");
        sending.await.expect("sender");
        got
    };
    let (a, b) = tokio::join!(talk(client), talk(server));
    assert!(a == pattern(LENGTH) && b == pattern(LENGTH));
    copy.await.expect("task").expect("no error");
    assert_eq!((counts.sent.load(Relaxed), counts.received.load(Relaxed)), (LENGTH as u64, LENGTH as u64));
}

#[tokio::test]
async fn a_reset_is_a_reset_on_the_other_side() {
    for server_breaks in [true, false] {
        let Middle { client, server, copy, .. } = middle().await;
        let (breaks, mut sees) = if server_breaks { (server, client) } else { (client, server) };
        break_on_close(&breaks);
        drop(breaks);
        let error = sees.read(&mut [0; 16]).await.expect_err("an error, not an empty answer");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let error = copy.await.expect("task").expect_err("the copy says who broke it");
        assert_eq!(error.end, if server_breaks { End::Upstream } else { End::Downstream });
    }
}

#[tokio::test]
async fn a_copy_that_is_given_up_resets_both_sides() {
    let Middle { mut client, mut server, copy, .. } = middle().await;
    client.write_all(b"x").await.expect("write");
    server.read_exact(&mut [0; 1]).await.expect("the copy runs");
    copy.abort();
    for side in [&mut client, &mut server] {
        let error = side.read(&mut [0; 16]).await.expect_err("an error, not an end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_writer_and_loses_nothing() {
    let Middle { mut client, mut server, counts, copy } = middle().await;
    let block = pattern(64 * 1024);
    let mut written = 0;
    // Until buffers are full everywhere: then nothing goes on by itself.
    while let Ok(result) = tokio::time::timeout(std::time::Duration::from_millis(300), client.write(&block)).await {
        written += result.expect("write");
        assert!(written < 256 << 20, "nothing holds the writer back");
    }
    let crossed = counts.sent.load(Relaxed);
    assert!(crossed <= written as u64);
    client.shutdown().await.expect("half-close");
    let mut got = Vec::new();
    server.read_to_end(&mut got).await.expect("a clean end");
    assert_eq!(got.len(), written);
    server.shutdown().await.expect("half-close");
    copy.await.expect("task").expect("no error");
}
