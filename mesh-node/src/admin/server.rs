//! Serving HTTP/1.1 on the admin listeners.

use std::{convert::Infallible, io, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
};
use tracing::debug;

use super::api::Admin;

/// Which paths a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Everything.
    Admin,
    /// Metrics only.
    Metrics,
    /// Readiness only.
    Ready,
}

/// A client that sends its request slower than this is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

pub async fn serve_tcp(listener: TcpListener, endpoint: Endpoint, admin: Arc<Admin>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream, endpoint, admin.clone()))),
            Err(error) => pause(&error).await,
        }
    }
}

pub async fn serve_unix(listener: UnixListener, endpoint: Endpoint, admin: Arc<Admin>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream, endpoint, admin.clone()))),
            Err(error) => pause(&error).await,
        }
    }
}

/// Binds a unix socket for root alone; a socket left by an earlier process is replaced.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The same listener for a thread that waits.
pub fn blocking(listener: UnixListener) -> io::Result<std::os::unix::net::UnixListener> {
    let listener = listener.into_std()?;
    listener.set_nonblocking(false)?;
    Ok(listener)
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, endpoint: Endpoint, admin: Arc<Admin>) {
    let service = service_fn(|request| {
        let admin = admin.clone();
        async move { Ok::<_, Infallible>(admin.answer(endpoint, &request)) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%error, "an admin connection broke");
    }
}

async fn pause(error: &io::Error) {
    debug!(%error, "admin connections wait");
    tokio::time::sleep(Duration::from_millis(100)).await;
}
