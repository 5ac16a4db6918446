//! What a connection speaks whose port does not say: found out by its first bytes, where a policy has to know.

use std::time::Duration;

use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{Io, serve::PREFACE};

/// Methods that a request line of HTTP/1 begins with (RFC 9110 §9, RFC 5789).
const METHODS: [&[u8]; 9] = [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"CONNECT ", b"OPTIONS ", b"TRACE ", b"PATCH "];

/// The longest request line that is waited for.
const MAX_LINE: usize = 16 * 1024;

/// From the first byte to the end of a request line.
const LINE_PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks at a line of which more has to come.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Whether a connection begins with a request, as far as that is seen within `patience` of now: a server that speaks first is
/// not kept from it for longer. Nothing is taken.
pub async fn begins_with_request(io: &mut Io, patience: Duration) -> bool {
    if timeout(patience, io.look()).await.is_err() {
        return false;
    }
    let line = async {
        loop {
            match sniff(io.seen()) {
                Some(found) => return found,
                None if io.look().await.unwrap_or(false) => {}
                None => return false,
            }
        }
    };
    timeout(LINE_PATIENCE, line).await.unwrap_or(false)
}

/// The same of a connection whose bytes stay in the socket.
pub async fn shows_request(tcp: &TcpStream, patience: Duration) -> bool {
    let mut seen = vec![0; 1];
    if !matches!(timeout(patience, tcp.peek(&mut seen)).await, Ok(Ok(1))) {
        return false;
    }
    let line = async {
        loop {
            seen.resize((seen.len() * 2).clamp(512, MAX_LINE + 1), 0);
            let Ok(length) = tcp.peek(&mut seen).await else { return false };
            if let Some(found) = sniff(&seen[..length]) {
                return found;
            }
            // What lies there makes a peek come back at once.
            sleep(LOOK_AGAIN).await;
        }
    };
    timeout(LINE_PATIENCE, line).await.unwrap_or(false)
}

/// None: it may become one.
fn sniff(seen: &[u8]) -> Option<bool> {
    let may_be = |whole: &[u8]| whole.starts_with(&seen[..seen.len().min(whole.len())]);
    if may_be(PREFACE) {
        return (seen.len() >= PREFACE.len()).then_some(true);
    }
    if !METHODS.iter().any(|method| may_be(method)) {
        return Some(false);
    }
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        return (seen.len() > MAX_LINE).then_some(false);
    };
    let line = seen[..end].trim_ascii_end();
    Some(line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0"))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn requests_are_known_by_their_first_line() {
        let cases: [(&[u8], Option<bool>); 12] = [
            (b"", None),
            (b"G", None),
            (b"GET /a", None),
            (b"GET /a HTTP/1.1\r\n", Some(true)),
            (b"GET /a HTTP/1.0\nHost: x", Some(true)),
            (b"GET /a HTTP/2.0\r\n", Some(false)),
            (b"GET key\r\n", Some(false)),
            (b"GETS /a HTTP/1.1\r\n", Some(false)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Some(true)),
            (b"PRI * HTTP/2.1", Some(false)),
            (b"\x16\x03\x01", Some(false)),
        ];
        for (seen, expected) in cases {
            assert_eq!(sniff(seen), expected, "{:?}", String::from_utf8_lossy(seen));
        }
        assert_eq!(sniff(&[b"GET /".as_slice(), &[b'a'; MAX_LINE]].concat()), Some(false));
    }

    #[tokio::test]
    async fn nothing_is_taken_and_a_silent_client_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        for (said, expected) in [("GET / HTTP/1.1\r\nhost: a\r\n\r\n", true), ("HELO a\r\n", false), ("", false)] {
            let mut client = TcpStream::connect(address).await.expect("a connection");
            let (server, _) = listener.accept().await.expect("a connection");
            client.write_all(said.as_bytes()).await.expect("room");
            let patience = if said.is_empty() { Duration::from_millis(20) } else { Duration::from_secs(30) };
            assert_eq!(shows_request(&server, patience).await, expected, "{said:?}");
            let mut io = Io::downstream(server);
            assert_eq!(begins_with_request(&mut io, patience).await, expected, "{said:?}");
            drop(client);
            let mut all = String::new();
            io.read_to_string(&mut all).await.expect("an end");
            assert_eq!(all, said);
        }
    }
}
