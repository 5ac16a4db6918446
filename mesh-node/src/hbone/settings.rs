//! What a tunnel may use: sizes, limits and deadlines of both sides.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

/// A stream's receive window at first. Twice what 10 Gbit/s needs at 0.1 ms; with ambient's 4 MiB, six clients that do not
/// read stall a whole tunnel.
pub const STREAM_WINDOW: u32 = 256 * 1024;

/// What the window may grow to.
pub const MAX_STREAM_WINDOW: u32 = 1024 * 1024;

/// Bytes of a DATA frame. 1 MiB measured no faster, and h2 buffers whole frames.
pub const FRAME: u32 = 64 * 1024;

/// Unsent bytes that h2 keeps for one stream.
pub const SEND_BUFFER: usize = 256 * 1024;

/// Overhead of DATA frames under 256 bytes that may wait unread on one connection before it is closed as an attack
/// (256 bytes less the payload, each).
pub const SMALL_FRAME_OVERHEAD: usize = 8 * 1024 * 1024;

/// Streams that a peer reset and that were not accepted yet; beyond it the connection is closed.
pub const PENDING_RESETS: usize = 32;

/// Resets of its own accord that a peer may send before an answer: at once, and a second after that.
pub const RESET_BURST: u32 = 200;
pub const RESETS_PER_SECOND: u32 = 50;

/// Limits of both sides of a tunnel. [`Settings::default`] holds what a node uses.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For TLS and HTTP/2 together, on either side.
    pub handshake_timeout: Duration,
    /// For the far side's answer to a CONNECT, and on the server for the handler's decision. The server's application must
    /// have answered by then.
    pub answer_timeout: Duration,
    /// A tunnel without streams is closed after this (MeshConfig `hboneIdleTimeout`).
    pub idle_timeout: Duration,
    /// A tunnel without streams that stands beside another of its key is closed after this, twice that at most: what a burst
    /// needed is not kept for the next one.
    pub spare_idle_timeout: Duration,
    pub ping_interval: Duration,
    /// A peer that does not answer a ping for this long is gone.
    pub ping_timeout: Duration,
    /// Streams that we open in one tunnel; the peer's own limit counts if it is lower.
    pub client_streams: usize,
    /// Streams that a peer may have open in one tunnel.
    pub server_streams: u32,
    /// Bytes of a request's headers that a peer may send (name, value and 32 each).
    pub server_header_list: u32,
    /// Bytes of an answer's headers that a peer may send.
    pub client_header_list: u32,
    /// How long streams may go on after a drain began.
    pub drain_timeout: Duration,
    pub spawner: Spawner,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_mins(5),
            spare_idle_timeout: Duration::from_secs(15),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            client_streams: 100,
            server_streams: 200,
            server_header_list: 64 * 1024,
            client_header_list: 16 * 1024,
            drain_timeout: Duration::from_secs(30),
            spawner: Spawner::default(),
        }
    }
}

/// A task that a tunnel starts.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Starts the tasks of a tunnel, so that their cost can be charged to a pod.
#[derive(Clone)]
pub struct Spawner(Arc<dyn Fn(Task) + Send + Sync>);

impl Spawner {
    pub fn new(spawn: impl Fn(Task) + Send + Sync + 'static) -> Self {
        Self(Arc::new(spawn))
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        (self.0)(Box::pin(task));
    }
}

impl Default for Spawner {
    /// The current runtime.
    fn default() -> Self {
        Self::new(|task| {
            tokio::spawn(task);
        })
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spawner")
    }
}
