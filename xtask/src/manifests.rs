//! `cargo xtask manifests`: the Helm chart, rendered with its default values, for those who have no Helm; `meshctl install` brings the
//! same file along.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    cluster::interrupt,
    go::{Go, Module, program},
    report, workspace,
};

const HELM: Module = Module {
    folder: "tests/cluster/tools/helm",
    project: Some("helm.sh/helm/v3"),
    programs: &[program("helm", "helm.sh/helm/v3/cmd/helm")],
    stamps: |version| vec![format!("helm.sh/helm/v3/internal/version.version={version}")],
};

const CHART: &str = "deploy/helm/keelson";
const RENDERED: &str = "deploy/manifests/keelson.yaml";
const NAMESPACE: &str = "keelson-system";

/// What stands above the rendered objects: Helm makes the namespace by an option, and where pods' privileges are limited it has to say
/// that these may have them.
const HEAD: &str = "\
# Rendered from deploy/helm/keelson with its default values by `cargo xtask manifests`. The definitions of Istio's kinds are in
# deploy/helm/keelson/crds: apply them first where the cluster has none.
---
apiVersion: v1
kind: Namespace
metadata:
  name: keelson-system
  labels:
    app.kubernetes.io/part-of: keelson
    istio.io/dataplane-mode: none
    pod-security.kubernetes.io/enforce: privileged
";

/// Render the Helm chart with its default values to deploy/manifests
///
/// Helm is built from its Go module where the cache has none, which takes some minutes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Change nothing: fail when the file is not what the chart gives
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = workspace::root()?;
    if arguments.check { check(&root, &helm(&root)?) } else { write(&root) }
}

/// The path of Helm in the cache; builds it when it is not there.
pub(crate) fn helm(root: &Path) -> Result<PathBuf> {
    Ok(HELM.built(root, &Go::find()?)?.join("helm"))
}

/// Whether Helm would have to be built.
pub(crate) fn helm_if_cached(root: &Path) -> Result<Option<PathBuf>> {
    HELM.cached(root, &Go::find()?).map(|folder| folder.map(|folder| folder.join("helm")))
}

fn write(root: &Path) -> Result<()> {
    let text = render(root, &helm(root)?)?;
    workspace::write_atomically(&root.join(RENDERED), text.as_bytes())?;
    report::note(format_args!("{RENDERED}: {} lines", text.lines().count()));
    Ok(())
}

/// Fails when the checked-in manifests are not what the chart gives.
pub(crate) fn check(root: &Path, helm: &Path) -> Result<()> {
    let rendered = render(root, helm)?;
    let checked_in = fs::read_to_string(root.join(RENDERED)).with_context(|| format!("read {RENDERED}"))?;
    ensure!(rendered == checked_in, "{RENDERED} is not what the chart gives: run `cargo xtask manifests` and commit the result");
    Ok(())
}

/// The chart's own rules, its schema, and values that it must refuse.
pub(crate) fn lint(root: &Path, helm: &Path) -> Result<()> {
    let chart = root.join(CHART);
    interrupt::output(Command::new(helm).args(["lint", "--strict"]).arg(&chart))?;
    for (values, good) in [
        (
            &[
                "--set",
                "controller.replicas=2",
                "--set",
                "gateway.waypointClass=true",
                "--set",
                "meshConfig.accessLogFile=/dev/stdout",
            ][..],
            true,
        ),
        (&["--set", "webhook.enabled=false", "--set", "node.workers=4", "--set", "node.otlp=http://c:4317"], true),
        (&["--set", "image.pullSecrets={a,b}", "--set", "node.cni.exemptNamespaces={x,y}"], true),
        (&["--set", "controller.replica=2"], false),
        (&["--set", "node.drain=soon"], false),
        (&["--set", "webhook.failurePolicy=Maybe"], false),
    ] {
        let rendered = template(helm, &chart, values);
        ensure!(
            rendered.is_ok() == good,
            "helm template {}: {}",
            values.join(" "),
            match rendered {
                Ok(_) => "should have been refused".to_owned(),
                Err(error) => format!("{error:#}"),
            }
        );
    }
    Ok(())
}

fn render(root: &Path, helm: &Path) -> Result<String> {
    let rendered = template(helm, &root.join(CHART), &[])?;
    Ok(format!("{HEAD}{}\n", rendered.trim_end()))
}

fn template(helm: &Path, chart: &Path, values: &[&str]) -> Result<String> {
    let mut command = Command::new(helm);
    command.args(["template", "keelson"]).arg(chart).args(["--namespace", NAMESPACE, "--kube-version", "1.35.0"]).args(values);
    interrupt::output(&mut command)
}
