//! What a large cluster costs the controller: time from a change to its publication, and memory. Prints a table.
//!
//! `cargo run --release --example scale -- [SERVICES] [PODS]`; 10,000 and 50,000 unless said otherwise.

use std::{
    collections::HashSet,
    env,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mesh_config::{
    kinds::{Kind, Name},
    translate::{Redirection, Settings},
};
use mesh_controller::{
    capture::{Annotations, Captures},
    distribute::Published,
    placement::Places,
    reconcile::{Outlets, Reconciler},
    source::{Admission, Changed, Found, News},
    telemetry::Telemetry,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const NAMESPACES: usize = 200;
const NODES: usize = 1_000;
const CHANGES: usize = 40;

fn main() -> Result<()> {
    let number = |index: usize, default: usize| env::args().nth(index).map_or(Ok(default), |text| text.parse());
    let (services, pods) = (number(1, 10_000).context("SERVICES")?, number(2, 50_000).context("PODS")?);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure(services, pods))
}

async fn measure(services: usize, pods: usize) -> Result<()> {
    let mut out = std::io::stdout();
    let empty = resident()?;
    let (published_sender, mut published) = watch::channel(Arc::new(Published::default()));
    let (marks, _marks) = watch::channel(Arc::default());
    let outlets = Outlets {
        published: published_sender,
        placement: watch::channel(Arc::default()).0,
        statuses: watch::channel(Arc::default()).0,
    };
    let reconciler = Reconciler::new(
        Settings { redirection: Redirection::Reported, ..Settings::default() },
        Admission::default(),
        Captures::Annotations(Annotations::new(marks, Name::new("keelson-system", "keelson-controller"))),
        Places::new(Vec::new()),
        outlets,
        Arc::new(Telemetry::new()),
    );
    let (_handle, changes) = Reconciler::channel();
    let (news, heard) = mpsc::channel(16);
    let running = tokio::spawn(reconciler.run(heard, changes));

    let started = Instant::now();
    let each = (pods / services.max(1)).max(1);
    let documents = (0..NAMESPACES).map(namespace).chain((0..NODES).map(node));
    let documents = documents.chain((0..services).map(service)).chain((0..services).map(|index| slice(index, each)));
    let documents = documents.chain((0..pods).map(|index| pod(index, each, true)));
    let documents: Vec<Value> = documents.collect();
    let generated = started.elapsed();
    let started = Instant::now();
    let mut batch = Vec::new();
    for document in documents {
        batch.push(Changed::Present(Found { document: Arc::new(document), status: None }));
        if batch.len() == 5_000 {
            news.send(News::Changes(std::mem::take(&mut batch))).await?;
        }
    }
    batch.push(Changed::Only { kind: Kind::ConfigMap, names: HashSet::<Name>::new() });
    news.send(News::Changes(batch)).await?;
    news.send(News::Complete).await?;
    published.changed().await?;
    let first = started.elapsed();
    let model = published.borrow_and_update().model.clone();
    writeln!(
        out,
        "{services} services, {pods} pods: {} workloads, {} services in the model",
        model.workloads.len(),
        model.services.len()
    )?;
    writeln!(out, "objects made in {generated:?}; from objects to the first publication {first:?}")?;
    drop(model);

    let mut taken = Vec::new();
    for round in 0..CHANGES {
        let started = Instant::now();
        let changed = pod(round * 7 % pods, each, false);
        news.send(News::Changes(vec![Changed::Present(Found { document: Arc::new(changed), status: None })])).await?;
        if tokio::time::timeout(Duration::from_secs(30), published.changed()).await.is_ok() {
            published.borrow_and_update();
            taken.push(started.elapsed());
        }
    }
    taken.sort();
    let at = |part: usize| taken.get(taken.len() * part / 100).copied().unwrap_or_default();
    writeln!(
        out,
        "one pod changes: {} of {CHANGES} published, p50 {:?}, p90 {:?}, longest {:?}",
        taken.len(),
        at(50),
        at(90),
        at(99)
    )?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let full = resident()?;
    writeln!(
        out,
        "resident {} MB, of it {} MB by objects and what follows: {} bytes a pod with its share of the rest",
        full >> 20,
        (full - empty) >> 20,
        (full - empty) / pods.max(1)
    )?;
    running.abort();
    Ok(())
}

/// Bytes of this process in memory.
fn resident() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = text.split_whitespace().nth(1).context("statm has a second number")?.parse()?;
    Ok(pages * 4096)
}

fn namespace_of(service: usize) -> String {
    format!("team-{}", service % NAMESPACES)
}

fn namespace(index: usize) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": format!("team-{index}"), "labels": { "istio.io/dataplane-mode": "keelson" } } })
}

fn node(index: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": format!("node-{index}"), "labels": { "topology.kubernetes.io/region": "eu", "topology.kubernetes.io/zone": format!("eu-{}", index % 3) } },
        "spec": { "podCIDRs": [format!("10.{}.{}.0/24", 128 + index / 256, index % 256)] },
    })
}

fn service(index: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": format!("service-{index}"), "namespace": namespace_of(index), "uid": format!("s-{index}") },
        "spec": {
            "clusterIP": format!("10.96.{}.{}", index / 256, index % 256), "clusterIPs": [format!("10.96.{}.{}", index / 256, index % 256)],
            "selector": { "app": format!("service-{index}") }, "ports": [{ "name": "http", "port": 80, "targetPort": "web", "protocol": "TCP" }],
        },
    })
}

fn pod_name(index: usize, each: usize) -> String {
    format!("service-{}-5d4f7c8b9-{:05x}", index / each, index)
}

fn address(index: usize) -> String {
    format!("10.{}.{}.{}", 128 + (index % NODES) / 256, (index % NODES) % 256, 1 + index / NODES)
}

fn slice(service: usize, each: usize) -> Value {
    let endpoint = |pod: usize| {
        json!({
            "addresses": [address(pod)], "conditions": { "ready": true, "serving": true, "terminating": false },
            "targetRef": { "kind": "Pod", "namespace": namespace_of(service), "name": pod_name(pod, each) }, "nodeName": format!("node-{}", pod % NODES),
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("service-{service}-x"), "namespace": namespace_of(service),
            "labels": { "kubernetes.io/service-name": format!("service-{service}"), "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io" },
        },
        "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": (service * each..(service + 1) * each).map(endpoint).collect::<Vec<_>>(),
    })
}

/// As it is after it was cut down on its way from the API server.
fn pod(index: usize, each: usize, ready: bool) -> Value {
    let app = format!("service-{}", index / each);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": pod_name(index, each), "namespace": namespace_of(index / each), "uid": format!("6d1f6b1a-2d0c-4a53-8d5a-{index:012}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "app": app, "version": "v1", "pod-template-hash": "5d4f7c8b9", "app.kubernetes.io/part-of": "shop" },
            "annotations": { "ambient.istio.io/redirection": "enabled" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-5d4f7c8b9"), "uid": "u", "controller": true }],
        },
        "spec": {
            "nodeName": format!("node-{}", index % NODES), "serviceAccountName": app,
            "containers": [{ "name": "app", "ports": [{ "name": "web", "containerPort": 8080, "protocol": "TCP" }] }],
        },
        "status": {
            "phase": "Running", "podIP": address(index), "podIPs": [{ "ip": address(index) }],
            "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
        },
    })
}
