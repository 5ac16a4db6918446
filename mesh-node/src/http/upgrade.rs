//! What follows an answer that ends HTTP on a connection (101, or 200 to CONNECT): bytes, both ways, to the end.

use std::io;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::io::Io;

/// Joins the two connections under a request and its answer, once both have left HTTP behind.
pub(super) async fn join(client: OnUpgrade, server: OnUpgrade) -> io::Result<()> {
    let (client, server) = tokio::try_join!(client, server).map_err(io::Error::other)?;
    match (plain(client), plain(server)) {
        (Ok(mut client), Ok(mut server)) => copy(&mut client, &mut server).await,
        (Ok(mut client), Err(server)) => copy(&mut client, &mut TokioIo::new(server)).await,
        (Err(client), Ok(mut server)) => copy(&mut TokioIo::new(client), &mut server).await,
        (Err(client), Err(server)) => copy(&mut TokioIo::new(client), &mut TokioIo::new(server)).await,
    }
}

/// The connection itself; else a stream of an HTTP/2 connection.
fn plain(upgraded: Upgraded) -> Result<Io, Upgraded> {
    upgraded.downcast::<TokioIo<Io>>().map(|parts| parts.io.into_inner().upgraded(parts.read_buf))
}

async fn copy<A, B>(client: &mut A, server: &mut B) -> io::Result<()>
where
    A: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    copy_bidirectional(client, server).await.map(drop)
}
