//! Collectors that Telemetry names: an exporter for each, for as long as something sends to it.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use hyper_util::rt::TokioIo;
use mesh_policy::model::{self, Health, Snapshot};
use tokio::{
    net::{TcpStream, lookup_host},
    runtime::Handle,
};
use tonic::transport::Endpoint;
use tracing::warn;

use super::{OtlpExporter, SpanCounts, SpanSink, otlp};
use crate::state::Store;

/// At the same time; spans for more go nowhere.
const MAX_COLLECTORS: usize = 16;

/// Every collector that has an exporter.
pub(super) struct Collectors {
    store: Arc<Store>,
    /// Where exporters run: not in the way of traffic.
    runtime: Handle,
    counts: Arc<SpanCounts>,
    exporters: Mutex<HashMap<model::Collector, Weak<OtlpExporter>>>,
}

impl Collectors {
    /// Exporters run on the current runtime.
    pub(super) fn new(store: Arc<Store>, counts: Arc<SpanCounts>) -> Self {
        Self { store, runtime: Handle::current(), counts, exporters: Mutex::default() }
    }

    /// The exporter of a collector, which ends when nobody has it any more. None: there are too many.
    pub(super) fn sink(&self, collector: &model::Collector) -> Option<Arc<dyn SpanSink>> {
        let mut exporters = self.exporters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(exporter) = exporters.get(collector).and_then(Weak::upgrade) {
            return Some(exporter);
        }
        exporters.retain(|_, exporter| exporter.strong_count() > 0);
        if exporters.len() >= MAX_COLLECTORS {
            warn!(collector = %collector.host, limit = MAX_COLLECTORS, "too many collectors: no spans go there");
            return None;
        }
        let _entered = self.runtime.enter();
        let exporter = OtlpExporter::over(self.channel(collector), self.counts.clone());
        exporters.insert(collector.clone(), Arc::downgrade(&exporter));
        Some(exporter)
    }

    /// Looks the collector up with each connection: its pods come and go.
    fn channel(&self, collector: &model::Collector) -> tonic::transport::Channel {
        let (store, collector) = (self.store.clone(), collector.clone());
        let connect = tower::service_fn(move |_: http::Uri| {
            let (snapshot, collector) = (Arc::clone(&store.load()), collector.clone());
            async move {
                let address = match place(&snapshot, &collector) {
                    Some(address) => address,
                    None => looked_up(&collector).await?,
                };
                TcpStream::connect(address).await.map(TokioIo::new)
            }
        });
        Endpoint::from_static("http://collector").connect_timeout(otlp::EXPORT_TIMEOUT).connect_with_connector_lazy(connect)
    }
}

/// A pod of a collector in the mesh.
fn place(snapshot: &Snapshot, collector: &model::Collector) -> Option<SocketAddr> {
    let service = collector.service.as_ref()?;
    let healthy = snapshot.endpoints(service).iter().filter(|endpoint| endpoint.workload.health == Health::Healthy);
    let places: Vec<SocketAddr> = healthy
        .filter_map(|endpoint| {
            let port = endpoint.workload.target_port(service, collector.port)?;
            Some(SocketAddr::new(*endpoint.workload.addresses.first()?, port))
        })
        .collect();
    fastrand::choice(places)
}

/// One outside, by the names that the node itself knows.
async fn looked_up(collector: &model::Collector) -> io::Result<SocketAddr> {
    let mut found = lookup_host((&*collector.host, collector.port)).await?;
    found.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", collector.host)))
}
