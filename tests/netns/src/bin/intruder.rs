//! Does inside a pod what applications rarely do and attackers try: sockets with marks, foreign sources and devices, halves
//! that close in odd orders, datagrams. Prints one JSON object.
//!
//! ```text
//! intruder tcp TARGET [--from ADDRESS:PORT] [--transparent] [--mark N] [--device NAME] [--patience SECONDS] [STEP...]
//! intruder udp TARGET TEXT
//! ```
//!
//! Steps, in order: `send:TEXT`, `shut` (close the sending side), `line` and `end` (read as far), `sleep` (until killed).

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

/// Longer than the mesh waits for anything, unless the caller knows better.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(found) => {
            println!("{found}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<Value> {
    match words {
        [verb, target, rest @ ..] if verb == "tcp" => tcp(target.parse()?, rest),
        [verb, target, text] if verb == "udp" => udp(target.parse()?, text),
        _ => bail!("tcp TARGET [OPTION...] [STEP...], or udp TARGET TEXT"),
    }
}

fn tcp(target: SocketAddr, words: &[String]) -> Result<Value> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    let mut words = words.iter();
    let mut steps = Vec::new();
    let mut patience = PATIENCE;
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} lacks its value"));
        match word.as_str() {
            "--mark" => socket.set_mark(value()?.parse()?)?,
            "--patience" => patience = Duration::from_secs(value()?.parse()?),
            "--device" => socket.bind_device(Some(value()?.as_bytes()))?,
            "--transparent" if target.is_ipv4() => socket.set_ip_transparent_v4(true)?,
            "--transparent" => socket.set_ip_transparent_v6(true)?,
            "--from" => {
                let from: SocketAddr = value()?.parse()?;
                socket.set_reuse_address(true)?;
                socket.bind(&from.into())?;
            }
            _ => steps.push(word.as_str()),
        }
    }
    if let Err(error) = socket.connect_timeout(&target.into(), patience) {
        return Ok(json!({ "connect": name(&error) }));
    }
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience))?;
    let (local, remote) = (stream.local_addr()?.to_string(), stream.peer_addr().map(|peer| peer.to_string()).ok());
    let mut received = Vec::new();
    let mut failed = None;
    for step in steps {
        if let Err(error) = take(&mut stream, step, &mut received)? {
            failed = Some(name(&error));
            break;
        }
    }
    let received = String::from_utf8_lossy(&received);
    Ok(json!({ "connect": "ok", "local": local, "remote": remote, "received": received, "failed": failed }))
}

/// The outer error is the caller's, the inner one the socket's.
fn take(stream: &mut TcpStream, step: &str, received: &mut Vec<u8>) -> Result<io::Result<()>> {
    Ok(match step {
        "shut" => stream.shutdown(Shutdown::Write),
        "end" => stream.read_to_end(received).map(|_| ()),
        "sleep" => loop {
            std::thread::park();
        },
        "line" => read_line(stream, received),
        _ => match step.strip_prefix("send:") {
            Some(text) => stream.write_all(text.as_bytes()),
            None => bail!("unknown step {step}"),
        },
    })
}

fn read_line(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<()> {
    let mut byte = [0];
    loop {
        if stream.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.push(byte[0]);
        if byte[0] == b'\n' {
            return Ok(());
        }
    }
}

fn udp(target: SocketAddr, text: &str) -> Result<Value> {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(text.as_bytes(), target)?;
    let mut answer = [0; 2048];
    Ok(match socket.recv_from(&mut answer) {
        Ok((size, from)) => json!({ "answer": String::from_utf8_lossy(&answer[..size]), "from": from.to_string() }),
        Err(error) => json!({ "failed": name(&error) }),
    })
}

fn name(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => "reset",
        io::ErrorKind::UnexpectedEof => "eof",
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "timeout",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable",
        io::ErrorKind::PermissionDenied => "denied",
        _ => "other",
    }
}
