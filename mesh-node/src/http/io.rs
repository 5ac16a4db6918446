//! The connections that HTTP is spoken over, in the one form that hyper is given.

mod pulse;

use std::{
    future::Future,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

pub(super) use self::pulse::Pulse;
use super::heads::{self, Frames, Heads};
use crate::{
    balance::Permit,
    copy::end_on_close,
    hbone::{H2Stream, ResetWatch, StreamIo},
    inbound::{Delivered, ports::Lease},
};

/// For so long a peer may go on sending after our end of a connection: closing at once would reset it, and the reset may
/// overtake the answer (RFC 9112 §9.6). Envoy's `delayed_close_timeout`.
const LINGER: Duration = Duration::from_secs(1);

/// What carries a connection.
pub enum Transport {
    Tcp { stream: Arc<TcpStream>, lease: Option<Lease> },
    Hbone(Box<StreamIo>),
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp { stream: Arc::new(stream), lease: None }
    }
}

impl From<Delivered> for Transport {
    fn from(Delivered { stream, lease }: Delivered) -> Self {
        Self::Tcp { stream: Arc::new(stream), lease }
    }
}

impl From<H2Stream> for Transport {
    fn from(stream: H2Stream) -> Self {
        Self::Hbone(Box::new(StreamIo::new(stream)))
    }
}

/// A connection. A clean end is said by shutting down; dropped otherwise it breaks, and the peer sees a reset.
pub struct Io {
    transport: Transport,
    /// Read while the protocol was found out, and to be read again.
    prefix: Bytes,
    closing: Closing,
    pulse: Arc<Pulse>,
    heads: Heads,
    /// The last byte that came, which is [`heads::DATA`], has not been read.
    kept: bool,
    /// Counts the connection for as long as it stands.
    _held: Option<Permit>,
}

/// What becomes of what the peer still sends once we have ended.
enum Closing {
    /// It is lost: we opened the connection and have our answer, or it is no HTTP any more.
    AtOnce,
    /// It is read away for [`LINGER`].
    Lingers(Option<Pin<Box<Sleep>>>),
}

impl Io {
    /// A connection that we opened.
    pub fn upstream(transport: impl Into<Transport>) -> Self {
        Self {
            transport: transport.into(),
            prefix: Bytes::new(),
            closing: Closing::AtOnce,
            pulse: Pulse::new(),
            heads: Heads::Unwatched,
            kept: false,
            _held: None,
        }
    }

    /// A connection that we accepted.
    pub fn downstream(transport: impl Into<Transport>) -> Self {
        Self {
            transport: transport.into(),
            prefix: Bytes::new(),
            closing: Closing::Lingers(None),
            pulse: Pulse::new(),
            heads: Heads::Unwatched,
            kept: false,
            _held: None,
        }
    }

    #[must_use]
    pub fn holding(self, permit: Option<Permit>) -> Self {
        Self { _held: permit, ..self }
    }

    pub fn pulse(&self) -> Arc<Pulse> {
        self.pulse.clone()
    }

    /// To learn of a break while nothing is read.
    pub fn watch(&self) -> Watch {
        match &self.transport {
            Transport::Tcp { stream, .. } => Watch::Tcp(stream.clone()),
            Transport::Hbone(stream) => Watch::Hbone(stream.watch()),
        }
    }

    /// From now on it carries something other than HTTP, the first bytes of which hyper has `read`: its two directions end
    /// apart.
    #[must_use]
    pub fn upgraded(mut self, read: Bytes) -> Self {
        self.closing = Closing::AtOnce;
        self.heads = Heads::Unwatched;
        if !read.is_empty() {
            self.prefix = if self.prefix.is_empty() { read } else { [read, self.prefix].concat().into() };
        }
        self
    }

    /// From here on the heads of requests are looked for in what is read. HTTP/2 begins with a preface of so many bytes.
    pub(super) fn expects_heads(&mut self, preface: Option<usize>) {
        self.heads = preface.map_or(Heads::Http1, |preface| Heads::Http2(Frames::after(preface)));
    }

    /// From here on it carries HTTP/2 of a server.
    pub(super) fn expects_frames(&mut self) {
        self.heads = Heads::Http2(Frames::after(0));
    }

