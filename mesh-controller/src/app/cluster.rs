//! The parts that only a cluster has: keys from Secrets, callers by their service accounts, the webhook, and what the leader
//! writes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use kube::Client;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    auth::{Account, Authenticator, Reviews},
    ca::{Keeper, Roots, Secrets},
    config::Run,
    leader::{Elector, while_leading},
    placement::Placement,
    server,
    status::{self, Desired},
    telemetry::Telemetry,
    webhook::{self, Trust},
};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long giving the lease back may take.
const RELEASE: Duration = Duration::from_secs(4);

/// A client, and who we are.
pub(super) struct Cluster {
    pub(super) client: Client,
    config: Run,
    telemetry: Arc<Telemetry>,
}

/// What a replica does for the cluster while it leads.
pub(super) struct Leading {
    release: oneshot::Sender<()>,
    elector: JoinHandle<()>,
    work: Vec<JoinHandle<()>>,
}

impl Cluster {
    pub(super) fn new(client: Client, config: &Run, telemetry: Arc<Telemetry>) -> Self {
        Self { client, config: config.clone(), telemetry }
    }

    /// The authority of the Secrets, however long it takes to read them: who runs without keys serves nobody.
    pub(super) async fn keeper(&self) -> (Arc<Keeper>, JoinHandle<()>) {
        let namespace = &self.config.namespace;
        let mut pause = FIRST_PAUSE;
        loop {
            let secrets = Secrets::new(self.client.clone(), namespace);
            match secrets.keeper(&self.names()).await {
                Ok(keeper) => return (keeper.clone(), tokio::spawn(secrets.follow(keeper))),
                Err(error) => {
                    warn!(error = format!("{:#}", anyhow::Error::new(error)), "no certificate authority yet: trying again");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// By which nodes and the API server reach this replica.
    fn names(&self) -> Vec<String> {
        let config = &self.config;
        let (service, namespace, domain) = (&config.service, &config.namespace, &config.dns_domain);
        let of_service = [
            service.clone(),
            format!("{service}.{namespace}"),
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.{domain}"),
        ];
        of_service.into_iter().chain(config.sans.iter().cloned()).collect()
    }

    pub(super) fn authenticator(&self, placement: watch::Receiver<Arc<Placement>>) -> Authenticator {
        let config = &self.config;
        let account = Account { namespace: config.namespace.clone(), name: config.node_account.clone() };
        Authenticator::Cluster(Arc::new(Reviews::new(self.client.clone(), account, placement)))
    }

    /// Serves the webhook; where it listens.
    pub(super) async fn webhook(&self, keeper: Arc<Keeper>) -> Result<(SocketAddr, [JoinHandle<()>; 2])> {
        let address = self.config.webhook;
        let listener = server::listen(address).await.with_context(|| format!("listen on {address}"))?;
        let address = listener.local_addr()?;
        let tls = Arc::new(server::tls(keeper, b"http/1.1").context("set TLS up for the webhook")?);
        let (sender, connections) = mpsc::channel(16);
        let tasks = [
            tokio::spawn(server::accept(listener, tls, sender)),
            tokio::spawn(webhook::serve(connections, self.telemetry.clone())),
        ];
        Ok((address, tasks))
    }

    /// Takes part in the election, and writes while this replica leads.
    pub(super) fn lead(&self, keeper: &Keeper, statuses: watch::Receiver<Arc<Desired>>) -> Leading {
        let config = &self.config;
        let (client, telemetry) = (&self.client, &self.telemetry);
        let lease = (&*config.namespace, &*config.service);
        let gauge = telemetry.metrics.leader.clone();
        let instance = config.instance();
        let (elector, leading) = Elector::new(client.clone(), lease, instance.clone(), config.lease, gauge);
        let writer = status::api::Writer::new(client.clone(), instance, telemetry.clone());
        let (namespace, telemetry) = (config.namespace.clone(), telemetry.clone());
        let roots = Roots { client: client.clone(), namespace, trusted: keeper.roots(), telemetry };
        let trust = Trust { client: client.clone(), roots: keeper.roots() };
        let work = vec![
            tokio::spawn(while_leading(leading.clone(), move || writer.clone().run(statuses.clone()))),
            tokio::spawn(while_leading(leading.clone(), move || roots.clone().run())),
            tokio::spawn(while_leading(leading, move || trust.clone().run())),
        ];
        let (release, stop) = oneshot::channel();
        Leading { release, elector: tokio::spawn(elector.run(stop)), work }
    }
}

impl Leading {
    /// Stops to write, and gives the lease back so that another replica can begin.
    pub(super) async fn stop(self) {
        let Self { release, elector, work } = self;
        // Work ends when the elector says so; this only makes sure.
        let _ = release.send(());
        if timeout(RELEASE, elector).await.is_err() {
            info!("the lease is left to run out");
        }
        for task in work {
            task.abort();
        }
    }
}
