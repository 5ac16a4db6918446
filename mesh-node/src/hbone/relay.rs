//! Joins an application's socket with a stream: byte for byte, half-close for half-close, reset for reset.
//!
//! An idle connection holds no buffer. To the tunnel, small reads go through a scratch buffer of the thread and are copied to
//! their size (a frame that waits must not hold 16 KiB for one byte); reads that fill are made straight into the buffer
//! that becomes the frame, growing to [`MAX_READ`]. From the tunnel, all frames that are there become one write; their
//! window goes back to the sender after it, so a slow application slows its sender and nobody else.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

use super::{
    staged::{SLICES, Staged},
    stream::{H2Stream, RecvHalf, Role, SendHalf, StreamError},
};
use crate::copy::{CopyError, End, Meter, end_on_close};

/// First size of a read; doubled while reads fill.
const MIN_READ: usize = 16 * 1024;
const MAX_READ: usize = 128 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; MIN_READ].into_boxed_slice());
}

/// Bytes carried, as seen from the opener of the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    pub sent: u64,
    pub received: u64,
}

/// Copies until both directions have ended. On the opening node the socket is the downstream and the stream the upstream, on
/// the accepting node the other way round.
///
/// On an error the stream is reset, and the socket too when it is dropped, if [`crate::copy::break_on_close`] has been called
/// on it: an application never sees a clean end that the other side did not send. Bytes that a reset overtakes are lost, as they are in TCP.
pub async fn copy_bidirectional(tcp: &mut TcpStream, stream: H2Stream, meter: &impl Meter) -> Result<Copied, CopyError> {
    let ends = Ends::of(stream.role());
    let (mut send, mut recv) = stream.split();
    let mut copied = Copied::default();
    let result = join(tcp, &mut send, &mut recv, &mut Tally { meter, ends, copied: &mut copied }).await;
    match result {
        Ok(()) => {
            end_on_close(tcp);
            Ok(copied)
        }
        Err(error) => {
            send.reset();
            Err(error)
        }
    }
}

async fn join<M: Meter>(
    tcp: &mut TcpStream,
    send: &mut SendHalf,
    recv: &mut RecvHalf,
    tally: &mut Tally<'_, M>,
) -> Result<(), CopyError> {
    let (mut reader, mut writer) = tcp.split();
    let mut to_tunnel = ToTunnel { pending: Bytes::new(), read_size: MIN_READ, done: false };
    let mut to_socket = ToSocket { staged: Staged::default(), ended: false, done: false };
    // Until the socket has no more to say; the other direction may end meanwhile.
    poll_fn(|cx| {
        let from_socket = to_tunnel.poll(cx, &mut reader, send, tally)?;
        let _from_tunnel = to_socket.poll(cx, &mut writer, recv, tally)?;
        from_socket.map(Ok)
    })
    .await?;
    if to_socket.done {
        return Ok(());
    }
    // Nothing is read from the socket any more, so a reset of it must be looked for.
    let ends = tally.ends;
    tokio::select! {
        delivered = poll_fn(|cx| to_socket.poll(cx, &mut writer, recv, tally)) => delivered,
        source = broken(reader.as_ref()) => Err(CopyError { end: ends.socket, source }),
    }
}

/// Waits for an error on a socket, without reading.
async fn broken(tcp: &TcpStream) -> io::Error {
    if let Ok(ready) = tcp.ready(Interest::ERROR).await
        && ready.is_error()
        && let Ok(Some(error)) = tcp.take_error()
    {
        return error;
    }
    std::future::pending().await
}

/// Which end of the connection is the socket and which the tunnel.
#[derive(Clone, Copy)]
struct Ends {
    socket: End,
    tunnel: End,
}

impl Ends {
    fn of(role: Role) -> Self {
        match role {
            Role::Client => Self { socket: End::Downstream, tunnel: End::Upstream },
            Role::Server => Self { socket: End::Upstream, tunnel: End::Downstream },
        }
    }

    fn socket_broke(self, source: io::Error) -> CopyError {
        CopyError { end: self.socket, source }
    }

    fn tunnel_broke(self, error: StreamError) -> CopyError {
        CopyError { end: self.tunnel, source: error.into() }
    }
}

struct Tally<'a, M> {
    meter: &'a M,
    ends: Ends,
    copied: &'a mut Copied,
}

impl<M: Meter> Tally<'_, M> {
    fn from(&mut self, end: End, bytes: usize) {
        let bytes = bytes as u64;
        match end {
            End::Downstream => {
                self.copied.sent += bytes;
                self.meter.sent(bytes);
            }
            End::Upstream => {
                self.copied.received += bytes;
                self.meter.received(bytes);
            }
        }
    }
}

