//! An established connection.

use std::{
    io::{self, IoSlice},
    mem,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use rustls::{AlertDescription, ContentType, Error, ExtractedSecrets, HandshakeType, InvalidMessage, PeerMisbehaved};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    incoming::Incoming,
    outgoing::{BATCH, Outgoing},
    record::{Gather, Key, MAX_CONTENT, Opened, alert_for, unexpected},
    shake::{Keys, failed},
};

/// Records in a row that carry nothing for the reader (empty ones, KeyUpdates, tickets) before the peer is taken for an attacker.
const MAX_FRUITLESS: u32 = 32;

/// A message of the handshake that comes after it is not longer: a session ticket, with whatever the server put into it.
const MAX_MESSAGE: usize = 64 * 1024;

const FATAL: u8 = 2;
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// TLS over TCP. Dropped without a shutdown, the peer sees a truncated connection.
///
/// Errors of TLS are [`rustls::Error`]s within an [`io::Error`]; an end of TCP without a `close_notify` is
/// [`io::ErrorKind::UnexpectedEof`].
pub struct TlsStream {
    tcp: TcpStream,
    keys: Keys,
    open: Key,
    seal: Key,
    incoming: Incoming,
    /// Of `incoming`, content that was decrypted and not read.
    content: Range<usize>,
    /// Content that rustls decrypted at the end of the handshake; read before everything else.
    early: Bytes,
    outgoing: Outgoing,
    end: End,
    /// The beginning of a handshake message.
    message: Vec<u8>,
    fruitless: u32,
    /// The peer has asked for a KeyUpdate; it goes out before the next content.
    owes_update: bool,
    said_end: bool,
}

/// What can no longer be read.
enum End {
    Open,
    /// The peer has said its end.
    Closed,
    Failed(Error),
}

impl TlsStream {
    pub(super) fn new(
        tcp: TcpStream,
        secrets: ExtractedSecrets,
        keys: Keys,
        incoming: Incoming,
        outgoing: Outgoing,
    ) -> Result<Self, Error> {
        Ok(Self {
            tcp,
            keys,
            open: Key::new(secrets.rx)?,
            seal: Key::new(secrets.tx)?,
            incoming,
            content: 0..0,
            early: Bytes::new(),
            outgoing,
            end: End::Open,
            message: Vec::new(),
            fruitless: 0,
            owes_update: false,
            said_end: false,
        })
    }

    pub(super) fn received_early(&mut self, content: Vec<u8>, closed: bool) {
        self.early = content.into();
        if closed {
            self.end = End::Closed;
        }
    }

    pub(super) async fn drain(&mut self) -> io::Result<()> {
        self.outgoing.drain(&mut self.tcp).await
    }

