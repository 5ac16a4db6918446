//! The side of the process that starts.

use std::{
    io,
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
};

use tracing::info;

use super::wire::{HandoverError, Message, Parcel, VERSION, Wire, unexpected};
use crate::enrol::listeners::Listeners;

/// An old process that stands still until this is done with or dropped.
pub struct Taker(Wire);

/// A pod with its listeners.
pub struct Taken {
    pub parcel: Parcel,
    pub listeners: Listeners,
}

impl Taker {
    /// Has the process that runs stand still; `None` when there is none.
    pub fn connect(socket: &Path, node: &str, instance: &str) -> Result<Option<Self>, HandoverError> {
        let stream = match UnixStream::connect(socket) {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut wire = Wire::new(stream)?;
        wire.send(&Message::Hello { version: VERSION, node: node.to_owned(), instance: instance.to_owned() }, &[])?;
        match wire.receive()?.0 {
            Message::Standing { release } => info!(release, "taking over from the process that runs"),
            other => return Err(unexpected(&other)),
        }
        Ok(Some(Self(wire)))
    }

    /// Its pods, with their listeners.
    pub fn take(&mut self) -> Result<Vec<Taken>, HandoverError> {
        self.0.send(&Message::Give, &[])?;
        let mut taken = Vec::new();
        loop {
            match self.0.receive()? {
                (Message::Pod(parcel), descriptors) => taken.push(Taken { parcel, listeners: listeners(descriptors)? }),
                (Message::End, _) => return Ok(taken),
                (other, _) => return Err(unexpected(&other)),
            }
        }
    }

    /// Tells that the listeners are served here. When it returns, they are served here only.
    pub fn done(mut self) -> Result<(), HandoverError> {
        self.0.send(&Message::Done, &[])?;
        match self.0.receive()?.0 {
            Message::Retired => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

fn listeners(descriptors: Vec<OwnedFd>) -> Result<Listeners, HandoverError> {
    let got = descriptors.len();
    let mut sockets: Vec<TcpListener> = descriptors.into_iter().map(TcpListener::from).collect();
    let missing = || HandoverError::Descriptors { got };
    let hbone = sockets.pop().ok_or_else(missing)?;
    let plaintext = sockets.pop().ok_or_else(missing)?;
    if sockets.is_empty() { Err(missing()) } else { Ok(Listeners { outbound: sockets, plaintext, hbone }) }
}
