//! The API server of a cluster, found as kubectl finds it.

use std::{env, path::PathBuf, time::Duration};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Config, Resource,
    config::{KubeConfigOptions, Kubeconfig},
};

/// An API server that is there answers within seconds, also while others load it.
const CONNECT: Duration = Duration::from_secs(5);
const READ: Duration = Duration::from_mins(1);

/// Which cluster.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct ClusterArgs {
    /// Ask the cluster of this kubeconfig, also where nodes run on this machine
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Ask the cluster of this context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,

    /// The namespace that the mesh is installed in
    #[arg(long, global = true, value_name = "NAME", default_value = "keelson-system")]
    mesh_namespace: String,
}

/// A connection to a cluster's API server.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// Where the mesh's own parts are.
    pub(crate) namespace: String,
    server: String,
}

impl ClusterArgs {
    /// Whether somebody asked for a cluster by name.
    pub(crate) fn is_explicit(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }

    /// Whether there is a cluster to try where nobody named one.
    pub(crate) fn is_known(&self) -> bool {
        let named = |variable: &str| env::var_os(variable).is_some_and(|value| !value.is_empty());
        self.is_explicit()
            || named("KUBECONFIG")
            || named("KUBERNETES_SERVICE_HOST")
            || env::home_dir().is_some_and(|home| home.join(".kube/config").exists())
    }

    pub(crate) fn mesh_namespace(&self) -> &str {
        &self.mesh_namespace
    }

    /// Reads the kubeconfig; the API server is not asked yet.
    pub(crate) async fn connect(&self) -> Result<Cluster> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &self.kubeconfig {
            Some(file) => {
                let name = || format!("kubeconfig {}", file.display());
                let read = Kubeconfig::read_from(file).with_context(name)?;
                Config::from_custom_kubeconfig(read, &options).await.with_context(name)?
            }
            None if self.context.is_some() => Config::from_kubeconfig(&options).await.context("the kubeconfig")?,
            None => Config::infer()
                .await
                .map_err(|_| anyhow!("no cluster is known: name one with --kubeconfig FILE or KUBECONFIG, or run inside it"))?,
        };
        (config.connect_timeout, config.read_timeout) = (Some(CONNECT), Some(READ));
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).with_context(|| format!("the kubeconfig of {server}"))?;
        Ok(Cluster { client, namespace: self.mesh_namespace.clone(), server })
    }
}

impl Cluster {
    /// Objects of a kind in every namespace, or without one.
    pub(crate) fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Objects of a kind in the mesh's namespace.
    pub(crate) fn own<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        self.of(&self.namespace)
    }

    pub(crate) fn of<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The API server's address.
    pub(crate) fn server(&self) -> &str {
        self.server.trim_end_matches('/')
    }

    /// What went wrong, in words for people.
    pub(crate) fn told(&self, error: kube::Error) -> anyhow::Error {
        match error {
            kube::Error::Api(status) if status.code == 401 => {
                anyhow!("{} does not know who you are: has the kubeconfig's certificate or token expired?", self.server)
            }
            kube::Error::Api(status) => anyhow!("{}", status.message),
            kube::Error::Service(error) => {
                let mut cause: &dyn std::error::Error = &*error;
                while let Some(deeper) = cause.source() {
                    cause = deeper;
                }
                anyhow!("no answer from {}: {cause}", self.server)
            }
            other => other.into(),
        }
    }
}

/// Whether the API server says that there is no such thing.
pub(super) fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
