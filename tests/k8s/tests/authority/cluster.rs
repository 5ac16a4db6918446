//! The cluster that tests are run against.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Output},
};

use anyhow::{Context, Result};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use nix::{
    fcntl::{Flock, FlockArg},
    sched::{CloneFlags, setns},
};
use serde::Deserialize;

/// A cluster of `cargo xtask cluster`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Cluster {
    /// Its description.
    #[serde(skip)]
    file: PathBuf,
    pub(crate) control: Control,
    /// Folders of programs: kubectl is in one of them.
    pub(crate) programs: Vec<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Control {
    pub(crate) netns: PathBuf,
    pub(crate) address: Dual,
    pub(crate) kubeconfig: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Dual {
    pub(crate) v4: String,
}

/// Held while a test has the cluster for itself: what is written into every namespace cannot be shared.
pub(crate) struct Exclusive(#[expect(dead_code, reason = "held until it is dropped")] Flock<File>);

impl Cluster {
    /// The cluster whose description `KEELSON_CLUSTER` names.
    pub(crate) fn find() -> Result<Self> {
        let file = std::env::var("KEELSON_CLUSTER").context("KEELSON_CLUSTER is not set: run `cargo xtask test --k8s`")?;
        let text = fs::read(&file).with_context(|| format!("no cluster: {file} is not there"))?;
        let mut cluster: Self = serde_json::from_slice(&text).with_context(|| format!("{file} is not understood"))?;
        cluster.file = file.into();
        Ok(cluster)
    }

    /// Waits until no other test has the cluster.
    pub(crate) fn alone(&self) -> Result<Exclusive> {
        let path = self.file.with_extension("lock");
        let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).context("lock the cluster")?;
        Ok(Exclusive(lock))
    }

    /// Moves this thread into the network of the control plane; threads and programs that it starts are there too.
    pub(crate) fn enter(&self) -> Result<()> {
        let netns = File::open(&self.control.netns).with_context(|| format!("open {}", self.control.netns.display()))?;
        setns(netns, CloneFlags::CLONE_NEWNET).context("enter the control plane's network (this needs root)")
    }

    /// A client with every right, from within the control plane's network.
    pub(crate) async fn client(&self) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(&self.control.kubeconfig)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// Runs kubectl with `input`, from within the control plane's network.
    pub(crate) fn kubectl(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let program = self.programs.iter().map(|folder| folder.join("kubectl")).find(|program| program.is_file());
        let file = tempfile_with(input)?;
        let mut command = Command::new(program.context("the cluster has no kubectl")?);
        command.arg("--kubeconfig").arg(&self.control.kubeconfig).args(arguments).stdin(file);
        command.output().context("run kubectl")
    }
}

/// An unnamed file that is read from its start.
fn tempfile_with(text: &str) -> Result<File> {
    use std::io::{Seek, Write};
    let path = std::env::temp_dir().join(format!("k8s-tests-{}-{:?}", std::process::id(), std::thread::current().id()));
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    fs::remove_file(&path)?;
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}
