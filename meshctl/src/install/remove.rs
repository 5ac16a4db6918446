//! Takes an installation out of a cluster, with what it put on the nodes.
//!
//! The order matters: first what would judge or repair (webhook, node proxies), then the nodes are cleaned by a DaemonSet that does only
//! that, then the controller goes, and last what it wrote.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use mesh_config::{
    enrolment::{REDIRECTION, REDIRECTION_ENABLED},
    validate::{MESH_CONFIG_NAME, ROOT_NAMESPACE},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    bundle::{Bundle, PART_OF},
    definitions::ours,
    wait::of_daemon_set,
};
use crate::{
    k8s::{Cluster, MANAGER, Object, delete_and_wait, of_pods},
    output::Printer,
};

/// Its pods clean their nodes.
const CLEANER: &str = "keelson-node-uninstall";
/// Written by the controller, in a pod's status.
const CONDITION: &str = "keelson.io/Captured";
const PAUSE: Duration = Duration::from_millis(500);

/// How much is to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Removal {
    /// Definitions of ours go even if there are objects of their kinds, which go with them.
    pub(crate) definitions: bool,
    /// Nodes that can not be cleaned are left as they are.
    pub(crate) despite_nodes: bool,
    /// For each step that waits.
    pub(crate) patience: Duration,
}

/// Removes everything that an installation made.
pub(crate) async fn remove(cluster: &Cluster, removal: Removal, printer: &Printer) -> Result<()> {
    let mut bundle = Bundle::new(&cluster.namespace)?;
    // What settings may have added; that it is missing is no error.
    let (root, settings) = (ROOT_NAMESPACE, MESH_CONFIG_NAME);
    for optional in [
        json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": { "name": "istio-waypoint" } }),
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": root } }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": settings, "namespace": root } }),
    ] {
        bundle.push(optional);
    }
    let mut objects = bundle.objects()?;
    objects.reverse();

    let (first, rest): (Vec<_>, Vec<_>) = objects.into_iter().partition(|object| object.kind == "ValidatingWebhookConfiguration");
    for object in &first {
        object.delete(cluster).await?;
    }
    clean_nodes(cluster, removal, printer).await?;

    let (spaces, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(|object| object.kind == "Namespace");
    let (workloads, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(|object| object.kind == "Deployment");
    for object in &workloads {
        delete_and_wait(object, cluster, removal.patience).await?;
    }
    await_no_pods(cluster, "app.kubernetes.io/name=keelson-controller", removal.patience).await?;
    printer.note("the controller is gone");

    unmark_pods(cluster).await?;
    remove_roots(cluster).await?;
    for object in rest.iter().filter(|object| object.kind != "DaemonSet") {
        if is_ours(object, cluster).await? {
            object.delete(cluster).await?;
        }
    }
    for (api_version, kind, name) in
        [("v1", "Secret", "keelson-ca-secret"), ("coordination.k8s.io/v1", "Lease", "keelson-controller")]
    {
        let metadata = json!({ "name": name, "namespace": cluster.namespace });
        Object::new(json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata }))?.delete(cluster).await?;
    }
    remove_definitions(cluster, removal, printer).await?;
    for space in &spaces {
        if is_ours(space, cluster).await? {
            delete_and_wait(space, cluster, removal.patience).await?;
        } else if space.name == cluster.namespace {
            printer.note(&format!("namespace {} stays: meshctl did not make it", space.name));
        }
    }
    Ok(())
}

/// Whether an object that the cluster has under this name is of an installation; one that it has not is not.
pub(crate) async fn is_ours(object: &Object, cluster: &Cluster) -> Result<bool> {
    let found = object.get(cluster).await?;
    let labels = found.and_then(|found| found.metadata.labels).unwrap_or_default();
    Ok(labels.get(PART_OF.0).is_some_and(|of| of == PART_OF.1))
}

