//! Records after the handshake (RFC 8446 §5.2 to §5.5): sealed and opened in place.

use std::{io::IoSlice, ops::Range};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, MAX_TAG_LEN, UnboundKey};
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, PeerMisbehaved,
    crypto::cipher::{Iv, Nonce},
};

const HEADER: usize = 5;

/// Bytes of content in one record at most.
pub(super) const MAX_CONTENT: usize = 16 * 1024;

/// Of a sealed record without its header: content, its type, padding and tag (§5.2).
const MAX_SEALED: usize = MAX_CONTENT + 256;

/// Records under one key of AES-GCM (§5.5 allows 2^24.5).
const GCM_LIMIT: u64 = 1 << 24;

/// One direction's key and its count of records.
pub(super) struct Key {
    aead: LessSafeKey,
    iv: Iv,
    sequence: u64,
    limit: u64,
}

impl Key {
    pub(super) fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (algorithm, key, iv, limit): (&'static Algorithm, _, _, _) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv, GCM_LIMIT),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv, GCM_LIMIT),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv, u64::MAX),
            _ => return Err(Error::General("a cipher suite that is not ours".into())),
        };
        let aead = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Error::EncryptError)?;
        Ok(Self { aead: LessSafeKey::new(aead), iv, sequence, limit })
    }

    /// No more than `records` may be sealed with it before it is replaced.
    pub(super) fn is_used_up(&self, records: usize) -> bool {
        self.sequence.saturating_add(records as u64) >= self.limit
    }

    #[cfg(test)]
    pub(super) fn limit_to(&mut self, records: u64) {
        self.limit = records;
    }

    /// A sequence number is used once, so a nonce is.
    fn nonce(&mut self) -> Result<aws_lc_rs::aead::Nonce, Error> {
        let nonce = Nonce::new(&self.iv, self.sequence);
        self.sequence = self.sequence.checked_add(1).ok_or(Error::EncryptError)?;
        Ok(aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce.0))
    }

    /// Appends one record of `len` bytes of `content`, [`MAX_CONTENT`] at most.
    pub(super) fn seal(
        &mut self,
        typ: ContentType,
        content: &mut Gather<'_>,
        len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let [high, low] = ((len + 1 + MAX_TAG_LEN) as u16).to_be_bytes();
        let header = [u8::from(ContentType::ApplicationData), 3, 3, high, low];
        out.reserve(HEADER + len + 1 + MAX_TAG_LEN);
        out.extend_from_slice(&header);
        let begin = out.len();
        content.copy_to(out, len);
        out.push(typ.into());
        let nonce = self.nonce()?;
        let tag = self.aead.seal_in_place_separate_tag(nonce, Aad::from(header), &mut out[begin..]);
        out.extend_from_slice(tag.map_err(|_| Error::EncryptError)?.as_ref());
        Ok(())
    }

    /// Opens the first record of `bytes`; `None` until all of it is there.
    pub(super) fn open(&mut self, bytes: &mut [u8]) -> Result<Option<Opened>, Error> {
        let Some((header, rest)) = bytes.split_first_chunk_mut::<HEADER>() else { return Ok(None) };
        let typ = ContentType::from(header[0]);
        if typ != ContentType::ApplicationData {
            return Err(unexpected(typ));
        }
        let sealed = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if sealed > MAX_SEALED {
            return Err(Error::PeerSentOversizedRecord);
        }
        let Some(body) = rest.get_mut(..sealed) else { return Ok(None) };
        let nonce = self.nonce()?;
        let inner = self.aead.open_in_place(nonce, Aad::from(*header), body).map_err(|_| Error::DecryptError)?;
        // Content, its type, zeros.
        let Some(end) = inner.iter().rposition(|byte| *byte != 0) else {
            return Err(PeerMisbehaved::IllegalTlsInnerPlaintext.into());
        };
        if end > MAX_CONTENT {
            return Err(Error::PeerSentOversizedRecord);
        }
        Ok(Some(Opened { typ: inner[end].into(), content: HEADER..HEADER + end, size: HEADER + sealed }))
    }
}

/// A record that was opened.
pub(super) struct Opened {
    pub(super) typ: ContentType,
    /// Where in the record its content lies.
    pub(super) content: Range<usize>,
    /// Bytes of the whole record.
    pub(super) size: usize,
}

/// Bytes from several slices, in order.
pub(super) struct Gather<'a> {
    slices: std::slice::Iter<'a, IoSlice<'a>>,
    current: &'a [u8],
}

impl<'a> Gather<'a> {
    pub(super) fn new(slices: &'a [IoSlice<'a>]) -> Self {
        Self { slices: slices.iter(), current: &[] }
    }

    fn copy_to(&mut self, out: &mut Vec<u8>, mut len: usize) {
        while len > 0 {
            while self.current.is_empty() {
                let Some(next) = self.slices.next() else { return };
                self.current = next;
            }
            let (now, later) = self.current.split_at(len.min(self.current.len()));
            out.extend_from_slice(now);
            self.current = later;
            len -= now.len();
        }
    }
}

pub(super) fn unexpected(typ: ContentType) -> Error {
    Error::InappropriateMessage { expect_types: vec![ContentType::ApplicationData], got_type: typ }
}

/// What the peer is told of an error of its own (§6.2); `None` when it is the one that complained.
pub(super) fn alert_for(error: &Error) -> Option<AlertDescription> {
    match error {
        Error::AlertReceived(_) => None,
        Error::DecryptError => Some(AlertDescription::BadRecordMac),
        Error::PeerSentOversizedRecord => Some(AlertDescription::RecordOverflow),
        Error::InvalidMessage(_) => Some(AlertDescription::DecodeError),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } | Error::PeerMisbehaved(_) => {
            Some(AlertDescription::UnexpectedMessage)
        }
        _ => Some(AlertDescription::InternalError),
    }
}
