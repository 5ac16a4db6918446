//! Where a connection goes that carries no requests, by the routes of the service that was dialled.

use std::{io::Cursor, sync::Arc, time::Duration};

use mesh_policy::{
    model::{Service, Snapshot},
    routing,
};
use rustls::server::Acceptor;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{Outbound, connection::Wanted};
use crate::{
    http::{self, Endpoints},
    reason::{Failure, Reason},
};

/// The largest ClientHello that is looked at; a larger one says no name.
const MAX_HELLO: usize = 16 * 1024;
/// Until the whole of a ClientHello is there, once it has begun.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at a ClientHello of which more has to come.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How a connection begins.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Opening {
    Tls {
        server_name: Option<String>,
    },
    /// Something else, or nothing yet: the server may be the one to begin.
    Other,
}

impl Outbound {
    /// The endpoints of the backend that a service's TLS or TCP routes choose; None: there are none for this connection.
    /// `server_name` is the connection's, where it is known already.
    pub(super) async fn routed(
        &self,
        wanted: &Wanted,
        snapshot: &Arc<Snapshot>,
        service: &Arc<Service>,
        server_name: Option<String>,
        app: &TcpStream,
    ) -> Result<Option<Endpoints>, Failure> {
        let dialled = wanted.dialled();
        let source = &wanted.source;
        let routes = |name: Option<&str>| snapshot.routes_for(service, dialled.port(), &source.namespace, name);
        // Hosts that a wildcard stands for may have routes of their own.
        let asks = service.hostname.starts_with('*') || routes(None).is_some_and(|routes| !routes.tls.is_empty());
        let opening = match server_name {
            Some(name) => Opening::Tls { server_name: Some(name) },
            None if asks => opening(app, snapshot.http().detection_timeout).await,
            None => Opening::Other,
        };
        let name = match &opening {
            Opening::Tls { server_name } => server_name.as_deref(),
            Opening::Other => None,
        };
        let Some(routes) = routes(name) else { return Ok(None) };
        let (client, server) = (wanted.app.ip(), dialled.ip());
        let backends = match &opening {
            Opening::Tls { server_name } => routing::select_tls(routes, source, server_name.as_deref(), client, server),
            Opening::Other => None,
        };
        let Some(backends) = backends.or_else(|| routing::select_tcp(routes, source, client, server)) else { return Ok(None) };
        let none = || Failure::new(Reason::InvalidBackend, format!("{}: no backend has a weight", routes.key));
        let backend = routing::choose_backend(backends, &mut fastrand::Rng::new()).ok_or_else(none)?;
        http::endpoints(snapshot, source, &backend.to, &wanted.pod, dialled).map(Some)
    }
}

/// The server name that a connection begins with, if that is seen within `patience` of now.
pub(super) async fn server_name(app: &TcpStream, patience: Duration) -> Option<String> {
    match opening(app, patience).await {
        Opening::Tls { server_name } => server_name,
        Opening::Other => None,
    }
}

/// Looks at the first bytes without taking them: at most `patience` for the first one, which a server that speaks first
/// never sees.
async fn opening(app: &TcpStream, patience: Duration) -> Opening {
    let mut first = [0];
    match timeout(patience, app.peek(&mut first)).await {
        // A handshake record (RFC 8446 §5.1).
        Ok(Ok(1)) if first[0] == 22 => timeout(HELLO_PATIENCE, hello(app)).await.unwrap_or(Opening::Other),
        _ => Opening::Other,
    }
}

async fn hello(app: &TcpStream) -> Opening {
    let mut seen = vec![0; MAX_HELLO];
    let mut before = 0;
    loop {
        let Ok(length) = app.peek(&mut seen).await else { return Opening::Other };
        if length > before {
            before = length;
            if let Some(opening) = read(&seen[..length]) {
                return opening;
            }
        }
        if length == MAX_HELLO {
            return Opening::Tls { server_name: None };
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// None: more has to come.
fn read(seen: &[u8]) -> Option<Opening> {
    let mut acceptor = Acceptor::default();
    let mut cursor = Cursor::new(seen);
    while (cursor.position() as usize) < seen.len() {
        if acceptor.read_tls(&mut cursor).is_err() {
            return Some(Opening::Other);
        }
    }
    match acceptor.accept() {
        Ok(None) => None,
        Ok(Some(accepted)) => Some(Opening::Tls { server_name: accepted.client_hello().server_name().map(str::to_owned) }),
        Err(_) => Some(Opening::Other),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    fn client_hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = name.to_owned().try_into().expect("a name");
        let mut connection = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).expect("a vector");
        bytes
    }

    #[tokio::test]
    async fn a_name_is_found_whatever_pieces_it_comes_in_and_nothing_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        let hello = client_hello("books.example");
        for pieces in [vec![&hello[..]], vec![&hello[..1], &hello[1..60], &hello[60..]]] {
            let mut client = TcpStream::connect(address).await.expect("a connection");
            let (server, _) = listener.accept().await.expect("a connection");
            let looking = tokio::spawn(async move { (opening(&server, Duration::from_secs(30)).await, server) });
            for piece in pieces {
                client.write_all(piece).await.expect("room");
                tokio::task::yield_now().await;
            }
            let (found, server) = looking.await.expect("a task");
            assert_eq!(found, Opening::Tls { server_name: Some("books.example".into()) });
            let mut all = vec![0; MAX_HELLO];
            assert_eq!(server.peek(&mut all).await.expect("readable"), hello.len());
        }
    }

    #[tokio::test]
    async fn what_is_not_tls_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        for said in [&b""[..], b"QUIT\r\n", &[22, 9, 9, 0, 4, 1, 2, 3, 4]] {
            let mut client = TcpStream::connect(address).await.expect("a connection");
            let (server, _) = listener.accept().await.expect("a connection");
            client.write_all(said).await.expect("room");
            assert_eq!(opening(&server, Duration::from_millis(50)).await, Opening::Other, "{said:?}");
        }
    }
}