/// Ends the node proxies and has every node release captures, kernel programs, the CNI plugin and folders.
async fn clean_nodes(cluster: &Cluster, removal: Removal, printer: &Printer) -> Result<()> {
    let sets: Api<DaemonSet> = cluster.own();
    let node = sets.get_opt("keelson-node").await.map_err(|error| cluster.told(error))?;
    let cleaner = sets.get_opt(CLEANER).await.map_err(|error| cluster.told(error))?;
    let cleaner = match (node, cleaner) {
        (Some(node), _) => {
            let cleaner = Object::new(cleaner_of(&node)?)?;
            let gone = Object::new(json!({ "apiVersion": "apps/v1", "kind": "DaemonSet",
                "metadata": { "name": "keelson-node", "namespace": cluster.namespace } }))?;
            delete_and_wait(&gone, cluster, removal.patience).await?;
            await_no_pods(cluster, "app.kubernetes.io/name=keelson-node", removal.patience).await?;
            printer.note("the node proxies are gone");
            cleaner.apply(cluster).await?;
            cleaner
        }
        // An earlier removal was cut short.
        (None, Some(found)) => Object::new(with_kind(serde_json::to_value(found)?))?,
        (None, None) => {
            printer.note("there are no node proxies: nodes are left as they are");
            return Ok(());
        }
    };
    if let Err(error) = await_cleaner(cluster, removal.patience, printer).await {
        if !removal.despite_nodes {
            return Err(error.context("not every node could be cleaned; --despite-nodes goes on without them"));
        }
        printer.warn(&format!("{error:#}"));
    }
    delete_and_wait(&cleaner, cluster, removal.patience).await?;
    await_no_pods(cluster, &format!("app.kubernetes.io/name={CLEANER}"), removal.patience).await
}

/// The API server leaves out of typed answers what kind they are.
fn with_kind(mut value: Value) -> Value {
    value["apiVersion"] = "apps/v1".into();
    value["kind"] = "DaemonSet".into();
    value
}

/// A DaemonSet like the nodes' own, on the same nodes, whose pods clean up and wait.
fn cleaner_of(node: &DaemonSet) -> Result<Value> {
    let mut template =
        serde_json::to_value(node.spec.as_ref().map(|spec| &spec.template)).context("a DaemonSet has a template")?;
    let label = json!({ "app.kubernetes.io/name": CLEANER, PART_OF.0: PART_OF.1 });
    template["metadata"] = json!({ "labels": label });
    // The nodes' own account, which is still there, gives the token that is mounted; nothing is asked with it.
    let arguments = template["spec"]["containers"][0]["args"].as_array_mut().context("the node proxy has arguments")?;
    arguments.extend(["--uninstall".into(), "--stay".into()]);
    Ok(json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "name": CLEANER,
            "namespace": node.metadata.namespace,
            "labels": { PART_OF.0: PART_OF.1, "app.kubernetes.io/managed-by": MANAGER },
        },
        "spec": {
            "selector": { "matchLabels": { "app.kubernetes.io/name": CLEANER } },
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": "100%" } },
            "template": template,
        },
    }))
}

async fn await_cleaner(cluster: &Cluster, patience: Duration, printer: &Printer) -> Result<()> {
    let sets: Api<DaemonSet> = cluster.own();
    let end = Instant::now() + patience;
    let mut last = None;
    loop {
        let set = sets.get(CLEANER).await.map_err(|error| cluster.told(error))?;
        let counted = of_daemon_set(&set);
        if let Some((wanted, ready)) = counted {
            if last != counted {
                printer.note(&format!("{ready} of {wanted} nodes are cleaned"));
            }
            if ready >= wanted {
                return Ok(());
            }
        }
        last = counted;
        if Instant::now() >= end {
            let why = of_pods(cluster, &format!("app.kubernetes.io/name={CLEANER}")).await.unwrap_or_default();
            bail!("nodes were not cleaned within {} s\n  {}", patience.as_secs(), why.join("\n  "));
        }
        sleep(PAUSE).await;
    }
}

async fn await_no_pods(cluster: &Cluster, label: &str, patience: Duration) -> Result<()> {
    let pods: Api<Pod> = cluster.own();
    let end = Instant::now() + patience;
    loop {
        let left = pods.list_metadata(&ListParams::default().labels(label)).await.map_err(|error| cluster.told(error))?.items;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            let names: Vec<_> = left.into_iter().filter_map(|pod| pod.metadata.name).collect();
            bail!("still there {} s after they were deleted: pods {}", patience.as_secs(), names.join(", "));
        }
        sleep(PAUSE).await;
    }
}

