//! Frames on a stream socket: a length (4 bytes, big-endian), JSON, and descriptors that come with the length.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};

use crate::enrol::record::Remembered;

/// Name of the socket in the runtime directory.
pub const SOCKET: &str = "handover.sock";
/// Of the messages below. Another one is not spoken to.
pub const VERSION: u32 = 1;
/// Either side breaks off when the other is silent for longer.
const SILENCE: Duration = Duration::from_secs(20);
/// A pod's frame takes less than a kilobyte.
const LONGEST: u32 = 1 << 20;
/// A pod has its outbound listeners, at most eight, and two more.
const MOST_DESCRIPTORS: usize = 16;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Message {
    /// From the new process, first of all.
    Hello { version: u32, node: String, instance: String },
    /// From the old one: nothing changes from here on. Its enrolments wait.
    Standing { release: String },
    /// Or not.
    Refused { why: String },
    /// From the new process, which is ready to serve.
    Give,
    /// With descriptors: the outbound listeners, plaintext, HBONE.
    Pod(Parcel),
    /// The last pod was sent.
    End,
    /// From the new process: it accepts.
    Done,
    /// From the old one: it no longer does, and its addresses are free.
    Retired,
}

/// A pod, as the old process has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parcel {
    pub pod: Remembered,
    /// It ran before it was enrolled, and not every node is known to reach it by HBONE.
    pub running: bool,
    /// It is being released.
    pub leaving: bool,
}

/// Why listeners are not handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error("the other process broke off")]
    Io(#[from] io::Error),
    #[error("a message is no JSON of ours")]
    Message(#[from] serde_json::Error),
    #[error("a message of {length} bytes is too long")]
    Length { length: u32 },
    #[error("another message was expected than {found}")]
    Unexpected { found: String },
    #[error("the other process refuses: {why}")]
    Refused { why: String },
    #[error("{got} sockets came with a pod, which needs at least three")]
    Descriptors { got: usize },
}

pub struct Wire(UnixStream);

impl Wire {
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        Ok(Self(stream))
    }

    pub fn send(&mut self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> Result<(), HandoverError> {
        let body = serde_json::to_vec(message)?;
        let length = u32::try_from(body.len()).map_err(|_| HandoverError::Length { length: u32::MAX })?;
        let raw: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights[..] };
        let header = length.to_be_bytes();
        let sent = sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&header)], control, MsgFlags::MSG_NOSIGNAL, None);
        let sent = sent.map_err(io::Error::from)?;
        // The descriptors have gone with the first byte.
        self.0.write_all(&header[sent..])?;
        Ok(self.0.write_all(&body)?)
    }

    pub fn receive(&mut self) -> Result<(Message, Vec<OwnedFd>), HandoverError> {
        let mut header = [0; 4];
        let (got, descriptors) = self.receive_first(&mut header)?;
        self.0.read_exact(&mut header[got..])?;
        let length = u32::from_be_bytes(header);
        if length > LONGEST {
            return Err(HandoverError::Length { length });
        }
        let mut body = vec![0; length as usize];
        self.0.read_exact(&mut body)?;
        match serde_json::from_slice(&body)? {
            Message::Refused { why } => Err(HandoverError::Refused { why }),
            message => Ok((message, descriptors)),
        }
    }

    /// The next message, from one who may take his time.
    pub fn receive_within(&mut self, patience: Duration) -> Result<(Message, Vec<OwnedFd>), HandoverError> {
        self.0.set_read_timeout(Some(patience))?;
        let received = self.receive();
        self.0.set_read_timeout(Some(SILENCE))?;
        received
    }

    fn receive_first(&self, header: &mut [u8; 4]) -> Result<(usize, Vec<OwnedFd>), HandoverError> {
        let mut space = nix::cmsg_space!([i32; MOST_DESCRIPTORS]);
        let mut slices = [IoSliceMut::new(header)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(self.0.as_raw_fd(), &mut slices, Some(&mut space), flags).map_err(io::Error::from)?;
        let mut descriptors = Vec::new();
        for control in message.cmsgs().map_err(io::Error::from)? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                descriptors.extend(raw.into_iter().map(own));
            }
        }
        match message.bytes {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            got => Ok((got, descriptors)),
        }
    }
}

#[allow(unsafe_code, reason = "descriptors that a message brings come as numbers")]
fn own(descriptor: i32) -> OwnedFd {
    // SAFETY: the kernel has made it for this process as the message was received, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// The words for a message that nobody expected.
pub(super) fn unexpected(message: &Message) -> HandoverError {
    let text = format!("{message:?}");
    HandoverError::Unexpected { found: text.chars().take(100).collect() }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn descriptors_come_with_their_message() {
        let (a, b) = UnixStream::pair().expect("a pair");
        let (mut a, mut b) = (Wire::new(a).expect("wire"), Wire::new(b).expect("wire"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("bound").port();
        a.send(&Message::Give, &[]).expect("sent");
        a.send(&Message::End, &[listener.as_fd()]).expect("sent");
        drop(listener);
        let (message, none) = b.receive().expect("received");
        assert!(matches!(message, Message::Give) && none.is_empty());
        let (message, descriptors) = b.receive().expect("received");
        assert!(matches!(message, Message::End), "{message:?}");
        let again: std::net::TcpListener = descriptors.into_iter().next().expect("one").into();
        assert_eq!(again.local_addr().expect("open").port(), port);
        drop(a);
        assert!(matches!(b.receive(), Err(HandoverError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn a_later_release_may_say_more() {
        let text = r#"{ "kind": "hello", "version": 1, "node": "n", "instance": "i", "new": [1] }"#;
        assert!(matches!(serde_json::from_str(text).expect("JSON"), Message::Hello { version: 1, .. }));
    }

    #[test]
    fn nonsense_is_refused() {
        let (mut a, b) = UnixStream::pair().expect("a pair");
        let mut b = Wire::new(b).expect("wire");
        a.write_all(&[0xff; 8]).expect("sent");
        assert!(matches!(b.receive(), Err(HandoverError::Length { .. })));
    }
}
