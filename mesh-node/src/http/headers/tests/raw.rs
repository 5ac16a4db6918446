//! Raw bytes against hyper's server as the node runs it, to know what its parser refuses, what it settles, and what is left
//! to [`refuse_ambiguous`].

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::http::body::Body;

/// What the server's service saw of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    target: String,
    body: String,
    framing: Vec<(String, String)>,
}

/// The requests that `raw` is understood as, with the statuses it is answered with, and whether the connection stays open.
async fn understood(raw: &[u8]) -> (Vec<Seen>, Vec<u16>, bool) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (server, mut client) = tokio::io::duplex(1 << 20);
    let note = seen.clone();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let note = note.clone();
        async move {
            let (head, body) = request.into_parts();
            let mut response = http::Response::new(Body::empty());
            if refuse_ambiguous(&head.method, head.version, &head.headers).is_err() {
                *response.status_mut() = StatusCode::BAD_REQUEST;
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                return Ok::<_, Infallible>(response);
            }
            let Ok(body) = body.collect().await else { return Ok(response) };
            let framing = written(&head.headers).into_iter();
            let framing = framing.filter(|(name, _)| ["content-length", "transfer-encoding", "host"].contains(&name.as_str()));
            note.lock().expect("lock").push(Seen {
                target: head.uri.to_string(),
                body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
                framing: framing.collect(),
            });
            Ok(response)
        }
    });
    let served = tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service));
    client.write_all(raw).await.expect("written");
    // One more request tells whether the connection is still read, and ends it.
    let _ = client.write_all(b"GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    let mut answers = Vec::new();
    let _ = client.read_to_end(&mut answers).await;
    let _ = served.await.expect("no panic");
    let answers = String::from_utf8_lossy(&answers).into_owned();
    let statuses = answers.split("HTTP/1.").skip(1).filter_map(|rest| rest.get(2..5)?.parse().ok());
    let mut seen = seen.lock().expect("lock").clone();
    let open = seen.last().is_some_and(|last| last.target == "/last");
    if open {
        seen.pop();
    }
    (seen, statuses.collect(), open)
}

async fn refused(raw: &str) {
    let (seen, statuses, open) = understood(raw.as_bytes()).await;
    assert!(seen.is_empty() && !open, "{raw:?} was understood as {seen:?}");
    assert!(statuses.iter().all(|status| *status == 400 || *status == 501), "{raw:?}: {statuses:?}");
}

#[tokio::test]
async fn hyper_refuses_what_is_malformed() {
    for raw in [
        // Content-Length that is not one number.
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3,3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\n",
        // Transfer-Encoding that is not chunked last, or in HTTP/1.0.
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        // Names and lines.
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length : 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: a\r\nx: 1\r\n content-length: 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: a\r\n\tx: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\n: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /\tHTTP/1.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.2\r\nhost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nhost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        refused(raw).await;
    }
}

#[tokio::test]
async fn the_rest_is_refused_by_us() {
    for raw in [
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
    ] {
        refused(raw).await;
    }
}

#[tokio::test]
async fn of_two_framings_the_chunks_count_and_nothing_follows() {
    for raw in [
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        let (seen, _, open) = understood(raw.as_bytes()).await;
        let framing = vec![("host".to_owned(), "a".to_owned()), ("transfer-encoding".to_owned(), "chunked".to_owned())];
        assert_eq!(seen, [Seen { target: "/a".into(), body: String::new(), framing }], "{raw:?}");
        assert!(!open, "a connection that carried two framings is closed");
    }
}

#[tokio::test]
async fn broken_chunks_are_no_body_and_no_request_follows() {
    for chunks in [
        "3;\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "g\r\nabc\r\n0\r\n\r\n",
    ] {
        let raw = format!("POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
        let (seen, _, open) = understood(raw.as_bytes()).await;
        assert!(seen.is_empty() && !open, "{chunks:?}: {seen:?}");
    }
}

#[tokio::test]
async fn what_is_right_passes() {
    let raw = "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc\
               POST /b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n";
    let (seen, statuses, open) = understood(raw.as_bytes()).await;
    let bodies: Vec<_> = seen.iter().map(|seen| (seen.target.as_str(), seen.body.as_str())).collect();
    assert_eq!(bodies, [("/a", "abc"), ("/b", "abc")]);
    assert_eq!((statuses, open), (vec![200, 200, 200], true));
}
