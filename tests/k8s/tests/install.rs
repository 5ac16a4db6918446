//! Installation: what is installed is sound, to repeat it changes nothing, and after removal the cluster is as it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use k8s_tests::{Cluster, Shop};
use serde_json::Value;

const INSTALL: &[&str] = &["install", "--wait", "--image-pull-policy", "Never"];

#[test]
fn everything_is_well_after_installation() -> Result<()> {
    let cluster = Cluster::find()?;
    let output = cluster.meshctl(&["check", "-o", "json"])?;
    let findings: Vec<Value> =
        serde_json::from_slice(&output.stdout).context(String::from_utf8_lossy(&output.stderr).into_owned())?;
    let bad: Vec<_> = findings.iter().filter(|finding| finding["verdict"] == "bad").collect();
    ensure!(bad.is_empty() && output.status.success(), "{bad:#?}");
    let looked_at: BTreeSet<_> = findings.iter().filter_map(|finding| finding["what"].as_str()).collect();
    for what in ["API server", "controller", "node proxies", "webhook", "rights", "Istio's kinds", "node node-1", "node node-2"] {
        ensure!(looked_at.contains(what), "nobody looked at {what}: {looked_at:?}");
    }
    Ok(())
}

#[test]
fn the_api_server_takes_the_rendered_manifests() -> Result<()> {
    let cluster = Cluster::find()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for manifests in ["deploy/helm/keelson/crds", "deploy/manifests/keelson.yaml"] {
        let path = root.join(manifests);
        let path = path.to_str().context("a plain name")?;
        cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", path])?;
    }
    Ok(())
}

#[test]
fn to_install_again_changes_nothing() -> Result<()> {
    let cluster = Cluster::find()?;
    let generations = || -> Result<BTreeMap<String, Value>> {
        let objects: Value = cluster.json(&["get", "deployments,daemonsets", "--namespace=keelson-system"])?;
        let objects = objects["items"].as_array().cloned().unwrap_or_default();
        Ok(objects
            .into_iter()
            .map(|object| (object["metadata"]["name"].to_string(), object["metadata"]["generation"].clone()))
            .collect())
    };
    let before = generations()?;
    cluster.meshctl_text(INSTALL)?;
    ensure!(before.len() == 2 && generations()? == before, "{before:?} became {:?}", generations()?);
    Ok(())
}

/// Runs last: afterwards there is no mesh.
#[test]
fn uninstall_leaves_the_cluster_as_it_was() -> Result<()> {
    let cluster = Cluster::find()?;
    cluster.meshctl_text(&["uninstall", "--definitions"])?;
    let before = everything(&cluster)?;
    let ours: Vec<_> = before.iter().filter(|line| line.contains("keelson") || line.contains("istio")).collect();
    ensure!(ours.is_empty(), "left behind: {ours:#?}");

    cluster.meshctl_text(INSTALL)?;
    {
        let shop = Shop::deploy(&cluster, Some("ambient"))?;
        let asked = shop.ask("http://page:9080/", 5)?;
        ensure!(asked.iter().all(k8s_tests::Asked::is_ok), "{asked:?}");
    }
    cluster.kubectl(&["wait", "--for=delete", "namespace/shop", "--timeout=120s"])?;
    cluster.meshctl_text(&["uninstall", "--definitions"])?;
    let after = everything(&cluster)?;
    let (more, less): (Vec<_>, Vec<_>) = (after.difference(&before).collect(), before.difference(&after).collect());
    ensure!(more.is_empty() && less.is_empty(), "more than before: {more:#?}\nless than before: {less:#?}");
    Ok(())
}

/// Every object by kind and name, and what the mesh touches on nodes by content.
fn everything(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list", "-o", "name"])?;
    // What others write all the time.
    let passing = ["events", "events.events.k8s.io", "leases.coordination.k8s.io", "endpoints"];
    for kind in kinds.lines().filter(|kind| !passing.contains(kind)) {
        let named: Value = cluster.json(&["get", kind, "--all-namespaces"])?;
        for object in named["items"].as_array().into_iter().flatten() {
            let metadata = &object["metadata"];
            found.insert(format!("{kind} {} {}", metadata["namespace"], metadata["name"]));
        }
    }
    for node in cluster.nodes() {
        let script = "for f in /etc/cni/net.d/* /opt/cni/bin/*; do [ -e \"$f\" ] && sha256sum \"$f\"; done; \
                      find /run/keelson /var/lib/keelson/node /sys/fs/bpf -mindepth 1 2>/dev/null; true";
        let text = node.output("sh", &["-c", script])?;
        found.extend(text.lines().map(|line| format!("{}: {line}", node.name)));
    }
    Ok(found)
}