    /// Looks at what was read. True: its last byte is kept for the next time.
    fn note_head(&mut self, read: &mut [u8]) -> bool {
        match &mut self.heads {
            Heads::Unwatched => false,
            Heads::Http1 => {
                if !read.is_empty() && !self.pulse.is_answering() {
                    self.pulse.waits_for_head(true);
                }
                false
            }
            Heads::Http2(frames) => {
                let heads::Read { in_block, again } = frames.read(read);
                self.pulse.waits_for_head(in_block);
                again
            }
        }
    }

    fn poll_read_more(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.transport).poll_read(cx, buf))?;
            self.pulse.beat();
            if !self.pulse.may_go_on(buf.filled().len() - before) {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
        } else {
            let read = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix[..read]);
            self.prefix.advance(read);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads more of what can be [seen](Self::seen) before it is taken; false at the end.
    pub async fn look(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 512];
        let mut buffer = ReadBuf::new(&mut chunk);
        std::future::poll_fn(|cx| Pin::new(&mut self.transport).poll_read(cx, &mut buffer)).await?;
        self.pulse.beat();
        if buffer.filled().is_empty() {
            return Ok(false);
        }
        self.prefix = [&self.prefix, buffer.filled()].concat().into();
        Ok(true)
    }

    pub fn seen(&self) -> &[u8] {
        &self.prefix
    }
}

/// Tells of a break of a connection, in the task that serves it.
pub enum Watch {
    Tcp(Arc<TcpStream>),
    Hbone(ResetWatch),
}

impl Watch {
    /// Writes an answer past whoever serves the connection, who must have nothing to write, and ends it; as far as it can be
    /// done at once.
    pub fn end_with(&self, answer: &[u8]) {
        if let Self::Tcp(stream) = self
            && stream.try_write(answer).is_ok_and(|written| written == answer.len())
        {
            end_on_close(stream);
            let _ = socket2::SockRef::from(&**stream).shutdown(std::net::Shutdown::Write);
        }
    }

    pub async fn broken(&self) {
        match self {
            Self::Hbone(stream) => stream.broken().await,
            Self::Tcp(stream) => {
                if !stream.ready(Interest::ERROR).await.is_ok_and(tokio::io::Ready::is_error) {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Hbone(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp { stream, .. } => loop {
                ready!(stream.poll_read_ready(cx))?;
                match stream.try_read_buf(buf) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return Poll::Ready(read.map(drop)),
                }
            },
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Hbone(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tcp { stream, .. } => loop {
                ready!(stream.poll_write_ready(cx))?;
                match stream.try_write_vectored(bufs) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    written => return Poll::Ready(written),
                }
            },
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Hbone(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp { .. } => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Hbone(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp { stream, .. } => {
                end_on_close(stream);
                Poll::Ready(socket2::SockRef::from(&**stream).shutdown(std::net::Shutdown::Write))
            }
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let begun = buf.filled().len();
        loop {
            // What was kept comes first, with what says its meaning if there is room for it.
            let kept = mem::take(&mut this.kept);
            if kept {
                buf.put_slice(&[heads::DATA]);
                if buf.remaining() == 0 {
                    if let Heads::Http2(frames) = &mut this.heads {
                        frames.passed();
                    }
                    return Poll::Ready(Ok(()));
                }
            }
            let before = buf.filled().len();
            let polled = this.poll_read_more(cx, buf);
            if buf.filled().len() == before {
                this.kept = kept && polled.is_pending();
                buf.set_filled(begun);
                return polled;
            }
            if this.note_head(&mut buf.filled_mut()[begun..]) {
                this.kept = true;
                buf.set_filled(buf.filled().len() - 1);
            }
            if buf.filled().len() > begun {
                return polled;
            }
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.pulse.beat();
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.pulse.beat();
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { transport, closing, .. } = self.get_mut();
        let Closing::Lingers(until) = closing else { return Pin::new(transport).poll_shutdown(cx) };
        if until.is_none() {
            ready!(Pin::new(&mut *transport).poll_shutdown(cx))?;
        }
        let until = until.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        loop {
            let mut scrap = [0; 1024];
            let mut buffer = ReadBuf::new(&mut scrap);
            match Pin::new(&mut *transport).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return until.as_mut().poll(cx).map(Ok),
            }
        }
    }
}
