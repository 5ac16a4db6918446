//! The handshake, on either side.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, CommonState, Error, ExtractedSecrets, ServerConfig,
    client::{ClientConnectionData, UnbufferedClientConnection},
    kernel::KernelConnection,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus},
};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

use super::{incoming::Incoming, outgoing::Outgoing, stream::TlsStream};
use crate::identity::{LeafFacts, peer_facts, tls::ALPN_H2};

/// What the handshake told of the other side.
#[derive(Debug)]
pub struct Peer {
    /// Of its certificate, which a verifier of the configuration has passed. `None` when it can not be read.
    pub facts: Option<LeafFacts>,
    /// It agreed to HTTP/2 (ALPN).
    pub speaks_http2: bool,
}

/// Shakes hands as a client. Its last message goes out with what is written first, or flushed.
///
/// `config` must allow secrets to be extracted. Errors carry a [`rustls::Error`] where TLS is the cause; the peer has been told.
pub async fn connect(tcp: TcpStream, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<(TlsStream, Peer)> {
    let session = UnbufferedClientConnection::new(config, name).map_err(failed)?;
    shake(tcp, Session::Client(Box::new(session))).await
}

/// Shakes hands as a server; as [`connect`].
pub async fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<(TlsStream, Peer)> {
    let session = UnbufferedServerConnection::new(config).map_err(failed)?;
    shake(tcp, Session::Server(Box::new(session))).await
}

/// A TLS error as this crate's callers look for it.
pub(super) fn failed(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

enum Session {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What derives the next secrets.
pub(super) enum Keys {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

/// What a step of the handshake needs next.
enum Next {
    Step,
    Input,
    /// The peer has said its end behind its last message.
    Closed,
}

async fn shake(mut tcp: TcpStream, mut session: Session) -> io::Result<(TlsStream, Peer)> {
    let (mut incoming, mut outgoing) = (Incoming::default(), Outgoing::default());
    let mut early = Vec::new();
    let mut closed = false;
    // rustls is asked for no more than the handshake: what follows it is for our own records.
    while session.common().is_handshaking() || session.common().wants_write() {
        let (used, next) = session.step(incoming.unread(), outgoing.bytes(), &mut early);
        incoming.take(used);
        match next {
            Ok(Next::Step) => {}
            Ok(Next::Closed) => closed = true,
            // The server's last step: nothing was left to be said.
            Ok(Next::Input) if !session.common().is_handshaking() => break,
            Ok(Next::Input) => {
                outgoing.drain(&mut tcp).await?;
                if incoming.fill(&mut tcp).await? == 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer left during the handshake"));
                }
            }
            Err(error) => {
                while session.common().wants_write() && session.step(&mut [], outgoing.bytes(), &mut early).1.is_ok() {}
                // The alert is a courtesy.
                let _ = outgoing.drain(&mut tcp).await;
                return Err(failed(error));
            }
        }
    }
    incoming.park();
    let peer = Peer { facts: peer_facts(session.common()), speaks_http2: session.common().alpn_protocol() == Some(ALPN_H2) };
    let is_server = matches!(session, Session::Server(_));
    let (secrets, keys) = session.into_keys().map_err(failed)?;
    let mut stream = TlsStream::new(tcp, secrets, keys, incoming, outgoing).map_err(failed)?;
    stream.received_early(early, closed);
    if is_server {
        // The client waits for nothing that the server may send later.
        stream.drain().await?;
    }
    Ok((stream, peer))
}

impl Session {
    fn common(&self) -> &CommonState {
        match self {
            Self::Client(session) => session,
            Self::Server(session) => session,
        }
    }

    /// One step with the bytes that came; says how many of them it used up.
    fn step(&mut self, incoming: &mut [u8], outgoing: &mut Vec<u8>, early: &mut Vec<u8>) -> (usize, Result<Next, Error>) {
        match self {
            Self::Client(session) => step(session.process_tls_records(incoming), outgoing, early),
            Self::Server(session) => step(session.process_tls_records(incoming), outgoing, early),
        }
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, Keys), Error> {
        match self {
            Self::Client(session) => {
                let (secrets, keys) = session.dangerous_into_kernel_connection()?;
                Ok((secrets, Keys::Client(keys)))
            }
            Self::Server(session) => {
                let (secrets, keys) = session.dangerous_into_kernel_connection()?;
                Ok((secrets, Keys::Server(keys)))
            }
        }
    }
}

fn step<D>(status: UnbufferedStatus<'_, '_, D>, outgoing: &mut Vec<u8>, early: &mut Vec<u8>) -> (usize, Result<Next, Error>) {
    let UnbufferedStatus { discard: mut used, state } = status;
    let next = match state {
        Ok(ConnectionState::EncodeTlsData(mut message)) => encode(&mut message, outgoing).map(|()| Next::Step),
        Ok(ConnectionState::TransmitTlsData(message)) => {
            message.done();
            Ok(Next::Step)
        }
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    used += record.discard;
                    early.extend_from_slice(record.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Next::Step),
            }
        },
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Ok(Next::Input),
        Ok(ConnectionState::PeerClosed) => Ok(Next::Closed),
        Ok(_) => Err(Error::General("a state of TLS that was not agreed to".into())),
        Err(error) => Err(error),
    };
    (used, next)
}

fn encode<D>(message: &mut EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) -> Result<(), Error> {
    let begin = outgoing.len();
    loop {
        match message.encode(&mut outgoing[begin..]) {
            Ok(_) => return Ok(()),
            Err(EncodeError::InsufficientSize(size)) => outgoing.resize(begin + size.required_size, 0),
            Err(EncodeError::AlreadyEncoded) => return Err(Error::EncryptError),
        }
    }
}
