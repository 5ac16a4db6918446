//! Against rustls on the other side, byte by byte where it matters.

mod peers;

use std::{future::poll_fn, io, pin::Pin, sync::Arc, task::Poll};

use proptest::prelude::*;
use rustls::{ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use self::peers::{Anyone, Raw};
use super::*;
use crate::identity::{
    testing::{TestCa, identity},
    tls::provider,
};

fn name() -> ServerName<'static> {
    "127.0.0.1".try_into().expect("an address")
}

fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let ca = TestCa::new();
    let client = ca.tls("page").client_config(&[identity("stock")]).expect("a configuration");
    (client, ca.tls("stock").server_config())
}

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (dialled.expect("connect"), accepted.expect("accept").0)
}

/// Our stream on both sides: client, server.
async fn ours() -> (TlsStream, TlsStream) {
    let (client, server) = configs();
    let (dialled, accepted) = tcp().await;
    let (dialled, accepted) = tokio::join!(
        async {
            let (mut stream, peer) = connect(dialled, client, name()).await.expect("a client");
            stream.flush().await.expect("the last message");
            (stream, peer)
        },
        accept(accepted, server)
    );
    let (accepted, peer) = accepted.expect("a server");
    assert_eq!(peer.facts.expect("a certificate").identity, identity("page"));
    assert_eq!(dialled.1.facts.expect("a certificate").identity, identity("stock"));
    assert!(peer.speaks_http2 && dialled.1.speaks_http2);
    (dialled.0, accepted)
}

/// Sends `bytes` in writes of `size`, and reads as many back.
async fn echo_through(stream: impl AsyncReadExt + AsyncWriteExt, bytes: &[u8], size: usize) {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut heard = vec![0; bytes.len()];
    let talk = async {
        for part in bytes.chunks(size) {
            write.write_all(part).await.expect("write");
        }
        write.flush().await.expect("flush");
    };
    let ((), listened) = tokio::join!(talk, read.read_exact(&mut heard));
    listened.expect("read");
    assert!(heard == bytes);
    write.shutdown().await.expect("shutdown");
    assert_eq!(read.read(&mut [0]).await.expect("a clean end"), 0);
}

async fn echo(stream: impl AsyncReadExt + AsyncWriteExt) {
    let (mut read, mut write) = tokio::io::split(stream);
    tokio::io::copy(&mut read, &mut write).await.expect("copy");
    write.shutdown().await.expect("shutdown");
}

