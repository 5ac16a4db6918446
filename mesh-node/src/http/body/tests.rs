use std::sync::Mutex;

use http_body_util::BodyExt;
use tokio::sync::mpsc;

use super::*;
use crate::http::{body::tests::fixtures::streamed, replay::Replay};

pub(in crate::http) mod fixtures {
    use super::*;

    /// A body as hyper gives it, with frames sent by the test through a real connection in memory. Dropping the sender ends
    /// it; [`Script::Break`] breaks the connection.
    pub(in crate::http) enum Script {
        Data(&'static [u8]),
        Break,
    }

    pub(in crate::http) async fn streamed(length: Option<usize>) -> (mpsc::UnboundedSender<Script>, Body) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let (mut server, client) = tokio::io::duplex(64 * 1024);
        let (script, mut scripts) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut request = [0; 1024];
            let _ = server.read(&mut request).await;
            let framing = length.map_or("transfer-encoding: chunked".into(), |length| format!("content-length: {length}"));
            let _ = server.write_all(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").as_bytes()).await;
            while let Some(next) = scripts.recv().await {
                match next {
                    Script::Break => return,
                    Script::Data(data) if length.is_some() => drop(server.write_all(data).await),
                    Script::Data(data) => {
                        let chunk = [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat();
                        let _ = server.write_all(&chunk).await;
                    }
                }
            }
            if length.is_none() {
                let _ = server.write_all(b"0\r\n\r\n").await;
            }
            // Until the client has gone.
            let _ = server.read(&mut request).await;
        });
        let io = hyper_util::rt::TokioIo::new(client);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("a handshake");
        tokio::spawn(connection);
        let request = http::Request::get("/").body(Body::empty()).expect("a request");
        let response = sender.send_request(request).await.expect("a response");
        (script, Body::received(response.into_body(), http::Version::HTTP_11))
    }
}

use fixtures::Script;

/// What hooks were told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Ending>>>);

impl Told {
    fn watch(&self, body: Body) -> Body {
        let told = self.clone();
        body.on_end(move |ended| told.0.lock().expect("lock").push(ended.how))
    }

    fn endings(&self) -> Vec<Ending> {
        self.0.lock().expect("lock").clone()
    }
}

#[tokio::test]
async fn the_end_is_told_once_and_as_it_was() {
    let told = Told::default();
    let (script, body) = streamed(None).await;
    script.send(Script::Data(b"hello")).expect("sent");
    drop(script);
    let body = told.watch(body);
    assert_eq!(body.collect().await.expect("whole").to_bytes(), "hello");
    assert_eq!(told.endings(), [Ending::Complete]);

    let told = Told::default();
    let (script, body) = streamed(Some(10)).await;
    script.send(Script::Data(b"hello")).expect("sent");
    script.send(Script::Break).expect("sent");
    assert!(told.watch(body).collect().await.is_err());
    assert_eq!(told.endings(), [Ending::Failed]);

    let told = Told::default();
    let (script, body) = streamed(Some(10)).await;
    script.send(Script::Data(b"hello")).expect("sent");
    let mut body = told.watch(body);
    body.frame().await.expect("a frame").expect("data");
    drop(body);
    assert_eq!(told.endings(), [Ending::Aborted]);
}

#[tokio::test]
async fn a_body_of_known_length_is_complete_with_its_last_byte() {
    let told = Told::default();
    let (script, body) = streamed(Some(5)).await;
    script.send(Script::Data(b"hello")).expect("sent");
    let mut body = told.watch(body);
    body.frame().await.expect("a frame").expect("data");
    assert_eq!(told.endings(), [Ending::Complete]);
    assert!(hyper::body::Body::is_end_stream(&body));
    drop(body);
    assert_eq!(told.endings(), [Ending::Complete]);
}

#[test]
fn what_has_nothing_to_say_was_complete() {
    let told = Told::default();
    drop(told.watch(told.watch(Body::empty())));
    assert_eq!(told.endings(), [Ending::Complete, Ending::Complete]);
    drop(told.watch(Body::full("unread")));
    assert_eq!(told.endings()[2..], [Ending::Aborted]);
}

#[tokio::test]
async fn a_silent_sender_is_broken_off() {
    let told = Told::default();
    let (_script, body) = streamed(None).await;
    let mut body = told.watch(body.within(Some(Duration::from_millis(20)), None));
    assert!(matches!(body.frame().await, Some(Err(BodyError::Idle(_)))));
    assert!(body.frame().await.is_none(), "a body that was broken off is over");
    assert_eq!(told.endings(), [Ending::Idle]);
}

#[tokio::test]
async fn a_sender_that_never_ends_is_broken_off() {
    let told = Told::default();
    let (script, body) = streamed(None).await;
    let deadline = Instant::now() + Duration::from_millis(200);
    let mut body = told.watch(body.within(Some(Duration::from_mins(1)), Some(deadline)));
    let over = loop {
        script.send(Script::Data(b"x")).expect("sent");
        match body.frame().await.expect("no end") {
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(over) => break over,
        }
    };
    assert!(matches!(over, BodyError::Deadline), "{over}");
    assert!(Instant::now() >= deadline);
    assert_eq!(told.endings(), [Ending::TimedOut]);
}

fn messages(chunks: &[&[u8]]) -> u64 {
    let mut framing = Framing::default();
    chunks.iter().map(|chunk| framing.count(chunk)).sum()
}

#[test]
fn messages_are_counted_however_they_are_cut() {
    let stream = b"\0\0\0\0\x03abc\0\0\0\0\0\x01\0\0\x01\x02".iter().copied().chain([7; 258]).collect::<Vec<u8>>();
    assert_eq!(messages(&[&stream]), 3);
    for cut in 0..stream.len() {
        let (first, second) = stream.split_at(cut);
        assert_eq!(messages(&[first, second]), 3, "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(messages(&bytes), 3);
    assert_eq!(messages(&[&[]]), 0);
    assert_eq!(messages(&[b"\0\xff\xff\xff\xff"]), 1, "a length that is never sent");
}

#[test]
fn grpc_is_told_by_its_content_type() {
    let grpc = |text| is_grpc(Some(&HeaderValue::from_static(text)));
    for yes in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
        assert!(grpc(yes), "{yes}");
    }
    for no in ["application/grpc-web", "application/grpcx", "text/plain", "", "application/json"] {
        assert!(!grpc(no), "{no}");
    }
    assert!(!is_grpc(None));
}

#[tokio::test]
async fn both_halves_count_the_same_bytes_and_attempts_count_once() {
    let telemetry = crate::telemetry::Telemetry::new();
    let tallies = || {
        let record = crate::telemetry::testing::record(&telemetry);
        record.tallies()
    };
    let (source, destination, sender) = (tallies(), tallies(), tallies());
    let grpc = HeaderValue::from_static("application/grpc");
    let live = Body::full(&b"\0\0\0\0\x02ab"[..]).counted(sender.clone(), Side::Request, Some(&grpc));
    let replay = Replay::new(live);
    for _ in 0..2 {
        let attempt = replay.attempt().expect("an attempt");
        let attempt = attempt.counted(source.clone(), Side::Request, None).counted(destination.clone(), Side::Request, None);
        assert_eq!(attempt.collect().await.expect("whole").to_bytes().len(), 7);
    }
    assert_eq!((sender.bytes(Side::Request), sender.messages(Side::Request)), (7, 1));
    assert_eq!((source.bytes(Side::Request), source.messages(Side::Request)), (14, 0));
    assert_eq!(destination.bytes(Side::Request), 14);
    assert_eq!(sender.bytes(Side::Response), 0);
}
