//! The tests that need a real Kubernetes: a cluster is brought up, given our images and the mesh, and taken down.

use std::{env, ffi::OsString, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use super::interrupt;
use crate::{manifests, report, tools, workspace};

/// The cluster's name.
const NAME: &str = "e2e";

/// Everything; the cluster goes whatever comes of the tests.
pub(super) fn run(root: &Path, arguments: &[OsString]) -> Result<()> {
    report::step("helm", || {
        let helm = manifests::helm(root)?;
        manifests::check(root, &helm)?;
        manifests::lint(root, &helm)
    })?;
    report::step("cluster without a mesh", || xtask(&["cluster", "smoke"]))?;
    let tried = try_it(root, arguments);
    report::step("cluster down", || xtask(&["cluster", "down", "--name", NAME]))?;
    tried
}

fn try_it(root: &Path, arguments: &[OsString]) -> Result<()> {
    report::step("programs", || {
        workspace::run(workspace::cargo().current_dir(root).args(["build", "--workspace", "--locked", "--bins"]))
    })?;
    report::step("cluster", || xtask(&["cluster", "up", "--name", NAME]))?;
    report::step("images", || xtask(&["image", "--profile", "dev", "--load", "--name", NAME]))?;
    let meshctl = workspace::target(root).join("debug/meshctl");
    let nextest = |profile: &str| {
        let mut nextest = Command::new(tools::find(&tools::NEXTEST)?);
        nextest.current_dir(root).args(["nextest", "run", "--workspace", "--locked", "--profile", profile]);
        nextest.env("KEELSON_CLUSTER", format!("/run/keelson/cluster/{NAME}/cluster.json")).env("KEELSON_MESHCTL", &meshctl);
        if !interrupt::run(nextest.args(arguments))?.success() {
            bail!("tests on Kubernetes failed (profile {profile})");
        }
        Ok(())
    };
    report::step("tests of controllers beside the cluster", || nextest("k8s-bare"))?;
    let kubeconfig = format!("/run/keelson/cluster/{NAME}/kubeconfig");
    report::step("mesh", || {
        let mut command = Command::new(&meshctl);
        command.args(["--kubeconfig", &kubeconfig, "install", "--wait", "--image-pull-policy", "Never"]);
        workspace::run(&mut command)
    })?;
    report::step("tests of the mesh in the cluster", || nextest("k8s"))
}

/// In a process of its own: it watches for Ctrl-C in its own way.
fn xtask(arguments: &[&str]) -> Result<()> {
    workspace::run(Command::new(env::current_exe().context("this program has a file")?).args(arguments))
}
