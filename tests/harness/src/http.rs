//! A bare HTTP/1.1 GET for probes and admin addresses: one request, one connection, no library.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

/// Asks `address` in the calling thread's network namespace (see [`crate::in_netns`]); `patience` bounds each step.
pub fn get(address: SocketAddr, path: &str, patience: Duration) -> Result<Answer> {
    let stream = TcpStream::connect_timeout(&address, patience).with_context(|| format!("nobody at {address}"))?;
    stream.set_read_timeout(Some(patience))?;
    exchange(stream, path).with_context(|| format!("http://{address}{path}"))
}

/// Asks a Unix socket.
pub fn get_unix(socket: &Path, path: &str, patience: Duration) -> Result<Answer> {
    let stream = UnixStream::connect(socket).with_context(|| format!("nobody at {}", socket.display()))?;
    stream.set_read_timeout(Some(patience))?;
    exchange(stream, path).with_context(|| format!("{} {path}", socket.display()))
}

fn exchange(mut stream: impl Read + Write, path: &str) -> Result<Answer> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Answer> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").context("the answer has no end of headers")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("the answer has no status")?;
    let chunked = head.lines().any(|line| line.eq_ignore_ascii_case("transfer-encoding: chunked"));
    Ok(Answer { status, body: if chunked { unchunk(body)? } else { body.to_owned() } })
}

/// RFC 9112, section 7.1.
fn unchunk(mut text: &str) -> Result<String> {
    let mut body = String::new();
    loop {
        let (size, rest) = text.split_once("\r\n").context("a chunk has no size")?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)?;
        if size == 0 {
            return Ok(body);
        }
        let Some(chunk) = rest.get(..size) else { bail!("a chunk is cut off") };
        body += chunk;
        text = rest[size..].strip_prefix("\r\n").context("a chunk has no end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_and_chunked() {
        let plain = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        assert_eq!(plain, Answer { status: 200, body: "ok".to_owned() });
        let chunked = parse(b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n").unwrap();
        assert_eq!(chunked, Answer { status: 503, body: "abc".to_owned() });
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nab").is_err());
        assert!(parse(b"").is_err());
    }
}