#[tokio::test]
async fn carries_what_is_written_to_and_from_rustls_and_itself() {
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    for size in [700, 16 * 1024, 65_545, 1 << 20] {
        let (client, server) = configs();
        let (dialled, accepted) = tcp().await;
        let serve = async { echo(TlsAcceptor::from(server).accept(accepted).await.expect("a server")).await };
        let dial = async { echo_through(connect(dialled, client, name()).await.expect("a client").0, &bytes, size).await };
        tokio::join!(serve, dial);

        let (client, server) = configs();
        let (dialled, accepted) = tcp().await;
        let serve = async { echo(accept(accepted, server).await.expect("a server").0).await };
        let dial = async {
            let stream = TlsConnector::from(client).connect(name(), dialled).await.expect("a client");
            echo_through(stream, &bytes, size).await;
        };
        tokio::join!(serve, dial);

        let (dialled, accepted) = ours().await;
        tokio::join!(echo(accepted), echo_through(dialled, &bytes, size));
    }
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer() {
    let (mut client, mut server) = ours().await;
    let bytes = vec![1; 1 << 20];
    let mut heard = vec![0; bytes.len()];
    let (wrote, read) = tokio::join!(client.write_all(&bytes), server.read_exact(&mut heard));
    wrote.and(read.map(|_| ())).expect("carried");
    client.flush().await.expect("flush");
    assert!(poll_once(&mut server, &mut [0]).await.is_none(), "nothing more has come");
    assert_eq!(client.held() + server.held(), 0);
}

/// One look, without waiting.
async fn poll_once(stream: &mut TlsStream, into: &mut [u8]) -> Option<io::Result<usize>> {
    let mut buf = ReadBuf::new(into);
    poll_fn(|cx| {
        let polled = tokio::io::AsyncRead::poll_read(Pin::new(stream), cx, &mut buf);
        Poll::Ready(match polled {
            Poll::Ready(Ok(())) => Some(Ok(buf.filled().len())),
            Poll::Ready(Err(error)) => Some(Err(error)),
            Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn an_end_that_tls_did_not_say_is_an_error() {
    let (client, mut server) = ours().await;
    drop(client);
    let error = server.read(&mut [0]).await.expect_err("truncated");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn new_keys_are_taken_after_as_many_records_as_the_old_may_seal() {
    let (client, server) = configs();
    let (dialled, accepted) = tcp().await;
    let serve = async { echo(TlsAcceptor::from(server).accept(accepted).await.expect("a server")).await };
    let dial = async {
        let (mut stream, _) = connect(dialled, client, name()).await.expect("a client");
        for round in 0..100_u8 {
            stream.limit_key_to(3);
            stream.write_all(&vec![round; 50_000]).await.expect("write");
            let mut heard = vec![0; 50_000];
            stream.read_exact(&mut heard).await.expect("read");
            assert_eq!(heard, vec![round; 50_000]);
        }
        stream.shutdown().await.expect("shutdown");
        assert_eq!(stream.read(&mut [0]).await.expect("a clean end"), 0);
    };
    tokio::join!(serve, dial);
}

/// Our server and a raw client.
async fn raw_client() -> (Raw, TlsStream) {
    let (client, server) = configs();
    let (dialled, accepted) = tcp().await;
    let tls = ClientConnection::new(client, name()).expect("a client");
    let (raw, accepted) = tokio::join!(Raw::shake(dialled, tls), accept(accepted, server));
    (raw, accepted.expect("a server").0)
}

/// Our client and a raw server.
async fn raw_server(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> (Raw, TlsStream) {
    let (dialled, accepted) = tcp().await;
    let tls = ServerConnection::new(server).expect("a server");
    let dial = async {
        let (mut stream, _) = connect(dialled, client, name()).await.expect("a client");
        stream.flush().await.expect("the last message");
        stream
    };
    tokio::join!(Raw::shake(accepted, tls), dial)
}

/// Sends `wire` in two parts; in between everything that has come is read.
async fn cut(raw: &mut Raw, stream: &mut TlsStream, wire: &[u8], at: usize, heard: &mut Vec<u8>) {
    for part in [&wire[..at], &wire[at..]] {
        raw.tcp.write_all(part).await.expect("write");
        if part.is_empty() {
            continue;
        }
        stream.readable().await;
        let mut into = [0; 3000];
        while let Some(read) = poll_once(stream, &mut into).await {
            heard.extend_from_slice(&into[..read.expect("read")]);
        }
    }
}

#[tokio::test]
async fn records_may_be_cut_anywhere() {
    let (mut raw, mut stream) = raw_client().await;
    let mut at = 0;
    loop {
        // Two records and a new key between them, in one piece.
        let mut wire = raw.seal(b"first");
        raw.tls.refresh_traffic_keys().expect("new keys");
        wire.extend(raw.seal(b"second"));
        let mut heard = Vec::new();
        cut(&mut raw, &mut stream, &wire, at, &mut heard).await;
        assert_eq!(heard, b"firstsecond", "cut at {at}");
        at += 1;
        if at > wire.len() {
            break;
        }
    }
    // It was asked for new keys of its own as well.
    stream.write_all(b"answer").await.expect("write");
    assert_eq!(raw.hear(6).await, b"answer");
}

#[tokio::test]
async fn what_follows_the_handshake_at_once_is_read() {
    let (client, server) = configs();
    let (dialled, accepted) = tcp().await;
    let (mut client, stream) = tokio::join!(
        async {
            let (mut stream, _) = connect(dialled, client, name()).await.expect("a client");
            // Together with the last message of the handshake.
            stream.write_all(&vec![7; 40_000]).await.expect("write");
            stream.shutdown().await.expect("shutdown");
            stream
        },
        async {
            let (mut stream, _) = accept(accepted, server).await.expect("a server");
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await.expect("a clean end");
            assert_eq!(heard, vec![7; 40_000]);
            stream.write_all(b"answer").await.expect("the other direction is open");
            stream.shutdown().await.expect("shutdown");
            stream
        }
    );
    let mut heard = String::new();
    client.read_to_string(&mut heard).await.expect("a clean end");
    assert_eq!(heard, "answer");
    drop(stream);
}

#[tokio::test]
async fn session_tickets_are_passed_over() {
    let ca = TestCa::new();
    let client = ca.tls("page").client_config(&[identity("stock")]).expect("a configuration");
    let mut server = ServerConfig::clone(&ca.tls("stock").server_config());
    server.send_tls13_tickets = 3;
    server.session_storage = rustls::server::ServerSessionMemoryCache::new(8);
    let (mut raw, mut stream) = raw_server(Arc::new(server), client).await;
    let wire = raw.seal(b"hello");
    raw.tcp.write_all(&wire).await.expect("write");
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.expect("read");
    assert_eq!(&heard, b"hello");
}

/// What the stream makes of `wire`, and what the peer is told.
async fn refused(raw: &mut Raw, stream: &mut TlsStream, wire: &[u8]) -> (Error, Option<Error>) {
    raw.tcp.write_all(wire).await.expect("write");
    let error = stream.read(&mut [0; 64]).await.expect_err("refused");
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).expect("an error of TLS").clone();
    let again = stream.read(&mut [0]).await.expect_err("for good");
    assert_eq!(again.to_string(), error.to_string());
    (error, raw.receive().await.err())
}

/// What is done to a record on its way.
type Spoil = Box<dyn Fn(&mut Vec<u8>)>;

#[tokio::test]
async fn what_is_no_record_of_the_peer_is_refused_with_an_alert() {
    use rustls::AlertDescription::{BadRecordMac, RecordOverflow, UnexpectedMessage};
    let flip = |index: usize| {
        move |wire: &mut Vec<u8>| {
            let index = if index > wire.len() { wire.len() - 1 } else { index };
            wire[index] ^= 1;
        }
    };
    let cases: [(Spoil, rustls::AlertDescription); 7] = [
        (Box::new(flip(7)), BadRecordMac),
        (Box::new(flip(usize::MAX)), BadRecordMac),
        // The header is authenticated too.
        (Box::new(flip(2)), BadRecordMac),
        (Box::new(|wire| wire[3..5].copy_from_slice(&(16 * 1024 + 257_u16).to_be_bytes())), RecordOverflow),
        (Box::new(|wire| wire.splice(.., [23, 3, 3, 0, 3, 1, 2, 3]).for_each(drop)), BadRecordMac),
        // Change cipher spec and a plaintext alert have had their day.
        (Box::new(|wire| wire.splice(.., [20, 3, 3, 0, 1, 1]).for_each(drop)), UnexpectedMessage),
        (Box::new(|wire| wire.splice(.., [21, 3, 3, 0, 2, 2, 40]).for_each(drop)), UnexpectedMessage),
    ];
    for (index, (spoil, alert)) in cases.into_iter().enumerate() {
        let (mut raw, mut stream) = raw_client().await;
        let mut wire = raw.seal(b"hello");
        spoil(&mut wire);
        let (_, told) = refused(&mut raw, &mut stream, &wire).await;
        assert_eq!(told, Some(Error::AlertReceived(alert)), "case {index}");
        assert_eq!(stream.write(b"x").await.expect_err("over").kind(), io::ErrorKind::BrokenPipe);
    }
}

#[tokio::test]
async fn a_repeated_record_is_refused() {
    let (mut raw, mut stream) = raw_client().await;
    let wire = raw.seal(b"hello");
    raw.tcp.write_all(&wire).await.expect("write");
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.expect("read");
    let (error, _) = refused(&mut raw, &mut stream, &wire).await;
    assert_eq!(error, Error::DecryptError);
}

#[tokio::test]
async fn new_keys_without_end_are_refused() {
    let (mut raw, mut stream) = raw_client().await;
    let mut wire = Vec::new();
    for _ in 0..100 {
        raw.tls.refresh_traffic_keys().expect("new keys");
        wire.extend(raw.sealed());
    }
    let (error, _) = refused(&mut raw, &mut stream, &wire).await;
    assert_eq!(error, rustls::PeerMisbehaved::TooManyEmptyFragments.into());
}

#[tokio::test]
async fn every_cipher_suite_is_spoken() {
    for suite in provider().cipher_suites.clone() {
        let (client, server) = configs();
        let mut only = rustls::crypto::CryptoProvider::clone(&provider());
        only.cipher_suites = vec![suite];
        let mut config = ClientConfig::builder_with_provider(Arc::new(only))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_client_cert_resolver(Arc::clone(&client.client_auth_cert_resolver));
        config.enable_secret_extraction = true;
        let (dialled, accepted) = tcp().await;
        let serve = async { echo(TlsAcceptor::from(server).accept(accepted).await.expect("a server")).await };
        let dial = async {
            let (stream, _) = connect(dialled, Arc::new(config), name()).await.expect("a client");
            echo_through(stream, &vec![3; 100_000], 30_000).await;
        };
        tokio::join!(serve, dial);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the sizes of writes, reads and TCP segments.
    #[test]
    fn comes_out_as_it_went_in(
        writes in prop::collection::vec(0_usize..70_000, 1..12),
        reads in prop::collection::vec(1_usize..50_000, 1..6),
        cuts in prop::collection::vec(1_usize..40_000, 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (mut raw, mut stream) = raw_client().await;
            raw.tls.set_buffer_limit(None);
            let (mut said, mut wire) = (Vec::new(), Vec::new());
            for (index, len) in writes.into_iter().enumerate() {
                let part = vec![index as u8 + 1; len];
                wire.extend(raw.seal(&part));
                said.extend(part);
            }
            raw.tls.send_close_notify();
            wire.extend(raw.sealed());
            let send = async {
                let (mut rest, mut cuts) = (&wire[..], cuts.iter().cycle());
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(*cuts.next().expect("endless")));
                    raw.tcp.write_all(now).await.expect("write");
                    tokio::task::yield_now().await;
                    rest = later;
                }
            };
            let hear = async {
                let (mut heard, mut reads) = (Vec::new(), reads.iter().cycle());
                loop {
                    let mut into = vec![0; *reads.next().expect("endless")];
                    match stream.read(&mut into).await.expect("read") {
                        0 => break heard,
                        len => heard.extend_from_slice(&into[..len]),
                    }
                }
            };
            let ((), heard) = tokio::join!(send, hear);
            assert!(heard == said);
        });
    }
}
