//! `cargo xtask kind`: our programs on a cluster of kind, for machines that have a container engine. CI does not run it.

use std::process::Command;

use anyhow::{Result, ensure};
use clap::Subcommand;

use crate::{
    image::{self, Profile},
    report, workspace,
};

/// Run a cluster of kind and give it our images; needs kind, and Docker or Podman
///
/// `cargo xtask cluster` is the same without either.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    /// What to call the cluster
    #[arg(long, default_value = "keelson", global = true)]
    name: String,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a cluster as deploy/kind/cluster.yaml has it, and load our images
    Up,
    /// Build our images again and load them
    Load,
    /// End the cluster
    Down,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        workspace::on_path("kind"),
        "kind is not on the path: see https://kind.sigs.k8s.io, or use `cargo xtask cluster`, which needs no container engine"
    );
    let name = &arguments.name;
    match arguments.verb {
        Verb::Up => {
            let file = workspace::root()?.join("deploy/kind/cluster.yaml");
            report::step("cluster", || {
                workspace::run(kind(["create", "cluster"], name).args(["--wait", "3m", "--config"]).arg(file))
            })?;
            load(name)
        }
        Verb::Load => load(name),
        Verb::Down => report::step("down", || workspace::run(&mut kind(["delete", "cluster"], name))),
    }
}

fn load(name: &str) -> Result<()> {
    let root = workspace::root()?;
    let folder = workspace::target(&root).join("image/tar");
    let all: Vec<_> = image::ours().iter().collect();
    let images = report::step("images", || image::write(&root, &all, Profile::Dev, image::TAG, &folder))?;
    report::step("load", || images.iter().try_for_each(|file| workspace::run(kind(["load", "image-archive"], name).arg(file))))
}

fn kind(verb: [&str; 2], name: &str) -> Command {
    let mut command = Command::new("kind");
    command.args(verb).args(["--name", name]);
    command
}
