//! Puts the parts together, in the order in which they may speak.
//!
//! The first state is read and published before anything listens to nodes: a node never hears that nothing exists because
//! nobody has looked yet. Until then readiness says what is waited for.

mod cluster;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use mesh_config::{
    kinds::Name,
    translate::{Redirection, Settings},
};
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
use tonic::transport::Server;
use tracing::{error, info};

use self::cluster::{Cluster, Leading};
use crate::{
    admin::{self, Admin, Readiness},
    auth::{Authenticator, Guard, Tokens},
    ca::{Certificates, Keeper},
    capture::{Annotations, Annotator, Captures, Reports},
    config::{Run, Source},
    distribute::{Discovery, Nodes, Published},
    node_service::Reported,
    placement::Places,
    reconcile::{Outlets, Reconciler},
    server,
    source::{
        Admission, Folder,
        kube::{self, Cluster as Watched, Health},
    },
    status::Writer,
    telemetry::Telemetry,
};

/// Versions of 50,000 resources in the first request of a stream.
const MAX_DISCOVERY_REQUEST: usize = 64 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// What readiness waits for, beside a first state.
const AUTHORITY: &str = "the certificate authority's keys";
const LISTENING: &str = "the endpoints to listen";
/// How long open calls may take to end when the controller stops.
const GRACE: Duration = Duration::from_secs(5);

/// A controller that runs until it is stopped.
pub struct Running {
    pub xds: SocketAddr,
    pub admin: SocketAddr,
    /// In a cluster.
    pub webhook: Option<SocketAddr>,
    pub published: watch::Receiver<Arc<Published>>,
    pub nodes: Arc<Nodes>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    /// Ends when dropped: it holds what everyone else listens to.
    reconciler: JoinHandle<()>,
    leading: Option<Leading>,
    others: Vec<JoinHandle<()>>,
}

