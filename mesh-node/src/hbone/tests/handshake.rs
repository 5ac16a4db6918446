//! Who may meet whom.

use super::*;
use crate::{
    identity::{VerifyError, testing::Leaf},
    reason::Reason,
};

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let (_ca, pod, node) = both().await;
    let _stream = pod.open(node.address, "10.0.0.2:80").await.expect("a stream");
    let info = node.handler.infos.lock().expect("lock").remove(0);
    assert_eq!(info.peer, identity("page"));
    assert_eq!(pod.pool.snapshot()[0].peer, identity("stock"));
    let asked = request("10.0.0.2:80");
    assert_eq!((info.authority, info.baggage), (asked.authority, asked.baggage));
    assert_eq!((info.forwarded, info.traceparent), (asked.forwarded, asked.traceparent));
}

#[tokio::test]
async fn a_server_of_another_identity_is_refused() {
    let ca = TestCa::new();
    let pod = Pod::new(&ca, Settings::default());
    let mut node = Node::start(ca.tls("impostor"), Settings::default()).await;
    let error = pod.open(node.address, "10.0.0.2:80").await.expect_err("refused");
    assert_eq!(error.reason(), Reason::IdentityMismatch, "{error:?}");
    assert!(matches!(error, HboneError::Peer { source: VerifyError::Mismatch { .. }, .. }));
    assert!(matches!(within("the end", node.ended.recv()).await, Some(Err(ServeError::Tls { .. }))));
    assert_eq!(pod.pool.snapshot(), []);
}

#[tokio::test]
async fn a_server_of_another_root_is_refused() {
    let (ours, theirs) = (TestCa::new(), TestCa::new());
    let pod = Pod::new(&ours, Settings::default());
    let node = Node::start(theirs.tls("stock"), Settings::default()).await;
    let error = pod.open(node.address, "10.0.0.2:80").await.expect_err("refused");
    assert_eq!(error.reason(), Reason::TlsHandshake);
    assert!(matches!(error, HboneError::Peer { source: VerifyError::UnknownRoot { .. }, .. }), "{error:?}");
}

#[tokio::test]
async fn a_client_of_another_root_is_refused_and_told_so() {
    let (ours, theirs) = (TestCa::new(), TestCa::new());
    // It believes both roots, so it is the server that refuses.
    let (mut chain, key) = theirs.issue(&Leaf::of(&identity("page").to_string()));
    chain[1].push_str(ours.root_pem());
    let mut pod = Pod::new(&ours, Settings::default());
    pod.tls = Arc::new(
        TlsIdentity::new(&identity("page"), key, chain, &crate::identity::Aliases::default()).expect("good by its own root"),
    );
    let mut node = Node::start(ours.tls("stock"), Settings::default()).await;
    let error = pod.open(node.address, "10.0.0.2:80").await.expect_err("refused");
    assert_eq!(error.reason(), Reason::TlsHandshake);
    assert!(matches!(error, HboneError::RefusedByPeer { .. }), "{error:?}");
    let ended = within("the end", node.ended.recv()).await;
    assert!(matches!(ended, Some(Err(ServeError::Peer { source: VerifyError::UnknownRoot { .. } }))), "{ended:?}");
    assert!(node.handler.infos.lock().expect("lock").is_empty());
}

#[tokio::test]
async fn nobody_there_or_nobody_answering_is_told_apart() {
    let ca = TestCa::new();
    let settings = Settings { handshake_timeout: Duration::from_millis(100), ..Settings::default() };
    let pod = Pod::new(&ca, settings);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    // The kernel accepts, nobody speaks.
    let error = pod.open(address, "10.0.0.2:80").await.expect_err("silence");
    assert!(matches!(error, HboneError::HandshakeTimeout { .. }), "{error:?}");
    drop(listener);
    let error = pod.open(address, "10.0.0.2:80").await.expect_err("nobody");
    assert!(matches!(error, HboneError::Dial { .. }), "{error:?}");
    assert_eq!(error.reason(), Reason::PeerUnreachable);
}

#[tokio::test]
async fn a_client_that_does_not_speak_is_cut_off() {
    let settings = Settings { handshake_timeout: Duration::from_millis(100), ..Settings::default() };
    let mut node = Node::start(TestCa::new().tls("stock"), settings).await;
    let _silent = TcpStream::connect(node.address).await.expect("connect");
    assert!(matches!(within("the end", node.ended.recv()).await, Some(Err(ServeError::HandshakeTimeout { .. }))));
}
