//! Sealed bytes that the socket has not taken yet.

use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{io::AsyncWrite, net::TcpStream};

use super::buffers;

/// Plaintext that is sealed for one write at most: eight full records.
pub(super) const BATCH: usize = 128 * 1024;

/// What a buffer may have grown to and still be lent to the next connection: a batch and what sealing adds.
const MOST: usize = BATCH + 16 * 1024;

/// Bytes on their way out. Empty, it holds no buffer.
#[derive(Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// Where more is appended.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = buffers::for_writing();
        }
        &mut self.bytes
    }

    /// Ready when the socket has taken everything.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, tcp: &mut TcpStream) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            match ready!(Pin::new(&mut *tcp).poll_write(cx, &self.bytes[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        self.give_back();
        Poll::Ready(Ok(()))
    }

    pub(super) async fn drain(&mut self, tcp: &mut TcpStream) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_drain(cx, tcp)).await
    }

    fn give_back(&mut self) {
        self.sent = 0;
        buffers::done_writing(mem::take(&mut self.bytes), MOST);
    }

    /// Bytes of memory that are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.bytes.capacity()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.give_back();
    }
}
