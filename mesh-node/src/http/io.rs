//! The connections that HTTP is spoken over, in the one form that hyper is given.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::heads::{Frames, Heads};
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

/// When something was last carried, and since when a request's head is not whole.
#[derive(Debug)]
pub struct Pulse {
    start: Instant,
    /// Milliseconds since `start`.
    last: AtomicU64,
    /// The same, of the first byte of the head that is under way, plus one; 0: none is.
    head: AtomicU64,
    /// HTTP/1 is answering a request: what comes is its body, or waits.
    answering: AtomicBool,
}

/// HTTP/1 answers a request as long as this lives.
pub struct Answering(Arc<Pulse>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.store(false, Relaxed);
    }
}

impl Pulse {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
            head: AtomicU64::new(0),
            answering: AtomicBool::new(false),
        })
    }

    fn beat(&self) {
        self.last.store(self.now(), Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn waits_for_head(&self, waits: bool) {
        if !waits {
            self.head.store(0, Relaxed);
        } else if self.head.load(Relaxed) == 0 {
            self.head.store(self.now().saturating_add(1), Relaxed);
        }
    }

    /// A head of HTTP/1 is whole.
    pub fn answering(self: &Arc<Self>) -> Answering {
        self.waits_for_head(false);
        self.answering.store(true, Relaxed);
        Answering(self.clone())
    }

    /// For how long a head has been coming that is not whole yet.
    pub fn head_age(&self) -> Option<Duration> {
        let begun = self.head.load(Relaxed).checked_sub(1)?;
        Some(self.start.elapsed().saturating_sub(Duration::from_millis(begun)))
    }

    /// For how long nothing has been carried, to the millisecond.
    pub fn silence(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last.load(Relaxed)))
    }
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

    fn note_head(&mut self, read: &[u8]) {
        match &mut self.heads {
            Heads::Unwatched => {}
            Heads::Http1 => {
                if !read.is_empty() && !self.pulse.answering.load(Relaxed) {
                    self.pulse.waits_for_head(true);
                }
            }
            Heads::Http2(frames) => self.pulse.waits_for_head(frames.read(read)),
        }
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
        let before = buf.filled().len();
        if this.prefix.is_empty() {
            ready!(Pin::new(&mut this.transport).poll_read(cx, buf))?;
            this.pulse.beat();
        } else {
            let read = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix[..read]);
            this.prefix.advance(read);
        }
        this.note_head(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
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
