//! A CONNECT stream as a byte stream, for whoever speaks a protocol of its own over it (HTTP).
//!
//! The windows and the congestion of the tunnel hold here as in the relay: bytes are given back to the sender when they are
//! read, and while the tunnel takes nothing no more than one write of [`MAX_WRITE`] waits here.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::{H2Stream, RecvHalf, SendHalf};

/// Bytes that one write takes at most: a frame of the tunnel.
const MAX_WRITE: usize = 64 * 1024;

/// Dropped without a shutdown, the stream is reset: the other node breaks its application's connection.
#[derive(Debug)]
pub struct StreamIo {
    /// Shared with a [`ResetWatch`] in the same task: nobody ever waits for the lock.
    send: Arc<Mutex<SendHalf>>,
    recv: RecvHalf,
    /// Received, not read yet.
    received: Bytes,
    /// Written, not taken by the tunnel yet.
    waiting: Bytes,
}

impl StreamIo {
    pub fn new(stream: H2Stream) -> Self {
        let (send, recv) = stream.split();
        Self { send: Arc::new(Mutex::new(send)), recv, received: Bytes::new(), waiting: Bytes::new() }
    }

    /// To learn of a reset while nothing is read.
    pub fn watch(&self) -> ResetWatch {
        ResetWatch(Arc::clone(&self.send))
    }

    /// Ready when the tunnel has taken all that waits.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut send = lock(&self.send);
        let sent = send.poll_send(cx, &mut self.waiting);
        send.note_waiting(self.waiting.len());
        sent.map_err(Into::into)
    }

    fn poll_put(&mut self, cx: &mut Context<'_>, data: impl FnOnce() -> Bytes) -> Poll<io::Result<usize>> {
        ready!(self.poll_waiting(cx))?;
        ready!(lock(&self.send).poll_clear(cx));
        self.waiting = data();
        let taken = self.waiting.len();
        // What does not go at once goes with the next write or flush; this call has registered for the room.
        match self.poll_waiting(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }
}

fn lock(send: &Mutex<SendHalf>) -> MutexGuard<'_, SendHalf> {
    send.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells of a stream's reset, in the task that reads and writes it.
#[derive(Debug)]
pub struct ResetWatch(Arc<Mutex<SendHalf>>);

impl ResetWatch {
    /// Completes when the other end has reset the stream or the tunnel broke, as long as we have not ended it.
    pub async fn broken(&self) {
        poll_fn(|cx| {
            let mut send = lock(&self.0);
            if send.is_finished() { Poll::Pending } else { send.poll_reset(cx).map(drop) }
        })
        .await;
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.received.is_empty() {
            match ready!(this.recv.poll_recv(cx)) {
                Some(data) => this.received = data?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let read = this.received.len().min(buf.remaining());
        buf.put_slice(&this.received[..read]);
        this.received.advance(read);
        this.recv.release(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_put(cx, || Bytes::copy_from_slice(&buf[..buf.len().min(MAX_WRITE)]))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_put(cx, || {
            let total = bufs.iter().map(|buf| buf.len()).sum::<usize>().min(MAX_WRITE);
            let mut data = BytesMut::with_capacity(total);
            for buf in bufs {
                data.extend_from_slice(&buf[..buf.len().min(total - data.len())]);
            }
            data.freeze()
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_waiting(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_waiting(cx))?;
        let mut send = lock(&this.send);
        if !send.is_finished() {
            send.finish()?;
        }
        Poll::Ready(Ok(()))
    }
}
