//! What a lab is made from.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{self, Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// What [`crate::Lab::up`] needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabOptions {
    /// The folder of Kubernetes YAML. It is used in place and gets a `.status` folder while the lab is up.
    pub folder: PathBuf,
    /// Names the lab on this machine, 1 to 12 small letters and digits; random if absent.
    pub id: Option<String>,
    /// Where the programs are.
    pub binaries: Binaries,
    /// Whether controller and node proxies run and pods are enrolled. Without, the lab is a plain network.
    pub mesh: bool,
    /// Where logs go. If absent, a folder that goes with the lab.
    pub log_dir: Option<PathBuf>,
    /// Added to the environment of every program of the mesh and every container (`RUST_LOG`, for instance).
    pub environment: BTreeMap<String, String>,
    /// Further arguments of the controller.
    #[serde(default)]
    pub controller_arguments: Vec<String>,
    /// Further arguments of every node proxy.
    #[serde(default)]
    pub node_arguments: Vec<String>,
    /// How long the lab may take to come up, each pod to be ready included.
    pub deadline: Duration,
}

impl LabOptions {
    /// A meshed lab of `folder` with the programs beside the current one.
    pub fn new(folder: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self {
            folder: folder.into(),
            id: None,
            binaries: Binaries::beside_current()?,
            mesh: true,
            log_dir: None,
            environment: BTreeMap::new(),
            controller_arguments: Vec::new(),
            node_arguments: Vec::new(),
            deadline: Duration::from_mins(1),
        })
    }

    /// The programs of the lab run in other directories than the caller.
    pub(crate) fn with_whole_paths(mut self) -> Result<Self> {
        self.binaries.folder = path::absolute(&self.binaries.folder)?;
        self.log_dir = self.log_dir.map(path::absolute).transpose()?;
        Ok(self)
    }

    /// The same without a mesh: no controller, no node proxies, nothing enrolled.
    pub fn plain(folder: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self { mesh: false, ..Self::new(folder)? })
    }
}

/// The folder with our programs: `lab-guard`, `shop`, `mesh-node`, `mesh-controller`, `meshctl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Binaries {
    /// Also the first entry of every container's `PATH`.
    pub folder: PathBuf,
}

impl Binaries {
    /// `KEELSON_BIN_DIR` if set, else where cargo puts what it builds along with the current program.
    pub fn beside_current() -> Result<Self> {
        if let Some(folder) = env::var_os("KEELSON_BIN_DIR") {
            return Ok(Self { folder: folder.into() });
        }
        let program = env::current_exe().context("cannot tell where the current program is")?;
        let mut folder = program.parent().context("a program lies in a folder")?;
        // Test binaries lie in `deps`, one below the programs.
        if folder.ends_with("deps") {
            folder = folder.parent().context("cargo's deps folder lies in a folder")?;
        }
        Ok(Self { folder: folder.to_owned() })
    }

    pub(crate) fn find(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        if !path.is_file() {
            bail!("no program {name} in {}: has `cargo build --workspace` run?", self.folder.display());
        }
        Ok(path)
    }
}

/// A private copy of a folder's YAML, for tests that change it or run beside others; gone when dropped.
pub fn copy_of(folder: &Path) -> Result<TempDir> {
    let copy = tempfile::Builder::new().prefix("keelson-lab-").tempdir().context("no room for a copy")?;
    copy_yaml(folder, copy.path()).with_context(|| format!("cannot copy {}", folder.display()))?;
    Ok(copy)
}

fn copy_yaml(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy_yaml(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
