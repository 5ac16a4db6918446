//! Copies of requests whose answers nobody reads.
//!
//! A copy never holds up, changes or fails the request it was made from. It is sent once the request's body has been read, from
//! the record that a retry would use ([`Replay`]): a request whose body is longer than that is not mirrored, and counted. So
//! are requests beyond what one pod, or the node, may have mirrored at a time. The host gets `-shadow`, as Envoy has it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header::CONTENT_LENGTH, request};

use super::{
    body::Body,
    replay::{Recorded, Replay},
};
use crate::telemetry::{Metrics, Reading};

/// Mirrored requests that one pod may have open.
pub const POD_LIMIT: usize = 64;
/// Mirrored requests that the node may have open.
pub const NODE_LIMIT: usize = 1024;

/// What the node mirrors.
#[derive(Debug)]
pub struct Mirrors {
    open: AtomicUsize,
    limit: usize,
    pub counts: MirrorCounts,
}

/// Since the start.
#[derive(Debug, Default)]
pub struct MirrorCounts {
    pub sent: AtomicU64,
    /// Not sent: the body is longer than what is remembered, or was broken off.
    pub no_body: AtomicU64,
    /// Not sent: as many as may be are open.
    pub busy: AtomicU64,
}

/// What one pod mirrors.
#[derive(Debug)]
pub struct PodMirrors {
    node: Arc<Mirrors>,
    open: AtomicUsize,
    limit: usize,
}

/// The place of one mirrored request.
#[derive(Debug)]
pub struct MirrorPermit(Arc<PodMirrors>);

impl Mirrors {
    pub fn new() -> Arc<Self> {
        Self::with_limit(NODE_LIMIT)
    }

    pub fn with_limit(limit: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), limit, counts: MirrorCounts::default() })
    }

    /// Shows in the metrics what became of the copies.
    pub fn show(self: &Arc<Self>, metrics: &Metrics) {
        let reading = |of: fn(&MirrorCounts) -> &AtomicU64| -> Reading {
            let mirrors = self.clone();
            Box::new(move || of(&mirrors.counts).load(Relaxed))
        };
        let values = vec![
            ("sent", reading(|counts| &counts.sent)),
            ("no_body", reading(|counts| &counts.no_body)),
            ("busy", reading(|counts| &counts.busy)),
        ];
        metrics.watch("keelson_mirrored_requests", "Copies of requests, by what became of them", "outcome", values);
    }

    /// The share of a pod; `limit` requests at a time.
    pub fn pod(self: &Arc<Self>, limit: usize) -> Arc<PodMirrors> {
        Arc::new(PodMirrors { node: self.clone(), open: AtomicUsize::new(0), limit })
    }
}

impl PodMirrors {
    /// The whole request once its body has been read, ready to be sent; None, and counted, where it is not mirrored. To be
    /// asked before the first attempt, and run on a task of its own; the permit is held until the answer is there or given up.
    pub fn prepare(
        self: &Arc<Self>,
        head: &request::Parts,
        replay: &Replay,
    ) -> Option<impl Future<Output = Option<(Request<Body>, MirrorPermit)>> + Send + use<>> {
        let permit = self.permit()?;
        let (head, recorded) = (shadow_head(head), replay.recorded());
        Some(async move {
            let counts = &permit.0.node.counts;
            let Some(recorded) = recorded.await else {
                counts.no_body.fetch_add(1, Relaxed);
                return None;
            };
            counts.sent.fetch_add(1, Relaxed);
            Some((assemble(head, recorded), permit))
        })
    }

    fn permit(self: &Arc<Self>) -> Option<MirrorPermit> {
        let taken = take(&self.open, self.limit) && {
            let taken = take(&self.node.open, self.node.limit);
            if !taken {
                self.open.fetch_sub(1, Relaxed);
            }
            taken
        };
        if !taken {
            self.node.counts.busy.fetch_add(1, Relaxed);
        }
        taken.then(|| MirrorPermit(self.clone()))
    }
}

fn take(open: &AtomicUsize, limit: usize) -> bool {
    open.fetch_update(Relaxed, Relaxed, |open| (open < limit).then_some(open + 1)).is_ok()
}

impl Drop for MirrorPermit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
        self.0.node.open.fetch_sub(1, Relaxed);
    }
}

/// What is sent of a head: everything, but for upgrades, which nobody would use.
fn shadow_head(head: &request::Parts) -> request::Parts {
    let (mut shadow, ()) = Request::new(()).into_parts();
    shadow.method = head.method.clone();
    shadow.uri = head.uri.clone();
    shadow.version = head.version;
    shadow.headers = head.headers.clone();
    super::headers::remove_hop_by_hop(&mut shadow.headers);
    shadow
}

fn assemble(mut head: request::Parts, recorded: Recorded) -> Request<Body> {
    let Recorded { data, trailers: _ } = recorded;
    // The body's length is known now, whatever framing it came in.
    if data.is_empty() {
        head.headers.remove(CONTENT_LENGTH);
    } else {
        head.headers.insert(CONTENT_LENGTH, data.len().into());
    }
    Request::from_parts(head, Body::full(data))
}

/// `host` and `host:port` with `-shadow` behind the host.
pub fn shadow_authority(authority: &str) -> String {
    let end_of_host = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    match authority[end_of_host..].find(':') {
        Some(colon) => {
            let (host, port) = authority.split_at(end_of_host + colon);
            format!("{host}-shadow{port}")
        }
        None => format!("{authority}-shadow"),
    }
}

/// Names the mirror to the server that gets the copy; `headers` hold the `Host`.
pub fn set_shadow_host(headers: &mut HeaderMap, authority: &str) {
    if let Ok(value) = HeaderValue::try_from(shadow_authority(authority)) {
        headers.insert(http::header::HOST, value);
    }
}

/// Reads an answer away. Bytes are dropped as they come.
pub async fn discard(body: impl hyper::body::Body<Data = Bytes> + Unpin) {
    use http_body_util::BodyExt;

    let mut body = body;
    while let Some(Ok(_)) = body.frame().await {}
}

#[cfg(test)]
mod tests;
