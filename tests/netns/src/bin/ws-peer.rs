//! WebSocket (RFC 6455) as tungstenite speaks it, which has nothing in common with the mesh.
//!
//! ```text
//! ws-peer serve PORT
//! ws-peer ask ADDRESS:PORT
//! ```
//!
//! The server sends every message back; to the text `close` it closes with code 4001. `ask` tries everything once and prints
//! `ok`, or what was not as it should be.

use std::{
    net::{Ipv6Addr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tungstenite::{
    Error, Message, WebSocket,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", port] => serve(port.parse()?),
        ["ask", target] => {
            ask(target)?;
            println!("ok");
            Ok(())
        }
        _ => bail!("ws-peer serve PORT, or ws-peer ask ADDRESS:PORT"),
    }
}

fn serve(port: u16) -> Result<()> {
    for stream in TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            if let Err(error) = echo(stream) {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

fn echo(stream: TcpStream) -> Result<()> {
    let mut socket = tungstenite::accept(stream).map_err(|error| anyhow::anyhow!("{error}"))?;
    loop {
        match socket.read() {
            Ok(Message::Text(text)) if text.as_str() == "close" => {
                socket.close(Some(CloseFrame { code: CloseCode::Library(4001), reason: "as you wish".into() }))?;
            }
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => socket.send(message)?,
            // Pings and the end are answered by the library.
            Ok(_) => socket.flush()?,
            Err(Error::ConnectionClosed) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn open(target: &str) -> Result<WebSocket<TcpStream>> {
    let stream = TcpStream::connect(target)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (socket, answer) =
        tungstenite::client(format!("ws://{target}/chat"), stream).map_err(|error| anyhow::anyhow!("handshake: {error}"))?;
    ensure!(answer.status() == 101, "{answer:?}");
    Ok(socket)
}

fn ask(target: &str) -> Result<()> {
    let mut socket = open(target)?;
    let mut comes_back = |message: Message| {
        socket.send(message.clone())?;
        let came = socket.read()?;
        ensure!(came == message, "{} bytes came back as {} bytes", message.len(), came.len());
        Ok(())
    };
    for text in ["", "hello", "grüße ✓"] {
        comes_back(Message::text(text)).with_context(|| format!("{text:?}"))?;
    }
    for size in [1, 125, 126, 65_535, 65_536, 5_000_000] {
        let data: Vec<u8> = (0..=250).cycle().take(size).collect();
        comes_back(Message::binary(data)).with_context(|| format!("{size} bytes"))?;
    }
    socket.send(Message::Ping("are you there".into()))?;
    let came = socket.read()?;
    ensure!(came == Message::Pong("are you there".into()), "{came:?}");

    let bye = CloseFrame { code: CloseCode::Library(4000), reason: "bye".into() };
    socket.close(Some(bye.clone()))?;
    ends_with(&mut socket, &bye).context("closed by the client")?;

    let mut socket = open(target)?;
    socket.send(Message::text("close"))?;
    let bye = CloseFrame { code: CloseCode::Library(4001), reason: "as you wish".into() };
    ends_with(&mut socket, &bye).context("closed by the server")
}

/// The code, and then the connection's end in good order.
fn ends_with(socket: &mut WebSocket<TcpStream>, expected: &CloseFrame) -> Result<()> {
    let came = socket.read()?;
    ensure!(came == Message::Close(Some(expected.clone())), "{came:?}");
    match socket.read() {
        Err(Error::ConnectionClosed) => Ok(()),
        other => bail!("after the end: {other:?}"),
    }
}
