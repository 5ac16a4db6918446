//! The door: a port of the machine's loopback device whose connections go on to the API server in its namespace.

use std::{
    fs::File,
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::workspace;

/// Listens where it was started, connects in the namespace at `netns`, and writes the number of its port into `port_file`.
/// A door that is opened again has the port that the file names. Ends with an error only.
pub(super) fn open(netns: &Path, target: &str, port_file: &Path) -> Result<()> {
    let target: SocketAddr = target.parse().context("where the door leads is no address")?;
    let last = std::fs::read_to_string(port_file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let listener = TcpListener::bind(("127.0.0.1", last)).context("listen on the loopback device")?;
    let port = listener.local_addr()?.port();
    // The listener stays where it was made; sockets and threads that are made from here on are in the other namespace.
    let namespace = File::open(netns).with_context(|| format!("no network namespace {}", netns.display()))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the control plane's namespace")?;
    workspace::write_atomically(port_file, port.to_string().as_bytes())?;
    for client in listener.incoming() {
        let client = client.context("accept")?;
        thread::spawn(move || {
            // A client that is turned away sees its connection close, which says as much as this process could.
            let _ = pass_on(&client, target);
        });
    }
    Ok(())
}

/// Until both sides have ended.
fn pass_on(client: &TcpStream, target: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect(target)?;
    thread::scope(|scope| {
        scope.spawn(|| copy(&server, client));
        copy(client, &server);
    });
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let failed = io::copy(&mut from, &mut to).is_err();
    let _ = to.shutdown(if failed { Shutdown::Both } else { Shutdown::Write });
}
