//! Bytes that came and were not used yet.

use std::{
    io, mem,
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
};

use super::buffers;

/// What a socket gave. Holds a buffer of its thread while it has bytes to work on, and while it waits for more only a copy
/// of the part of a record that has come.
#[derive(Default)]
pub(super) struct Incoming {
    /// Empty, a part of a record in a buffer of its size, or a buffer of [`buffers::READ`].
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Incoming {
    /// All that is there. Positions in it are stable until the next [`Incoming::poll_fill`].
    pub(super) fn unread(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    /// Where [`Incoming::unread`] begins.
    pub(super) fn position(&self) -> usize {
        self.start
    }

    /// Bytes that were taken before.
    pub(super) fn taken(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    pub(super) fn take(&mut self, bytes: usize) {
        self.start += bytes;
        debug_assert!(self.start <= self.end, "more was taken than came");
    }

    /// Reads once; 0 at the end of the connection. While the socket has nothing, no buffer is held.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, tcp: &mut TcpStream) -> Poll<io::Result<usize>> {
        loop {
            if tcp.poll_read_ready(cx)?.is_pending() {
                self.park();
                return Poll::Pending;
            }
            self.make_room();
            if self.end == self.buffer.len() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the peer's handshake is too long")));
            }
            let mut room = ReadBuf::new(&mut self.buffer[self.end..]);
            // tokio's own read knows from a short one that the socket is empty, and saves asking again.
            if let Poll::Ready(read) = Pin::new(&mut *tcp).poll_read(cx, &mut room) {
                read?;
                let read = room.filled().len();
                self.end += read;
                return Poll::Ready(Ok(read));
            }
        }
    }

    pub(super) async fn fill(&mut self, tcp: &mut TcpStream) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx, tcp)).await
    }

    /// What is unread to the front of a whole buffer.
    fn make_room(&mut self) {
        if self.buffer.len() == buffers::READ {
            self.buffer.copy_within(self.start..self.end, 0);
        } else {
            let mut buffer = buffers::for_reading();
            buffer[..self.end - self.start].copy_from_slice(&self.buffer[self.start..self.end]);
            self.buffer = buffer;
        }
        (self.start, self.end) = (0, self.end - self.start);
    }

    /// Holds no more than what is unread.
    pub(super) fn park(&mut self) {
        if self.buffer.len() != buffers::READ {
            return;
        }
        let kept = self.buffer[self.start..self.end].into();
        (self.start, self.end) = (0, self.end - self.start);
        buffers::done_reading(mem::replace(&mut self.buffer, kept));
    }

    /// Bytes of memory that are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.buffer.len()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        buffers::done_reading(mem::take(&mut self.buffer));
    }
}
