//! The sample shop on the cluster, as its manifests have it: pods pinned to two nodes.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Cluster;

/// The image, as `cargo xtask image --load` gave it to the nodes.
const IMAGE: &str = concat!("keelson.test/shop:", env!("CARGO_PKG_VERSION"));

/// The shop in its namespace, which goes with this value.
#[derive(Debug)]
pub struct Shop<'a> {
    cluster: &'a Cluster,
}

/// What the shop's client says of one request.
#[derive(Clone, Debug, Deserialize)]
pub struct Asked {
    pub outcome: String,
    pub status: Option<u16>,
    pub body: Option<String>,
}

impl Asked {
    pub fn is_ok(&self) -> bool {
        self.outcome == "ok" && self.status == Some(200)
    }
}

impl<'a> Shop<'a> {
    /// Deploys it and waits until its pods are ready; with a mode, its namespace has that label.
    pub fn deploy(cluster: &'a Cluster, mode: Option<&str>) -> Result<Self> {
        let shop = Self { cluster };
        cluster.kubectl(&["delete", "namespace", "shop", "--ignore-not-found", "--timeout=120s"])?;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/shop/manifests");
        let mut objects = objects(cluster, folder.to_str().context("the samples' folder has a plain name")?)?;
        for object in &mut objects {
            if object["kind"] == "Namespace" && object["metadata"]["name"] == "shop" {
                // The lab's manifests may enrol by themselves; here the test says.
                match mode {
                    Some(mode) => object["metadata"]["labels"]["istio.io/dataplane-mode"] = mode.into(),
                    None => drop(
                        object["metadata"]["labels"].as_object_mut().and_then(|labels| labels.remove("istio.io/dataplane-mode")),
                    ),
                }
            }
            for container in object.pointer_mut("/spec/containers").and_then(Value::as_array_mut).into_iter().flatten() {
                container["image"] = IMAGE.into();
                container["imagePullPolicy"] = "Never".into();
            }
        }
        cluster.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string())?;
        cluster.await_pods("shop", mode.is_some_and(|mode| mode != "none"))?;
        Ok(shop)
    }

    /// Asks from the client's pod, which is on the first node, `count` times.
    pub fn ask(&self, url: &str, count: usize) -> Result<Vec<Asked>> {
        self.ask_with(url, count, &[])
    }

    /// The same with further options of `shop client http`.
    pub fn ask_with(&self, url: &str, count: usize, options: &[&str]) -> Result<Vec<Asked>> {
        let count = count.to_string();
        let base = ["exec", "--namespace=shop", "client", "--", "shop", "client", "http", url, "--count", &count, "-o", "json"];
        let output = self.cluster.kubectl_command(&[&base, options].concat()).output()?;
        // The exit status tells the first failure's kind, and so do the lines.
        let text = String::from_utf8_lossy(&output.stdout);
        let asked: Result<Vec<Asked>, _> = text.lines().map(serde_json::from_str).collect();
        asked.with_context(|| format!("the client said: {text}{}", String::from_utf8_lossy(&output.stderr)))
    }
}

impl Drop for Shop<'_> {
    fn drop(&mut self) {
        // The next test makes it anew in any case.
        let _ = self.cluster.kubectl(&["delete", "namespace", "shop", "--wait=false", "--ignore-not-found"]);
    }
}

/// The manifests of a folder as objects, namespaces and accounts first.
fn objects(cluster: &Cluster, folder: &str) -> Result<Vec<Value>> {
    let text = cluster.kubectl(&["create", "--dry-run=client", "--validate=ignore", "--output=json", "--filename", folder])?;
    let mut objects = Vec::new();
    for object in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
        let mut object = object.context("kubectl printed something else than JSON")?;
        match object.get_mut("items").and_then(Value::as_array_mut) {
            Some(items) => objects.append(items),
            None => objects.push(object),
        }
    }
    objects.sort_by_key(|object| match object["kind"].as_str() {
        Some("Namespace") => 0,
        Some("ServiceAccount") => 1,
        _ => 2,
    });
    Ok(objects)
}