/// Starts everything; returns when nodes can connect.
pub async fn start(config: &Run) -> Result<Running> {
    std::fs::create_dir_all(&config.state).with_context(|| format!("make the state folder {}", config.state.display()))?;
    let telemetry = Arc::new(Telemetry::new());
    let cluster = match &config.source {
        Source::Folder(_) => None,
        Source::Kubernetes => {
            let client = kube::connect(config.kubeconfig.as_deref()).await.context("find the API server")?;
            Some(Cluster::new(client, config, telemetry.clone()))
        }
    };

    let (published_sender, published) = watch::channel(Arc::new(Published::default()));
    let (placement_sender, placement) = watch::channel(Arc::default());
    let (statuses_sender, statuses) = watch::channel(Arc::default());
    let (marks_sender, marks) = watch::channel(Arc::default());
    let nodes = Nodes::new(telemetry.clone());
    let health = cluster.as_ref().map(|_| Health::new(telemetry.clone()));
    let readiness = Readiness::expecting([AUTHORITY, LISTENING]);
    let admin_listener = server::listen(config.admin).await.with_context(|| format!("listen on {}", config.admin))?;
    let admin = admin_listener.local_addr()?;
    let shown = Admin {
        published: published.clone(),
        nodes: nodes.clone(),
        telemetry: telemetry.clone(),
        source: health.clone(),
        readiness: readiness.clone(),
    };
    let mut others = vec![tokio::spawn(admin::serve(admin_listener, Arc::new(shown)))];
    info!(%admin, "answering for readiness");

    let settings = Settings {
        cluster: config.cluster.as_str().into(),
        dns_domain: config.dns_domain.as_str().into(),
        redirection: if cluster.is_some() { Redirection::Reported } else { Redirection::OfOthers },
    };
    let mut reconciler = Reconciler::new(
        settings.clone(),
        Admission::load(&config.state),
        if cluster.is_some() {
            Captures::Annotations(Annotations::new(marks_sender, Name::new(&config.namespace, &config.service)))
        } else {
            Captures::Reports(Reports::load(&config.state))
        },
        Places::new(config.exempt_namespaces.clone()),
        Outlets { published: published_sender, placement: placement_sender, statuses: statuses_sender },
        telemetry.clone(),
    );
    let (handle, changes) = Reconciler::channel();
    let (news_sender, news) = mpsc::channel(16);
    if let Source::Folder(path) = &config.source {
        let (folder, first) = Folder::open(path, &config.state, telemetry.clone()).context("read the source of objects")?;
        reconciler.start(first);
        others.push(tokio::spawn(Writer::new(folder.root(), telemetry.clone()).run(statuses.clone())));
        others.push(tokio::spawn(async move {
            if let Err(error) = folder.watch(news_sender).await {
                error!(%error, "the source of objects is no longer watched");
            }
        }));
    } else if let (Some(Cluster { client, .. }), Some(health)) = (&cluster, &health) {
        let mut watched = Watched::start(client, news_sender, health);
        let annotator = Annotator { client: client.clone(), marks, telemetry: telemetry.clone() };
        others.push(tokio::spawn(annotator.run()));
        others.push(tokio::spawn(async move {
            watched.ended().await;
            error!("the API server is no longer read");
        }));
    }
    let reconciler = tokio::spawn(reconciler.run(news, changes));

    let (keeper, authenticator) = match &cluster {
        None => {
            let keeper = Keeper::new(&config.state, &config.sans).context("prepare the certificate authority")?;
            (keeper, Authenticator::Folder(Tokens::new(&config.state)))
        }
        Some(cluster) => {
            let (keeper, following) = cluster.keeper().await;
            others.push(following);
            (keeper, cluster.authenticator(placement.clone()))
        }
    };
    others.push(tokio::spawn(keeper.clone().run()));
    readiness.done(AUTHORITY);
    let mut webhook = None;
    if let Some(cluster) = &cluster {
        let (address, tasks) = cluster.webhook(keeper.clone()).await.context("serve the webhook")?;
        others.extend(tasks);
        webhook = Some(address);
    }
    published.clone().wait_for(|published| published.generation > 0).await.context("wait for the first state")?;

    let guard = Guard(authenticator.clone());
    let discovery = Discovery { published: published.clone(), nodes: nodes.clone(), authenticator, telemetry: telemetry.clone() };
    let reports = Reported {
        reconciler: handle,
        nodes: nodes.clone(),
        published: published.clone(),
        settings,
        placement: cluster.is_some().then(|| placement.clone()),
    };
    let longest = config.leaf_lifetime;
    let certificates = Certificates { keeper: keeper.clone(), placement, longest, telemetry };

    let listener = server::listen(config.listen).await.with_context(|| format!("listen on {}", config.listen))?;
    let xds = listener.local_addr()?;
    let tls = Arc::new(server::tls(keeper.clone(), b"h2").context("set TLS up")?);
    let (connections_sender, connections) = mpsc::channel(16);
    others.push(tokio::spawn(server::accept(listener, tls, connections_sender)));
    let leading = cluster.map(|cluster| cluster.lead(&keeper, statuses));

    let (stop, stopped) = oneshot::channel();
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .max_concurrent_streams(256)
        .layer(guard)
        .add_service(AggregatedDiscoveryServiceServer::new(discovery).max_decoding_message_size(MAX_DISCOVERY_REQUEST))
        .add_service(NodeServiceServer::new(reports))
        .add_service(IstioCertificateServiceServer::new(certificates))
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), async { drop(stopped.await) });
    let server = tokio::spawn(serving);
    readiness.done(LISTENING);
    info!(%xds, %admin, webhook = webhook.map(tracing::field::display), "serving");
    Ok(Running { xds, admin, webhook, published, nodes, stop, server, reconciler, leading, others })
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
        if let Some(leading) = self.leading {
            leading.stop().await;
        }
        self.reconciler.abort();
        for task in self.others {
            task.abort();
        }
        if timeout(GRACE, self.server).await.is_err() {
            info!("open calls are cut off");
        }
    }
}
