//! Puts the parts together, in the order in which they may speak.
//!
//! The first state is read and published before anything listens: a node never hears that nothing exists because nobody
//! has looked yet.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use mesh_config::translate::Settings;
use mesh_proto::{
    ca::istio_certificate_service_server::IstioCertificateServiceServer, node::node_service_server::NodeServiceServer,
    xds::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{service::InterceptorLayer, transport::Server};
use tracing::{error, info};

use crate::{
    admin::{self, Admin},
    auth::Tokens,
    ca::{Certificates, Keeper},
    capture::Captures,
    config::{Run, Source},
    distribute::{Discovery, Nodes, Published},
    node_service::Reports,
    reconcile::Reconciler,
    server,
    source::{Admission, Folder},
    status::Writer,
    telemetry::Telemetry,
};

/// Versions of 50,000 resources in the first request of a stream.
const MAX_DISCOVERY_REQUEST: usize = 64 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long open calls may take to end when the controller stops.
const GRACE: Duration = Duration::from_secs(5);

/// A controller that runs until it is stopped.
pub struct Running {
    pub xds: SocketAddr,
    pub admin: SocketAddr,
    pub published: watch::Receiver<Arc<Published>>,
    pub nodes: Arc<Nodes>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    /// Ends when dropped: it holds what everyone else listens to.
    reconciler: JoinHandle<()>,
    others: Vec<JoinHandle<()>>,
}

/// Starts everything; returns when nodes can connect.
pub async fn start(config: &Run) -> Result<Running> {
    std::fs::create_dir_all(&config.state).with_context(|| format!("make the state folder {}", config.state.display()))?;
    let telemetry = Arc::new(Telemetry::new());
    let tokens = Tokens::new(&config.state);
    let keeper = Keeper::new(&config.state, &config.sans).context("prepare the certificate authority")?;
    let Source::Folder(folder) = &config.source;
    let (folder, first) = Folder::open(folder, &config.state, telemetry.clone()).context("read the source of objects")?;

    let (published_sender, published) = watch::channel(Arc::new(Published::default()));
    let (placement_sender, placement) = watch::channel(Arc::default());
    let (statuses_sender, statuses) = watch::channel(Arc::default());
    let mut reconciler = Reconciler {
        settings: Settings { cluster: config.cluster.as_str().into(), dns_domain: config.dns_domain.as_str().into() },
        admission: Admission::load(&config.state),
        captures: Captures::load(&config.state),
        published: published_sender,
        placement: placement_sender,
        statuses: statuses_sender,
        telemetry: telemetry.clone(),
    };
    reconciler.start(first);
    let writer = Writer::new(folder.root(), telemetry.clone());
    let (handle, changes) = Reconciler::channel();
    let (states_sender, states) = mpsc::channel(4);
    let mut others = vec![
        tokio::spawn(async move {
            if let Err(error) = folder.watch(states_sender).await {
                error!(%error, "the source of objects is no longer watched");
            }
        }),
        tokio::spawn(writer.run(statuses)),
        tokio::spawn(keeper.clone().run()),
    ];
    let reconciler = tokio::spawn(reconciler.run(states, changes));

    let nodes = Nodes::new(telemetry.clone());
    let discovery =
        Discovery { published: published.clone(), nodes: nodes.clone(), tokens: tokens.clone(), telemetry: telemetry.clone() };
    let reports = Reports { reconciler: handle, nodes: nodes.clone(), published: published.clone() };
    let longest = config.leaf_lifetime;
    let certificates = Certificates { keeper: keeper.clone(), placement, longest, telemetry: telemetry.clone() };

    let listener = server::listen(config.listen).await.with_context(|| format!("listen on {}", config.listen))?;
    let xds = listener.local_addr()?;
    let admin_listener = server::listen(config.admin).await.with_context(|| format!("listen on {}", config.admin))?;
    let admin = admin_listener.local_addr()?;
    let tls = Arc::new(server::tls(keeper).context("set TLS up")?);
    let (connections_sender, connections) = mpsc::channel(16);
    others.push(tokio::spawn(server::accept(listener, tls, connections_sender)));
    let shown = Admin { published: published.clone(), nodes: nodes.clone(), telemetry };
    others.push(tokio::spawn(admin::serve(admin_listener, Arc::new(shown))));

    let (stop, stopped) = oneshot::channel();
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .max_concurrent_streams(256)
        // Around every service that there is or will be.
        .layer(InterceptorLayer::new(move |request| tokens.intercept(request)))
        .add_service(AggregatedDiscoveryServiceServer::new(discovery).max_decoding_message_size(MAX_DISCOVERY_REQUEST))
        .add_service(NodeServiceServer::new(reports))
        .add_service(IstioCertificateServiceServer::new(certificates))
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), async { drop(stopped.await) });
    let server = tokio::spawn(serving);
    info!(%xds, %admin, "serving");
    Ok(Running { xds, admin, published, nodes, stop, server, reconciler, others })
}

impl Running {
    /// Returns when the endpoint has ended by itself, which it should not.
    pub async fn ended(&mut self) -> Result<()> {
        match (&mut self.server).await {
            Ok(result) => result.context("serve nodes"),
            Err(panic) => Err(panic).context("serve nodes"),
        }
    }

    /// Ends streams, lets calls finish for a moment, and stops.
    pub async fn stop(self) {
        // Whoever asked to stop may do so twice.
        let _ = self.stop.send(());
        self.reconciler.abort();
        for task in self.others {
            task.abort();
        }
        if timeout(GRACE, self.server).await.is_err() {
            info!("open calls are cut off");
        }
    }
}
