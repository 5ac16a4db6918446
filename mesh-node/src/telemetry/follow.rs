//! What is told as Telemetry objects say, where there are any: the node's own way is the rest.

use std::sync::{Arc, Mutex, PoisonError};

use mesh_policy::model::{self, Percent};

use super::{
    Cluster, Direction, Flow, Path, Span, SpanSink, Telemetry, access_log,
    collectors::Collectors,
    facts::Told,
    log_form,
    plan::{Plan, Sink},
    request::Open,
    series::Measured,
};
use crate::state::Store;

/// The configuration that is followed.
pub(super) struct Followed {
    store: Arc<Store>,
    collectors: Collectors,
    made: Mutex<Vec<Made>>,
}

/// The plans of a Telemetry, each made when it is first asked for.
struct Made {
    of: Arc<model::Telemetry>,
    client: Option<Arc<Plan>>,
    server: Option<Arc<Plan>>,
}

impl Telemetry {
    /// Follows what Telemetry objects say, from now on. Exporters of spans run on the current runtime. Counts once.
    pub fn follow(&self, store: Arc<Store>) {
        let collectors = Collectors::new(store.clone(), self.span_counts.clone());
        let _ = self.followed.set(Followed { store, collectors, made: Mutex::default() });
    }

    /// The way of requests between two workloads: to be kept for as long as requests go that way.
    pub fn path(&self, flow: Flow, cluster: Cluster) -> Arc<Path> {
        let plan = self.plan(&flow);
        Path::new(flow, cluster, &self.metrics.http, plan)
    }

    /// What the end that reports is to tell; None: nobody has said anything.
    pub(super) fn plan(&self, flow: &Flow) -> Option<Arc<Plan>> {
        let followed = self.followed.get()?;
        let near = flow.near().workload.as_ref()?;
        let snapshot = followed.store.load();
        let near = snapshot.workload(&near.uid).unwrap_or(near);
        let served = flow.service.as_ref().filter(|_| flow.direction == Direction::Inbound).map(|service| service.key());
        let telemetry = snapshot.telemetry(near, served.as_ref())?;
        Some(followed.made(telemetry, flow.direction))
    }

    /// Changes whenever what is to be told may have changed.
    pub(super) fn generation(&self) -> u64 {
        self.followed.get().map_or(0, |followed| followed.store.generation())
    }

    /// Requests are traced from now on, and their spans go to `sink`: those whose sender says so, and their share of those
    /// whose sender says nothing. Counts once.
    pub fn export_spans(&self, sink: Arc<dyn SpanSink>) {
        let _ = self.spans.set(sink);
    }

    /// The share of requests that are traced of themselves: 1 % if it is never told (Istio's). Counts once.
    pub fn set_trace_share(&self, share: Percent) {
        let _ = self.share.set(share);
    }

    /// None: nothing is traced.
    pub(super) fn trace_share(&self, plan: Option<&Plan>) -> Option<Percent> {
        let (sink, share) = plan.map_or((&Sink::Usual, None), |plan| (&plan.sink, plan.share));
        let traces = match sink {
            Sink::Nowhere => false,
            Sink::Usual => self.spans.get().is_some(),
            Sink::To(_) => true,
        };
        traces.then(|| share.or_else(|| self.share.get().copied()).unwrap_or_else(|| Percent::of(1.0)))
    }

    pub(super) fn offer(&self, plan: Option<&Plan>, span: Span) {
        match plan.map_or(&Sink::Usual, |plan| &plan.sink) {
            Sink::Nowhere => {}
            Sink::To(sink) => sink.offer(span),
            Sink::Usual => {
                if let Some(sink) = self.spans.get() {
                    sink.offer(span);
                }
            }
        }
    }

    /// Logs a request that has ended.
    pub(super) fn log(&self, open: &Open, measured: Measured) {
        let told = Told { open, measured };
        let logs = open.path.plan().and_then(|plan| plan.logs.as_deref());
        if logs.is_none_or(|logs| log_form::write(logs, &told, &told)) {
            access_log::write(open, measured, self.access_form());
        }
    }
}

impl Followed {
    fn made(&self, telemetry: &Arc<model::Telemetry>, direction: Direction) -> Arc<Plan> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let known = made.iter().position(|made| Arc::ptr_eq(&made.of, telemetry));
        let at = known.unwrap_or_else(|| {
            // Nobody else has those that are no longer in force.
            made.retain(|made| Arc::strong_count(&made.of) > 1);
            made.push(Made { of: telemetry.clone(), client: None, server: None });
            made.len() - 1
        });
        let Made { of, client, server } = &mut made[at];
        let (place, half) = match direction {
            Direction::Outbound => (client, &of.client),
            Direction::Inbound => (server, &of.server),
        };
        place.get_or_insert_with(|| Arc::new(Plan::new(half, |collector| self.collectors.sink(collector)))).clone()
    }
}
