//! kubectl, built for the cluster, asking its API.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};
use harness::in_netns;
use serde::de::DeserializeOwned;

use super::{interrupt, programs::Programs, state::Cluster};

/// How kubectl reaches a cluster.
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    /// The namespace of the control plane; none for the machine's own.
    netns: Option<PathBuf>,
}

impl Kubectl {
    /// In the control plane's namespace, also before there is a door.
    pub(super) fn inside(cluster: &Cluster, programs: &Programs) -> Result<Self> {
        let netns = Some(cluster.control.netns.clone());
        Ok(Self { program: programs.path("kubectl")?, kubeconfig: cluster.control.kubeconfig.clone(), netns })
    }

    /// As any user on this machine.
    pub(crate) fn of(cluster: &Cluster) -> Result<Self> {
        let files = cluster.programs.iter().map(|folder| folder.join("kubectl"));
        let program = files.into_iter().find(|file| file.exists());
        let program = program.context("kubectl has gone from the cache: bring the cluster up again")?;
        Ok(Self { program, kubeconfig: cluster.kubeconfig.clone(), netns: None })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command
    }

    /// What it prints, trimmed.
    pub(crate) fn output(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(arguments);
        match &self.netns {
            Some(netns) => in_netns(netns, || interrupt::output(&mut command))?,
            None => interrupt::output(&mut command),
        }
    }

    /// What it prints with `-o json`.
    pub(crate) fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let text = self.output(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {} -o json printed something else", arguments.join(" ")))
    }

    /// Applies manifests, YAML or JSON.
    pub(crate) fn apply(&self, manifests: &str) -> Result<()> {
        let mut command = self.command(&["apply", "--server-side", "--force-conflicts", "-f", "-"]);
        match &self.netns {
            Some(netns) => in_netns(netns, || interrupt::output_of(&mut command, manifests.as_bytes()))?,
            None => interrupt::output_of(&mut command, manifests.as_bytes()),
        }
        .map(drop)
    }
}
