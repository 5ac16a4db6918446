//! `cargo xtask cluster smoke`: the cluster itself is tried, with the sample shop and no mesh.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::{
    down, interrupt,
    kubectl::Kubectl,
    layout::{ClusterName, Layout},
    state::{Cluster, Phase},
    up,
};
use crate::{
    image::{self, Profile},
    report, workspace,
};

/// For the shop's pods.
const PATIENCE: Duration = Duration::from_mins(3);

/// Brings a cluster up, tries it and takes it down; an error when something fails or is left behind.
pub(super) fn run(name: &ClusterName, keep: bool) -> Result<()> {
    let root = workspace::root()?;
    let layout = Layout::new(name.clone());
    let taken = Cluster::load(&layout)?.is_some_and(|cluster| cluster.phase == Phase::Up);
    ensure!(!taken, "cluster {name} is up, and what smoke tries it takes down: choose another --name");
    let tar = workspace::target(&root).join("image/tar");
    let shop: Vec<_> = image::ours().iter().filter(|program| program.name == "shop").collect();
    let images = report::step("image", || image::write(&root, &shop, Profile::Dev, image::TAG, &tar))?;
    let cluster = up::up(name, 2)?;
    let tried = try_it(&root, &cluster, &images);
    if keep {
        report::note(format_args!("the cluster stays: KUBECONFIG={}", cluster.kubeconfig.display()));
        return tried;
    }
    // Whatever came before, an interruption too.
    interrupt::forget();
    report::step("clean up", || {
        down::remove(&layout)?;
        let left = down::leftovers(&layout)?;
        ensure!(left.is_empty(), "left behind: {}", left.join(", "));
        Ok(())
    })?;
    tried
}

fn try_it(root: &Path, cluster: &Cluster, images: &[std::path::PathBuf]) -> Result<()> {
    let kubectl = Kubectl::of(cluster)?;
    report::step("load", || image::load(cluster, images))?;
    report::step("shop", || {
        let objects = manifests(&kubectl, &root.join("samples/shop/manifests"))?;
        kubectl.apply(&serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string())?;
        let waited = interrupt::wait_until("ready pods", PATIENCE, || Ok(()), || all_ready(&kubectl, cluster));
        waited.with_context(|| kubectl.output(&["get", "pods,events", "--all-namespaces"]).unwrap_or_default())
    })?;
    report::step("requests between nodes, by name and by both families", || {
        // The client is on the first node, ratings on the second, and page asks both.
        for url in ["http://page:9080/", "http://ratings.shop.svc.cluster.local:9080/whoami", "http://[fd96::13]:9080/whoami"] {
            ask(&kubectl, url)?;
        }
        Ok(())
    })?;
    report::step("tokens, logs and the end of a pod", || {
        let token = kubectl.output(&["create", "token", "shop-page", "--namespace=shop", "--audience=keelson"])?;
        ensure!(token.split('.').count() == 3, "the API server made no token");
        kubectl.output(&["logs", "--namespace=shop", "page"])?;
        kubectl.output(&["delete", "pod", "--namespace=shop", "page", "--timeout=60s"]).map(drop)
    })
}

/// What the shop's client says of one request.
#[derive(Deserialize)]
struct Asked {
    outcome: String,
    status: Option<u16>,
    latency_us: Option<u64>,
}

/// Asks from the client's pod; every request has to be answered well.
fn ask(kubectl: &Kubectl, url: &str) -> Result<()> {
    const COUNT: &str = "20";
    let client = ["exec", "--namespace=shop", "client", "--", "shop", "client", "http", url, "--count", COUNT, "-o", "json"];
    let text = kubectl.output(&client)?;
    let asked: Vec<Asked> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>().context(text.clone())?;
    let good = asked.iter().filter(|asked| asked.outcome == "ok" && asked.status == Some(200)).count();
    ensure!(good.to_string() == COUNT, "{good} of {COUNT} requests to {url} were answered well:\n{text}");
    let slowest = asked.iter().filter_map(|asked| asked.latency_us).max().unwrap_or_default();
    report::note(format_args!("{url}: {good} answers, the slowest after {slowest} µs"));
    Ok(())
}

/// The shop's manifests as objects, each container with our image.
fn manifests(kubectl: &Kubectl, folder: &Path) -> Result<Vec<Value>> {
    // Only read, by the program that would read them on any cluster.
    let folder = folder.to_str().context("the samples' folder has a plain name")?;
    let text = kubectl.output(&["create", "--dry-run=client", "--validate=ignore", "--output=json", "--filename", folder])?;
    let mut objects = Vec::new();
    for object in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
        let object = object.context("kubectl printed something else than JSON")?;
        match object["items"].as_array() {
            Some(items) => objects.extend(items.iter().cloned()),
            None => objects.push(object),
        }
    }
    // Namespaces and accounts before what is in them, whatever the files are called.
    objects.sort_by_key(|object| match object["kind"].as_str() {
        Some("Namespace") => 0,
        Some("ServiceAccount") => 1,
        _ => 2,
    });
    let name = image::reference("shop", image::TAG);
    for object in objects.iter_mut().filter(|object| object["kind"] == "Pod") {
        let containers = object["spec"]["containers"].as_array_mut().context("a pod has containers")?;
        for container in containers {
            container["image"] = Value::String(name.clone());
            container["imagePullPolicy"] = Value::String("Never".to_owned());
        }
    }
    Ok(objects)
}

#[derive(Deserialize)]
struct Pods {
    items: Vec<Value>,
}

/// Whether every pod is ready, and every node has one.
fn all_ready(kubectl: &Kubectl, cluster: &Cluster) -> Result<bool> {
    let pods: Pods = kubectl.json(&["get", "pods", "--all-namespaces"])?;
    let ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    let nodes: BTreeSet<&str> = pods.items.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    Ok(pods.items.iter().all(ready) && nodes.len() == cluster.nodes.len())
}
