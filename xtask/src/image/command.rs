//! The command line of `cargo xtask image`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::{
    build::{self, Profile},
    programs::{self, Ours},
};
use crate::{
    cluster::{self, Cluster, ClusterName},
    report, workspace,
};

/// Write container images of our programs, and give them to the nodes of a test cluster
///
/// No container engine is used. The files are OCI image layouts as tar files: `ctr images import`, `docker load`, `podman load` and
/// `kind load image-archive` read them.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these programs: mesh-node, mesh-controller, meshctl, shop
    #[arg(value_name = "PROGRAM")]
    programs: Vec<String>,
    /// Import them on every node of a running test cluster
    #[arg(long)]
    load: bool,
    /// Which cluster; the only one if absent
    #[arg(long, requires = "load")]
    name: Option<ClusterName>,
    /// Where to write NAME.tar; <target>/image/tar if absent
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// The images' tag
    #[arg(long, default_value = TAG)]
    tag: String,
    /// How the programs are built
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
}

/// The images' tag where nobody says another: the version of the workspace.
pub(crate) const TAG: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = workspace::root()?;
    let wanted = wanted(&arguments.programs)?;
    // Before minutes of compiling: whether there is a cluster.
    let cluster = if arguments.load { Some(Cluster::find(arguments.name.as_ref())?) } else { None };
    let folder = arguments.out.clone().unwrap_or_else(|| workspace::target(&root).join("image/tar"));
    let images = report::step("images", || write(&root, &wanted, arguments.profile, &arguments.tag, &folder))?;
    if let Some(cluster) = cluster {
        report::step("load", || load(&cluster, &images))?;
    }
    Ok(())
}

fn wanted(names: &[String]) -> Result<Vec<&'static Ours>> {
    let all = programs::ours();
    let known = || all.iter().map(|program| program.name).collect::<Vec<_>>().join(", ");
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|program| program.name != **name)) {
        bail!("there is no image of {unknown}; there are {}", known());
    }
    Ok(all.iter().filter(|program| names.is_empty() || names.iter().any(|name| name == program.name)).collect())
}

/// Builds the programs and writes their images; their files.
pub(crate) fn write(root: &Path, wanted: &[&Ours], profile: Profile, tag: &str, to: &Path) -> Result<Vec<PathBuf>> {
    let programs = report::waiting("building programs without libraries", || build::build(root, wanted, profile))?;
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    let mut files = Vec::new();
    for program in wanted {
        let image = program.image(&programs, tag)?;
        let file = to.join(format!("{}.tar", program.name));
        let digest = image.write(&file)?;
        report::note(format_args!("{}  {}  {} MB", image.name, &digest[..19], fs::metadata(&file)?.len() / 1_000_000));
        files.push(file);
    }
    Ok(files)
}

/// Imports images on every node.
pub(crate) fn load(cluster: &Cluster, images: &[PathBuf]) -> Result<()> {
    for node in &cluster.nodes {
        for image in images {
            cluster::import(node, image)?;
        }
        report::note(format_args!("{}: {} images", node.name, images.len()));
    }
    Ok(())
}
