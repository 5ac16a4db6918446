use http_body_util::{BodyExt, combinators::BoxBody};

use super::*;
use crate::http::body::tests::fixtures::{Script, streamed};

async fn text(body: Body) -> Result<String, BodyError> {
    Ok(String::from_utf8(body.collect().await?.to_bytes().to_vec()).expect("text"))
}

#[tokio::test]
async fn an_attempt_begins_where_the_request_began() {
    let (script, sender) = streamed(None).await;
    let replay = Replay::new(sender);
    let mut first = replay.attempt().expect("a first attempt");
    script.send(Script::Data(b"one ")).expect("sent");
    assert_eq!(first.frame().await.expect("a frame").expect("data").into_data().expect("data"), "one ");

    let second = replay.attempt().expect("a second attempt");
    assert!(matches!(first.frame().await, Some(Err(BodyError::Superseded))), "the first must not eat what the second needs");
    script.send(Script::Data(b"two")).expect("sent");
    drop(script);
    assert_eq!(text(second).await.expect("whole"), "one two");
    assert!(replay.is_complete() && replay.can_repeat());
    assert_eq!(text(replay.attempt().expect("a third attempt")).await.expect("whole"), "one two");
}

#[tokio::test]
async fn what_outgrows_the_record_is_sent_once() {
    let (script, sender) = streamed(None).await;
    let replay = Replay::with_limit(sender, 6);
    let recorded = replay.recorded();
    let mut first = replay.attempt().expect("an attempt");
    for part in [&b"1234"[..], b"5678"] {
        script.send(Script::Data(part)).expect("sent");
        first.frame().await.expect("a frame").expect("data");
    }
    assert!(replay.outgrown() && !replay.can_repeat());
    assert!(replay.attempt().is_none());
    assert!(recorded.await.is_none());
    script.send(Script::Data(b"90")).expect("sent");
    drop(script);
    assert_eq!(text(first).await.expect("the attempt under way goes on"), "90");
    assert!(!replay.can_repeat());
    assert!(replay.recorded().await.is_none());
}

#[tokio::test]
async fn a_broken_sender_fails_every_attempt() {
    let (script, sender) = streamed(Some(9)).await;
    let replay = Replay::new(sender);
    let first = replay.attempt().expect("an attempt");
    let recorded = replay.recorded();
    script.send(Script::Data(b"part")).expect("sent");
    script.send(Script::Break).expect("sent");
    assert!(matches!(text(first).await, Err(BodyError::Sender(_))));
    assert!(replay.sender_failed() && replay.attempt().is_none());
    assert!(recorded.await.is_none());
}

#[tokio::test]
async fn no_body_needs_no_record() {
    let replay = Replay::new(Body::empty());
    assert!(replay.can_repeat() && replay.is_complete() && !replay.outgrown());
    for _ in 0..2 {
        assert!(hyper::body::Body::is_end_stream(&replay.attempt().expect("an attempt")));
    }
    assert_eq!(replay.recorded().await.expect("whole").data, "");
}

#[tokio::test]
async fn the_whole_body_is_had_once_it_is_read() {
    let replay = Replay::new(Body::full("body"));
    let before = replay.recorded();
    assert_eq!(text(replay.attempt().expect("an attempt")).await.expect("whole"), "body");
    assert_eq!(before.await.expect("whole").data, "body");
    assert_eq!(replay.recorded().await.expect("whole").data, "body");

    let replay = Replay::new(Body::full("never read"));
    let never = replay.recorded();
    drop(replay);
    assert!(never.await.is_none());
}

#[tokio::test]
async fn the_length_stays_known() {
    let replay = Replay::new(Body::full("12345"));
    for _ in 0..2 {
        let attempt = replay.attempt().expect("an attempt");
        assert_eq!(hyper::body::Body::size_hint(&attempt).exact(), Some(5));
        assert_eq!(text(attempt).await.expect("whole"), "12345");
    }
}

/// Trailers are part of what is sent again: over a real HTTP/2 connection, the only place they come from here.
#[tokio::test]
async fn trailers_are_sent_again() {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let served = tokio::spawn(async move {
        let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async {
            let replay = Replay::new(Body::received(request.into_body(), http::Version::HTTP_11));
            for _ in 0..2 {
                let whole = replay.attempt().expect("an attempt").collect().await.expect("whole");
                assert_eq!(whole.trailers().and_then(|trailers| trailers.get("x-sum")).expect("trailers"), "7");
                assert_eq!(whole.to_bytes(), "data");
            }
            assert_eq!(replay.recorded().await.and_then(|whole| whole.trailers).expect("trailers").len(), 1);
            Ok::<_, std::convert::Infallible>(http::Response::new(Body::empty()))
        });
        let io = hyper_util::rt::TokioIo::new(server);
        let executor = hyper_util::rt::TokioExecutor::new();
        hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service).await
    });
    let io = hyper_util::rt::TokioIo::new(client);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.expect("a handshake");
    tokio::spawn(connection);
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), http::HeaderValue::from_static("7"))]);
    let body = http_body_util::Full::new(Bytes::from_static(b"data")).with_trailers(async move { Some(Ok(trailers)) });
    let request = http::Request::post("http://shop/").body(BoxBody::new(body)).expect("a request");
    assert_eq!(sender.send_request(request).await.expect("a response").status(), 200);
    drop(sender);
    served.await.expect("the server's assertions hold").expect("served");
}
