//! Sending the copies of mirrored requests.

use std::{sync::Arc, time::Duration};

use http::{header::HOST, request::Parts};
use hyper::Request;
use mesh_policy::{
    binding::Addressed,
    destination::Hop,
    model::{BackendRef, Snapshot, Workload},
};
use tokio::time::timeout;

use super::{
    attempt::{connect, judge},
    body::Body,
    client::Client,
    convert,
    destination::{Forward, NO_UPSTREAM},
    error::ExchangeError,
    facts::Facts,
    headers, mirror,
    place::{place, terms},
    replay::Replay,
    upstream::Version,
};
use crate::metered::Charged;

/// A copy's answer is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(15);

impl Client {
    /// Has a copy of the request sent once its body is known. Whatever becomes of it, nobody is told but the counters.
    pub(super) fn mirror(
        self: &Arc<Self>,
        snapshot: &Arc<Snapshot>,
        source: &Arc<Workload>,
        to: &BackendRef,
        head: &Parts,
        replay: &Replay,
    ) {
        let Some(prepared) = self.pod.mirrors.prepare(head, replay) else { return };
        let (client, snapshot, source, to) = (self.clone(), snapshot.clone(), source.clone(), to.clone());
        Charged::new(self.pod.lane(self.worker).cost.clone()).spawn(async move {
            let Some((request, _permit)) = prepared.await else { return };
            let sent = timeout(PATIENCE, client.shadow(&snapshot, &source, &to, request)).await;
            tracing::trace!(?sent, "mirrored");
        });
    }

    async fn shadow(
        self: &Arc<Self>,
        snapshot: &Arc<Snapshot>,
        source: &Arc<Workload>,
        to: &BackendRef,
        mut request: Request<Body>,
    ) -> Result<(), ExchangeError> {
        let authority = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
        mirror::set_shadow_host(request.headers_mut(), &authority);
        let (mut head, body) = request.into_parts();
        let facts = Facts::normalize(&mut head, snapshot.http().normalization, "").map_err(ExchangeError::BadRequest)?;
        let nobody = Addressed { service: None, port: 0, dialled: None };
        let mut forward = Forward::new(snapshot, source, &nobody, Some(to), &self.pod.balance)?;
        forward.speak(head.version, false);
        let mut candidates = forward.candidates(snapshot, source, self.bound.dialled)?;
        let is_local = |uid: &_| self.node.pods.contains(uid);
        let hop = candidates.next_hop(&is_local, &self.pod.in_flight, &mut fastrand::Rng::new()).ok_or(NO_UPSTREAM)?;
        let mut request = convert::for_server(&head, None, body, forward.version);
        if let Hop::SameNode { address, workload } = &hop {
            judge(self, snapshot, *address, workload, &facts.request(&head))?;
            let own = self.pod.identity(snapshot);
            headers::set_client_cert(request.headers_mut(), &workload.identity(), Some(&own));
        }
        let upstreams = &self.pod.lane(self.worker).upstreams;
        let (place, terms) = (place(&hop, &forward), terms(forward.policy));
        let mut lease = match forward.version {
            // Of a kept connection that closes meanwhile, nobody would try again.
            Version::Http1 => upstreams.lease_http1_fresh(&place, terms, connect(self, source, &hop, &forward)).await,
            Version::Http2 => upstreams.lease(&place, Version::Http2, terms, || connect(self, source, &hop, &forward)).await,
        }
        .map_err(ExchangeError::Connect)?;
        let response = lease.send(request).await.map_err(ExchangeError::Send)?;
        mirror::discard(response.into_body()).await;
        Ok(())
    }
}