    /// Copies content that is there already.
    fn deliver(&mut self, buf: &mut ReadBuf<'_>) {
        if !self.early.is_empty() {
            let len = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early[..len]);
            self.early.advance(len);
        }
        let len = self.content.len().min(buf.remaining());
        if len > 0 {
            buf.put_slice(self.incoming.taken(self.content.start..self.content.start + len));
            self.content.start += len;
        }
    }

    /// Opens the next record; false until the whole of it has come.
    fn advance(&mut self) -> Result<bool, Error> {
        let begin = self.incoming.position();
        let Some(Opened { typ, content, size }) = self.open.open(self.incoming.unread())? else { return Ok(false) };
        self.incoming.take(size);
        let content = begin + content.start..begin + content.end;
        if !self.message.is_empty() && typ != ContentType::Handshake {
            return Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
        }
        if typ == ContentType::ApplicationData && !content.is_empty() {
            self.fruitless = 0;
            self.content = content;
            return Ok(true);
        }
        self.fruitless += 1;
        if self.fruitless > MAX_FRUITLESS {
            return Err(PeerMisbehaved::TooManyEmptyFragments.into());
        }
        match typ {
            ContentType::ApplicationData => {}
            ContentType::Alert => self.alert(content)?,
            ContentType::Handshake => {
                self.message.extend_from_slice(self.incoming.taken(content));
                self.messages()?;
            }
            other => return Err(unexpected(other)),
        }
        Ok(true)
    }

    fn alert(&mut self, content: Range<usize>) -> Result<(), Error> {
        let &[_level, description] = self.incoming.taken(content) else {
            return Err(InvalidMessage::InvalidContentType.into());
        };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => self.end = End::Closed,
            // The one that is no error; a close_notify follows.
            AlertDescription::UserCanceled => {}
            // Whatever level it claims (§6).
            error => return Err(Error::AlertReceived(error)),
        }
        Ok(())
    }

    /// Handles the messages that have come whole.
    fn messages(&mut self) -> Result<(), Error> {
        while let [typ, a, b, c, rest @ ..] = &self.message[..] {
            let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if len > MAX_MESSAGE {
                return Err(InvalidMessage::HandshakePayloadTooLarge.into());
            }
            let Some(body) = rest.get(..len) else { break };
            match (HandshakeType::from(*typ), &self.keys) {
                (HandshakeType::NewSessionTicket, Keys::Client(_)) => {}
                (HandshakeType::KeyUpdate, _) => {
                    // The next record has another key, so no message may reach over from this one.
                    if rest.len() > len {
                        return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
                    }
                    match body {
                        [0] => {}
                        [1] => self.owes_update = true,
                        _ => return Err(InvalidMessage::InvalidKeyUpdate.into()),
                    }
                    self.open = Key::new(self.keys.next_to_open()?)?;
                }
                (other, _) => {
                    return Err(Error::InappropriateHandshakeMessage {
                        expect_types: vec![HandshakeType::KeyUpdate],
                        got_type: other,
                    });
                }
            }
            self.message.drain(..4 + len);
        }
        if self.message.is_empty() {
            self.message = Vec::new();
        }
        Ok(())
    }

    /// Nothing can be read any more; the peer is told why.
    fn fail(&mut self, cx: &mut Context<'_>, error: Error) {
        if let Some(alert) = alert_for(&error)
            && !mem::replace(&mut self.said_end, true)
        {
            let sealed = self.seal_whole(ContentType::Alert, &[FATAL, alert.into()]);
            // A courtesy: the connection is over either way.
            let _ = sealed.map(|()| self.outgoing.poll_drain(cx, &mut self.tcp));
        }
        self.end = End::Failed(error);
    }

    fn seal_whole(&mut self, typ: ContentType, content: &[u8]) -> Result<(), Error> {
        let slices = [IoSlice::new(content)];
        self.seal.seal(typ, &mut Gather::new(&slices), content.len(), self.outgoing.bytes())
    }

    /// Seals `total` bytes of content, with a new key first where one is due.
    fn seal_content(&mut self, content: &[IoSlice<'_>], total: usize) -> Result<(), Error> {
        if self.owes_update || self.seal.is_used_up(total.div_ceil(MAX_CONTENT)) {
            self.seal_whole(ContentType::Handshake, &KEY_UPDATE)?;
            self.seal = Key::new(self.keys.next_to_seal()?)?;
            self.owes_update = false;
        }
        let mut content = Gather::new(content);
        let mut left = total;
        while left > 0 {
            let len = left.min(MAX_CONTENT);
            self.seal.seal(ContentType::ApplicationData, &mut content, len, self.outgoing.bytes())?;
            left -= len;
        }
        Ok(())
    }
}

impl Keys {
    fn next_to_open(&mut self) -> Result<(u64, rustls::ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(keys) => keys.update_rx_secret(),
            Self::Server(keys) => keys.update_rx_secret(),
        }
    }

    fn next_to_seal(&mut self) -> Result<(u64, rustls::ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(keys) => keys.update_tx_secret(),
            Self::Server(keys) => keys.update_tx_secret(),
        }
    }
}

impl AsyncRead for TlsStream {
    /// Takes as much as there is and fits, over as many records as it is.
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        loop {
            this.deliver(buf);
            let has_read = buf.filled().len() > before;
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match &this.end {
                End::Open => {}
                End::Failed(error) if !has_read => return Poll::Ready(Err(failed(error.clone()))),
                End::Closed | End::Failed(_) => return Poll::Ready(Ok(())),
            }
            match this.advance() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    this.fail(cx, error);
                    continue;
                }
            }
            if has_read {
                return Poll::Ready(Ok(()));
            }
            if ready!(this.incoming.poll_fill(cx, &mut this.tcp))? == 0 {
                let truncated = "the peer closed the connection without saying so in TLS";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, truncated)));
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    /// Takes up to [`BATCH`] bytes at once, as soon as the socket has taken what was sealed before.
    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.outgoing.poll_drain(cx, &mut this.tcp))?;
        if this.said_end {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let total = bufs.iter().map(|buf| buf.len()).sum::<usize>().min(BATCH);
        this.seal_content(bufs, total).map_err(failed)?;
        match this.outgoing.poll_drain(cx, &mut this.tcp) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(total)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.outgoing.poll_drain(cx, &mut this.tcp)
    }

    /// Says our end, in TLS and in TCP; the peer's may come later.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !mem::replace(&mut this.said_end, true) {
            this.seal_whole(ContentType::Alert, &[1, AlertDescription::CloseNotify.into()]).map_err(failed)?;
        }
        ready!(this.outgoing.poll_drain(cx, &mut this.tcp))?;
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
impl TlsStream {
    /// Bytes of buffers.
    pub(super) fn held(&self) -> usize {
        self.incoming.held() + self.outgoing.held()
    }

    pub(super) fn limit_key_to(&mut self, records: u64) {
        self.seal.limit_to(records);
    }

    pub(super) async fn readable(&self) {
        self.tcp.readable().await.expect("readable");
    }
}
