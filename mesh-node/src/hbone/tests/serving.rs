//! Answers to CONNECT, and peers that misbehave.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use rustls_pki_types::ServerName;

use super::*;
use crate::reason::Reason;

#[tokio::test]
async fn refusals_are_told_apart() {
    let (_ca, pod, node) = both().await;
    for (host, reason) in
        [("elsewhere", Reason::BadTarget), ("forbidden", Reason::ConnectDenied), ("down", Reason::ConnectUnreachable)]
    {
        let error = pod.open(node.address, &format!("{host}:80")).await.expect_err(host);
        assert_eq!(error.reason(), reason, "{error:?}");
    }
    assert_eq!(node.tunnels(), 1, "a refusal is no reason for another tunnel");
}

#[tokio::test]
async fn a_handler_that_does_not_decide_is_answered_for() {
    let server = Settings { answer_timeout: Duration::from_millis(50), ..Settings::default() };
    let (_ca, pod, node) = both_with(Settings::default(), server).await;
    let error = pod.open(node.address, "silent:80").await.expect_err("undecided");
    assert!(matches!(error, HboneError::Unreachable { .. }), "{error:?}");
    until("the handler's end", || node.handler.deciding.load(Relaxed) == 0).await;
}

#[tokio::test]
async fn a_client_that_gives_up_ends_the_handler() {
    let client = Settings { answer_timeout: Duration::from_millis(50), ..Settings::default() };
    let (_ca, pod, node) = both_with(client, Settings::default()).await;
    let error = pod.open(node.address, "silent:80").await.expect_err("unanswered");
    assert!(matches!(error, HboneError::NoAnswer { .. }), "{error:?}");
    until("the handler's end", || node.handler.deciding.load(Relaxed) == 0).await;
}

/// A client that sends what it likes.
async fn raw(ca: &TestCa, node: &Node) -> h2::client::SendRequest<Bytes> {
    let config = ca.tls("page").client_config(&[identity("stock")]).expect("a configuration");
    let tcp = TcpStream::connect(node.address).await.expect("connect");
    let name = ServerName::IpAddress(node.address.ip().into());
    let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.expect("handshake");
    let (requests, connection) = h2::client::handshake(tls).await.expect("HTTP/2");
    tokio::spawn(connection);
    requests
}

#[tokio::test]
async fn what_is_no_connect_or_has_no_target_is_refused_without_asking() {
    let (ca, _pod, node) = both().await;
    let requests = raw(&ca, &node).await;
    let connect = |authority: &str| Request::builder().method(Method::CONNECT).uri(authority).body(()).expect("a request");
    let get = Request::get("http://10.0.0.2:80/").body(()).expect("a request");
    let cases = [
        (get, StatusCode::METHOD_NOT_ALLOWED),
        (connect("10.0.0.2:0"), StatusCode::BAD_REQUEST),
        (connect("10.0.0.2"), StatusCode::BAD_REQUEST),
        (connect("user@10.0.0.2:80"), StatusCode::BAD_REQUEST),
        (connect("[::1%251]:80"), StatusCode::BAD_REQUEST),
    ];
    for (request, expected) in cases {
        let asked = format!("{request:?}");
        let (answer, _) = requests.clone().ready().await.expect("ready").send_request(request, true).expect("sent");
        assert_eq!(within("an answer", answer).await.expect("an answer").status(), expected, "{asked}");
    }
    assert!(node.handler.infos.lock().expect("lock").is_empty());
}

#[tokio::test]
async fn opening_and_resetting_without_end_is_stopped() {
    let (ca, _pod, mut node) = both().await;
    let requests = raw(&ca, &node).await;
    let flood = async {
        loop {
            let Ok(mut ready) = requests.clone().ready().await else { return };
            let connect = Request::builder().method(Method::CONNECT).uri("silent:80").body(()).expect("a request");
            let Ok((answer, stream)) = ready.send_request(connect, false) else { return };
            // Let the node see each before it is reset, or h2's own limit does the work.
            let seen = node.handler.infos.lock().expect("lock").len();
            for _ in 0..100 {
                if node.handler.infos.lock().expect("lock").len() > seen {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop((answer, stream));
        }
    };
    within("the refusal", flood).await;
    let ended = within("the end", node.ended.recv()).await;
    assert!(matches!(ended, Some(Err(ServeError::ResetFlood { .. } | ServeError::Http2 { .. }))), "{ended:?}");
    until("the handlers' end", || node.handler.deciding.load(Relaxed) == 0).await;
}