/// Removes the marks of captured pods.
async fn unmark_pods(cluster: &Cluster) -> Result<()> {
    let pods = cluster.all::<Pod>().list(&ListParams::default()).await.map_err(|error| cluster.told(error))?;
    for pod in pods {
        let (Some(namespace), Some(name)) = (&pod.metadata.namespace, &pod.metadata.name) else { continue };
        let api: Api<Pod> = cluster.of(namespace);
        let annotated = pod.metadata.annotations.as_ref().and_then(|found| found.get(REDIRECTION));
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let patched = async {
            if annotated.is_some_and(|value| value == REDIRECTION_ENABLED) {
                let patch = json!({ "metadata": { "annotations": { REDIRECTION: null } } });
                api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            }
            if conditions.into_iter().any(|condition| condition.type_ == CONDITION) {
                let patch = json!({ "status": { "conditions": [{ "type": CONDITION, "$patch": "delete" }] } });
                api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match patched.await {
            // It went by itself in the meantime.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            done => done.map_err(|error| cluster.told(error)).with_context(|| format!("pod {namespace}/{name}"))?,
        }
    }
    Ok(())
}

/// The roots of trust that the controller wrote into every namespace; istiod's stay.
async fn remove_roots(cluster: &Cluster) -> Result<()> {
    let list = ListParams::default().labels("app.kubernetes.io/managed-by=keelson-controller");
    let maps = cluster.all::<ConfigMap>().list_metadata(&list).await.map_err(|error| cluster.told(error))?;
    for map in maps {
        let metadata = json!({ "name": map.metadata.name, "namespace": map.metadata.namespace });
        Object::new(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata }))?.delete(cluster).await?;
    }
    Ok(())
}

async fn remove_definitions(cluster: &Cluster, removal: Removal, printer: &Printer) -> Result<()> {
    let mut kept = Vec::new();
    for definition in ours()? {
        if !is_ours(&definition, cluster).await? {
            continue;
        }
        if !removal.definitions && has_objects(&definition, cluster).await? {
            kept.push(definition.name);
            continue;
        }
        delete_and_wait(&definition, cluster, removal.patience).await?;
    }
    if !kept.is_empty() {
        printer.note(&format!(
            "definitions that have objects stay ({}); --definitions removes them with their objects",
            kept.join(", ")
        ));
    }
    Ok(())
}

async fn has_objects(definition: &Object, cluster: &Cluster) -> Result<bool> {
    let names = &definition.value["spec"]["names"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let gvk = kube::core::GroupVersionKind::gvk(&text(&definition.value["spec"]["group"]), "v1", &text(&names["kind"]));
    let resource = kube::core::ApiResource::from_gvk_with_plural(&gvk, &text(&names["plural"]));
    let api: Api<kube::core::DynamicObject> = Api::all_with(cluster.client.clone(), &resource);
    let found = api.list_metadata(&ListParams::default().limit(1)).await.map_err(|error| cluster.told(error))?;
    Ok(!found.items.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cleaner_is_the_node_s_pod_with_another_task() {
        let mut bundle = Bundle::new("mesh").unwrap();
        let node: DaemonSet = serde_json::from_value(bundle.object("DaemonSet", "keelson-node").unwrap().clone()).unwrap();
        let cleaner: DaemonSet = serde_json::from_value(cleaner_of(&node).unwrap()).unwrap();
        let spec = cleaner.spec.unwrap();
        assert_eq!(
            spec.selector.match_labels,
            spec.template
                .metadata
                .unwrap()
                .labels
                .map(|labels| { labels.into_iter().filter(|(name, _)| name == "app.kubernetes.io/name").collect() })
        );
        let pod = spec.template.spec.unwrap();
        assert_eq!(pod.tolerations, node.spec.unwrap().template.spec.unwrap().tolerations);
        let arguments = pod.containers[0].args.clone().unwrap();
        assert_eq!(arguments[arguments.len() - 2..], ["--uninstall", "--stay"]);
        assert!(arguments.iter().any(|argument| argument.starts_with("--cni-conf-dir=")));
    }
}
