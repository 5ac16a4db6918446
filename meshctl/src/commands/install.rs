//! `meshctl install`, `upgrade` and `uninstall`: the mesh in a cluster.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use serde_json::{Value, json};

use crate::{
    Outcome,
    install::{Bundle, MeshConfigValue, Removal, Setting, await_ready, gateway_api, install_definitions, is_ours, ours, remove},
    k8s::{Cluster, ClusterArgs, Object, exists},
    output::Printer,
};

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// Registry and path of the images
    #[arg(long, value_name = "HUB")]
    image_hub: Option<String>,

    /// The images' tag [default: this program's version]
    #[arg(long, value_name = "TAG")]
    image_tag: Option<String>,

    /// When nodes fetch the images: Always, IfNotPresent or Never
    #[arg(long, value_name = "POLICY")]
    image_pull_policy: Option<String>,

    /// A value of the Helm chart, such as controller.replicas=2 or meshConfig.accessLogFile=/dev/stdout; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,

    /// Change nothing, and print what would be applied (with -o yaml as manifests)
    #[arg(long)]
    dry_run: bool,

    /// Leave definitions of kinds alone, also those that are missing
    #[arg(long)]
    skip_definitions: bool,

    /// Return when everything is ready, or say why it is not
    #[arg(long)]
    wait: bool,

    /// How long --wait waits, such as 90s or 5m
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = patience)]
    timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    /// Remove the definitions that meshctl installed even if there are objects of their kinds: those go too
    #[arg(long)]
    definitions: bool,

    /// Go on when nodes can not be cleaned
    #[arg(long)]
    despite_nodes: bool,

    /// How long each step may take, such as 90s or 5m
    #[arg(long, value_name = "TIME", default_value = "3m", value_parser = patience)]
    timeout: Duration,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE, such as controller.replicas=2")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn patience(text: &str) -> Result<Duration, String> {
    mesh_config::kinds::Span::parse(text).map(|span| span.0).ok_or_else(|| "a duration, such as 90s or 5m".to_owned())
}

pub(crate) async fn install(arguments: InstallArgs, cluster: &ClusterArgs, printer: &Printer) -> Result<Outcome> {
    let dry_run = arguments.dry_run;
    let (bundle, arguments) = bundle(arguments, cluster.mesh_namespace())?;
    if dry_run {
        return print(&bundle, &arguments, printer);
    }
    let cluster = cluster.connect().await?;
    apply(&cluster, &bundle, &arguments, printer).await
}

/// Like [`install`], where there is something to change.
pub(crate) async fn upgrade(arguments: InstallArgs, cluster: &ClusterArgs, printer: &Printer) -> Result<Outcome> {
    if !arguments.dry_run {
        let connected = cluster.connect().await?;
        let sets: Api<DaemonSet> = connected.own();
        if !exists(&sets, &connected, "keelson-node").await? {
            bail!("nothing is installed in namespace {}: `meshctl install` does that", connected.namespace);
        }
    }
    install(arguments, cluster, printer).await
}

/// The manifests with everything set that the command line says.
fn bundle(arguments: InstallArgs, namespace: &str) -> Result<(Bundle, InstallArgs)> {
    let mut bundle = Bundle::new(namespace)?;
    let mut mesh_config = MeshConfigValue::default();
    for (key, value) in &arguments.set {
        if !mesh_config.take(key, value)? {
            Setting::apply(&mut bundle, key, value)?;
        }
    }
    mesh_config.add_to(&mut bundle)?;
    let policy = arguments.image_pull_policy.as_deref();
    if let Some(policy) = policy {
        Setting::apply(&mut bundle, "image.pullPolicy", policy)?;
    }
    bundle.set_image(arguments.image_hub.as_deref(), arguments.image_tag.as_deref(), policy)?;
    Ok((bundle, arguments))
}

fn print(bundle: &Bundle, arguments: &InstallArgs, printer: &Printer) -> Result<Outcome> {
    let definitions = if arguments.skip_definitions { Vec::new() } else { ours()? };
    let values: Vec<Value> = definitions.into_iter().chain(bundle.objects()?).map(|object| object.value).collect();
    printer.documents(&values)?;
    Ok(Outcome::Complete)
}

async fn apply(cluster: &Cluster, bundle: &Bundle, arguments: &InstallArgs, printer: &Printer) -> Result<Outcome> {
    let version = cluster.client.apiserver_version().await.map_err(|error| cluster.told(error))?;
    printer.note(&format!("Kubernetes {} at {}", version.git_version, cluster.server()));
    let minor: u32 = version.minor.trim_end_matches('+').parse().unwrap_or(u32::MAX);
    if version.major == "1" && minor < 32 {
        bail!("Kubernetes 1.32 is needed: before it, a node's token does not say on which node it was given");
    }
    if !arguments.skip_definitions {
        install_definitions(cluster, printer).await?;
    }
    let gateway = gateway_api(cluster).await?;
    if !gateway.missing.is_empty() {
        printer.warn(&format!(
            "the Gateway API's definitions are missing ({}): HTTPRoutes and the like can not be written. Install them from \
             https://github.com/kubernetes-sigs/gateway-api/releases whenever you want; nothing has to be restarted then",
            gateway.missing.join(", ")
        ));
    }
    let objects = bundle.objects()?;
    let mut told = Vec::new();
    for object in &objects {
        if may_be_applied(object, cluster, printer).await? {
            object.apply(cluster).await?;
            told.push(object.told());
        }
    }
    printer.note(&format!("{} objects are in place, in namespace {}", told.len(), cluster.namespace));
    if arguments.wait {
        await_ready(cluster, arguments.timeout, printer).await.context("the installation does not work")?;
    }
    let state = if arguments.wait { "is installed and ready" } else { "is installed; `meshctl check` says whether it works" };
    printer
        .done(&format!("Keelson {} {state}", env!("CARGO_PKG_VERSION")), &json!({ "applied": told, "ready": arguments.wait }))?;
    Ok(Outcome::Complete)
}

/// What others made is not taken over: a namespace serves as it is, mesh-wide settings are theirs to change.
async fn may_be_applied(object: &Object, cluster: &Cluster, printer: &Printer) -> Result<bool> {
    let shared = object.kind == "Namespace" || object.kind == "ConfigMap";
    if !shared || is_ours(object, cluster).await? || object.get(cluster).await?.is_none() {
        return Ok(true);
    }
    if object.kind == "ConfigMap" {
        bail!(
            "{} is there already, and meshctl did not make it: write the settings there, without --set meshConfig",
            object.told()
        );
    }
    printer.note(&format!("namespace {} is there already and is left as it is", object.name));
    Ok(false)
}

pub(crate) async fn uninstall(arguments: UninstallArgs, cluster: &ClusterArgs, printer: &Printer) -> Result<Outcome> {
    let cluster = cluster.connect().await?;
    let UninstallArgs { definitions, despite_nodes, timeout } = arguments;
    remove(&cluster, Removal { definitions, despite_nodes, patience: timeout }, printer).await?;
    printer.done("Keelson is gone", &json!({ "uninstalled": true }))?;
    Ok(Outcome::Complete)
}
