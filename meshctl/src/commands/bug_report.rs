//! `meshctl bug-report`: what helps to find a fault, in one file, without secrets.

use std::{fs::File, path::PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, LogParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};

use crate::{
    Outcome,
    check::{components, kinds, nodes, pods, privileges},
    client::get,
    discover::Search,
    k8s::Cluster,
    output::Printer,
};

#[derive(Debug, Args)]
pub(crate) struct BugReportArgs {
    /// Where to write it
    #[arg(long, value_name = "FILE", default_value = "keelson-bug-report.tar")]
    out: PathBuf,
}

/// Kinds whose objects are taken from every namespace, and those of the mesh's own. No Secret is among them.
const EVERYWHERE: &[(&str, &str, &str)] = &[
    ("", "v1", "Node"),
    ("", "v1", "Namespace"),
    ("", "v1", "Service"),
    ("networking.istio.io", "v1", "VirtualService"),
    ("networking.istio.io", "v1", "DestinationRule"),
    ("networking.istio.io", "v1", "ServiceEntry"),
    ("networking.istio.io", "v1", "WorkloadEntry"),
    ("security.istio.io", "v1", "AuthorizationPolicy"),
    ("security.istio.io", "v1", "PeerAuthentication"),
    ("telemetry.istio.io", "v1", "Telemetry"),
    ("gateway.networking.k8s.io", "v1", "Gateway"),
    ("gateway.networking.k8s.io", "v1", "HTTPRoute"),
    ("gateway.networking.k8s.io", "v1", "GRPCRoute"),
    ("networking.k8s.io", "v1", "NetworkPolicy"),
    ("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration"),
];
const OWN: &[(&str, &str, &str)] = &[
    ("", "v1", "Pod"),
    ("", "v1", "Event"),
    ("", "v1", "ConfigMap"),
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "DaemonSet"),
    ("coordination.k8s.io", "v1", "Lease"),
];

/// The file, and what could not be had.
struct Collection {
    tar: tar::Builder<File>,
    missing: Vec<String>,
}

pub(crate) async fn bug_report(arguments: BugReportArgs, search: &Search, printer: &Printer) -> Result<Outcome> {
    let cluster = search.cluster.connect().await?;
    let file = File::create(&arguments.out).with_context(|| format!("write {}", arguments.out.display()))?;
    let mut collection = Collection { tar: tar::Builder::new(file), missing: Vec::new() };
    let found = look_over(&cluster, search).await;
    collection.add("check.json", found)?;
    for (all, namespace) in [(EVERYWHERE, None), (OWN, Some(cluster.namespace.as_str()))] {
        for (group, version, kind) in all {
            let objects = list(&cluster, &GroupVersionKind::gvk(group, version, kind), namespace).await;
            let place = if namespace.is_some() { "mesh" } else { "objects" };
            collection.add(&format!("{place}/{kind}.json"), objects)?;
        }
    }
    match search.in_cluster().await {
        Ok(nodes) => {
            for node in nodes {
                for path in ["status", "config_dump", "connections"] {
                    let answer = get::<Value>(&node, &format!("/{path}")).await;
                    collection.add(&format!("nodes/{}/{path}.json", node.name), answer)?;
                }
            }
        }
        Err(error) => collection.missing.push(format!("nodes: {error:#}")),
    }
    logs(&cluster, &mut collection).await?;
    let missing = collection.missing.len();
    let text = collection.missing.join("\n");
    collection.write("missing.txt", text.as_bytes())?;
    collection.tar.finish()?;
    if missing > 0 {
        printer.note(&format!("{missing} things could not be had: missing.txt in the file names them"));
    }
    printer.done(&format!("wrote {}", arguments.out.display()), &json!({ "file": arguments.out, "missing": missing }))?;
    Ok(Outcome::Complete)
}

async fn look_over(cluster: &Cluster, search: &Search) -> Result<Value> {
    let (mut findings, istio_cni) = components(cluster).await?;
    findings.push(privileges(cluster).await?);
    findings.extend(kinds(cluster).await?);
    if let Ok(found) = search.in_cluster().await {
        findings.extend(nodes(&found).await?);
    }
    findings.extend(pods(cluster, istio_cni).await?);
    Ok(serde_json::to_value(findings)?)
}

async fn list(cluster: &Cluster, kind: &GroupVersionKind, namespace: Option<&str>) -> Result<Value> {
    let resource = ApiResource::from_gvk(kind);
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, &resource),
        None => Api::all_with(cluster.client.clone(), &resource),
    };
    let mut objects = api.list(&ListParams::default()).await.map_err(|error| cluster.told(error))?.items;
    for object in &mut objects {
        object.metadata.managed_fields = None;
    }
    Ok(serde_json::to_value(objects)?)
}

/// Of all containers of the mesh, also of those that ended before.
async fn logs(cluster: &Cluster, collection: &mut Collection) -> Result<()> {
    let api: Api<Pod> = cluster.own();
    let pods = match api.list(&ListParams::default().labels("app.kubernetes.io/part-of=keelson")).await {
        Ok(pods) => pods,
        Err(error) => {
            collection.missing.push(format!("logs: {:#}", cluster.told(error)));
            return Ok(());
        }
    };
    for pod in pods {
        let name = pod.metadata.name.unwrap_or_default();
        for previous in [false, true] {
            let log = api.logs(&name, &LogParams { previous, ..LogParams::default() }).await;
            let file = format!("logs/{name}{}.log", if previous { ".previous" } else { "" });
            match log {
                Ok(text) => collection.write(&file, text.as_bytes())?,
                // Most containers never ended.
                Err(_) if previous => {}
                Err(error) => collection.missing.push(format!("{file}: {:#}", cluster.told(error))),
            }
        }
    }
    Ok(())
}

impl Collection {
    /// That something can not be had is noted; that the file can not be written is an error.
    fn add(&mut self, name: &str, value: Result<Value>) -> Result<()> {
        match value {
            Ok(value) => self.write(name, &serde_json::to_vec_pretty(&value)?),
            Err(error) => {
                self.missing.push(format!("{name}: {error:#}"));
                Ok(())
            }
        }
    }

    fn write(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        self.tar.append_data(&mut header, format!("keelson-bug-report/{name}"), content).with_context(|| format!("write {name}"))
    }
}