/// From the socket to the tunnel.
struct ToTunnel {
    /// Read and not taken by the tunnel; nothing more is read meanwhile.
    pending: Bytes,
    read_size: usize,
    done: bool,
}

impl ToTunnel {
    fn poll<M: Meter>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut ReadHalf<'_>,
        send: &mut SendHalf,
        tally: &mut Tally<'_, M>,
    ) -> Poll<Result<(), CopyError>> {
        while !self.done {
            let sent = send.poll_send(cx, &mut self.pending);
            send.note_waiting(self.pending.len());
            ready!(sent).map_err(|error| tally.ends.tunnel_broke(error))?;
            let read = match self.read(cx, reader, send) {
                Poll::Ready(read) => read.map_err(|source| tally.ends.socket_broke(source))?,
                Poll::Pending => {
                    // The receiving half says so too, but only until the other side's end.
                    return send.poll_reset(cx).map(|error| Err(tally.ends.tunnel_broke(error)));
                }
            };
            if read.is_empty() {
                send.finish().map_err(|error| tally.ends.tunnel_broke(error))?;
                self.done = true;
            } else {
                tally.from(tally.ends.socket, read.len());
                self.pending = read;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// One read; empty at the end of the connection.
    fn read(&mut self, cx: &mut Context<'_>, reader: &mut ReadHalf<'_>, send: &mut SendHalf) -> Poll<io::Result<Bytes>> {
        ready!(send.poll_clear(cx));
        if send.is_over_budget() {
            self.read_size = MIN_READ;
        }
        let read = if self.read_size == MIN_READ { Self::read_small(cx, reader) } else { self.read_large(cx, reader) };
        let bytes = ready!(read)?;
        self.read_size = match bytes.len() {
            n if n >= self.read_size => (self.read_size * 2).min(MAX_READ),
            n if n < self.read_size / 4 => (self.read_size / 2).max(MIN_READ),
            _ => self.read_size,
        };
        Poll::Ready(Ok(bytes))
    }

    fn read_small(cx: &mut Context<'_>, reader: &mut ReadHalf<'_>) -> Poll<io::Result<Bytes>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(reader).poll_read(cx, &mut buffer))?;
            Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
        })
    }

    fn read_large(&self, cx: &mut Context<'_>, reader: &mut ReadHalf<'_>) -> Poll<io::Result<Bytes>> {
        // The buffer is made when there is something to read.
        ready!(reader.as_ref().poll_read_ready(cx))?;
        let mut buffer = BytesMut::with_capacity(self.read_size);
        let read = ready!(pin!(reader.read_buf(&mut buffer)).poll(cx))?;
        let fits = read >= self.read_size / 4;
        Poll::Ready(Ok(if fits { buffer.freeze() } else { Bytes::copy_from_slice(&buffer) }))
    }
}

/// From the tunnel to the socket.
struct ToSocket {
    staged: Staged,
    /// The tunnel has said its end.
    ended: bool,
    done: bool,
}

impl ToSocket {
    fn poll<M: Meter>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut WriteHalf<'_>,
        recv: &mut RecvHalf,
        tally: &mut Tally<'_, M>,
    ) -> Poll<Result<(), CopyError>> {
        while !self.done {
            self.collect(cx, recv).map_err(|error| tally.ends.tunnel_broke(error))?;
            if self.staged.is_empty() {
                if !self.ended {
                    return Poll::Pending;
                }
                // No longer connected: reading reports it.
                let _ = ready!(Pin::new(&mut *writer).poll_shutdown(cx));
                self.done = true;
            } else {
                let written = ready!(self.write(cx, writer)).map_err(|source| tally.ends.socket_broke(source))?;
                self.staged.advance(written);
                recv.release(written);
                tally.from(tally.ends.tunnel, written);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes all frames that are there; the stream's window bounds them.
    fn collect(&mut self, cx: &mut Context<'_>, recv: &mut RecvHalf) -> Result<(), StreamError> {
        while !self.ended {
            match recv.poll_recv(cx) {
                Poll::Ready(Some(data)) => self.staged.push(data?),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn write(&self, cx: &mut Context<'_>, writer: &mut WriteHalf<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let used = self.staged.slices(&mut slices);
        match ready!(Pin::new(writer).poll_write_vectored(cx, &slices[..used]))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => Poll::Ready(Ok(written)),
        }
    }
}
