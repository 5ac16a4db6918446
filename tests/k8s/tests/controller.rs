//! The controller's source on a real API server: what is made, changed and removed; kinds that come later; a server that
//! restarts; rights that are missing; the annotation of captured pods.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{path::PathBuf, process::Command, sync::Arc, time::Duration};

use k8s_openapi::api::{authentication::v1::TokenRequest, core::v1::ServiceAccount};
use k8s_tests::{ApiServer, Controller, eventually, program};
use kube::{Api, api::PostParams, config::Kubeconfig};
use mesh_config::{enrolment::REDIRECTION, kinds::Name};
use mesh_controller::{
    capture::{Annotator, Mark},
    telemetry::Telemetry,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// A pod that nobody runs: no scheduler looks at it, and it has the address that the test gives it.
fn pod(namespace: &str, name: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": namespace, "name": name, "labels": labels },
        "spec": {
            "schedulerName": "nobody", "serviceAccountName": "default", "automountServiceAccountToken": false,
            "containers": [{ "name": "app", "image": "nothing.test/app:1", "ports": [{ "name": "web", "containerPort": 8080 }] }],
        },
    })
}

fn status(namespace: &str, name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": namespace, "name": name },
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

async fn run_pod(cluster: &ApiServer, namespace: &str, name: &str, address: &str) {
    cluster.apply(service_account(namespace)).await;
    cluster.apply(pod(namespace, name, &json!({ "app": name }))).await;
    cluster.set_status(status(namespace, name, address)).await;
}

/// Made by Kubernetes a moment after the namespace, and a pod needs it.
fn service_account(namespace: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "namespace": namespace, "name": "default" } })
}

/// Without a selector: nobody runs the test's pods, so Kubernetes would not list them as its endpoints.
fn service(namespace: &str, name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": namespace, "name": name },
        "spec": { "ports": [{ "name": "http", "port": port, "targetPort": "web" }] },
    })
}

/// Says that a pod is behind the service of its name.
fn slice(namespace: &str, name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "namespace": namespace, "name": name, "labels": { "kubernetes.io/service-name": name } },
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": [{
            "addresses": [address], "conditions": { "ready": true },
            "targetRef": { "kind": "Pod", "namespace": namespace, "name": name },
        }],
    })
}

async fn ready(controller: &Controller) {
    eventually("the controller is ready", async || controller.readiness().await.0).await;
}

#[tokio::test]
async fn what_is_made_changed_and_removed_is_published() {
    let cluster = ApiServer::find().await;
    let namespace = cluster.namespace("objects").await;
    run_pod(&cluster, &namespace, "before", "10.250.0.1").await;
    let rights = Rights::grant(&cluster, &namespace, "").await;
    let controller = rights.controller().await;
    ready(&controller).await;
    let uid = |name: &str| format!("//Pod/{namespace}/{name}");
    assert!(controller.published().await.workload(&uid("before")).is_some(), "the first state has everything");
    assert!(controller.published().await.service("default", "kubernetes").is_some());

    cluster.apply(service(&namespace, "page", 80)).await;
    cluster.apply(slice(&namespace, "page", "10.250.0.2")).await;
    run_pod(&cluster, &namespace, "page", "10.250.0.2").await;
    eventually("the pod is behind its service", async || {
        let published = controller.published().await;
        let has_port = |found: &Value, port: u16| found["ports"][0]["port"] == port;
        let behind = |found: &Value| found["services"].as_object().unwrap().values().any(|ports| ports["80"] == 8080);
        published.service(&namespace, "page").is_some_and(|found| has_port(found, 80))
            && published.workload(&uid("page")).is_some_and(behind)
    })
    .await;

    let before = controller.published().await.generation();
    let policies = controller.metrics().await;
    cluster.apply(service(&namespace, "page", 81)).await;
    eventually("the service has another port", async || {
        controller.published().await.service(&namespace, "page").is_some_and(|found| found["ports"][0]["port"] == 81)
    })
    .await;
    assert!(controller.published().await.generation() > before);
    assert!(policies.contains("keelson_controller_source_readable 1"), "{policies}");

    cluster.delete(pod(&namespace, "page", &json!({}))).await;
    cluster.delete(service(&namespace, "page", 81)).await;
    eventually("both are gone", async || {
        let published = controller.published().await;
        published.workload(&uid("page")).is_none() && published.service(&namespace, "page").is_none()
    })
    .await;
    assert!(controller.published().await.workload(&uid("before")).is_some());
    rights.revoke().await;
}

/// With nothing but its names: what the API server would check is not the matter here.
fn definition(group: &str, plural: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": format!("{plural}.{group}") },
        "spec": {
            "group": group, "scope": "Namespaced", "names": { "plural": plural, "kind": kind, "singular": kind.to_lowercase() },
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
            }],
        },
    })
}

#[tokio::test]
async fn a_kind_may_come_later_and_go() {
    let cluster = ApiServer::find().await;
    let namespace = cluster.namespace("kinds").await;
    let definition = definition("networking.istio.io", "workloadentries", "WorkloadEntry");
    // Whoever has it gets it back.
    let before = cluster.get(definition.clone()).await;
    if before.is_some() {
        cluster.delete(definition.clone()).await;
        eventually("the kind is not there", async || cluster.get(definition.clone()).await.is_none()).await;
    }
    run_pod(&cluster, &namespace, "other", "10.250.1.1").await;
    let rights = Rights::grant(&cluster, &namespace, "").await;
    let controller = rights.controller().await;
    ready(&controller).await;

    cluster.apply(definition.clone()).await;
    let entry = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry", "metadata": { "namespace": namespace, "name": "machine" },
        "spec": { "address": "10.250.1.9", "labels": { "app": "machine" } },
    });
    let uid = format!("WorkloadEntry/{namespace}/machine");
    eventually("the kind is served", async || {
        let listed = cluster.client.list_api_group_resources("networking.istio.io/v1").await;
        listed.is_ok_and(|listed| listed.resources.iter().any(|resource| resource.name == "workloadentries"))
    })
    .await;
    cluster.apply(entry.clone()).await;
    eventually("an object of the new kind is published", async || controller.published().await.workload(&uid).is_some()).await;
    assert!(controller.readiness().await.0);

    cluster.delete(definition.clone()).await;
    eventually("its objects go with the kind", async || controller.published().await.workload(&uid).is_none()).await;
    assert!(controller.published().await.workload(&format!("//Pod/{namespace}/other")).is_some());

    eventually("the definition is gone", async || cluster.get(definition.clone()).await.is_none()).await;
    cluster.apply(definition.clone()).await;
    eventually("the kind is there again", async || {
        let listed = cluster.client.list_api_group_resources("networking.istio.io/v1").await;
        listed.is_ok_and(|listed| listed.resources.iter().any(|resource| resource.name == "workloadentries"))
    })
    .await;
    cluster.apply(entry).await;
    eventually("and so are its objects", async || controller.published().await.workload(&uid).is_some()).await;
    cluster.delete(definition.clone()).await;
    rights.revoke().await;
    if let Some(before) = before {
        eventually("the kind is gone", async || cluster.get(definition.clone()).await.is_none()).await;
        let name = before.metadata.name;
        cluster
            .apply(json!({
                "apiVersion": definition["apiVersion"], "kind": definition["kind"], "spec": before.data["spec"],
                "metadata": { "name": name, "labels": before.metadata.labels, "annotations": before.metadata.annotations },
            }))
            .await;
    }
}

/// Restarts the API server. The new one ends at once where the old one's port is not free yet: then it is started again.
async fn restart_api_server(cluster: &ApiServer) {
    for _ in 0..3 {
        let arguments = ["cluster", "restart", "kube-apiserver", "--name", &cluster.cluster];
        let status = Command::new(program("xtask")).args(arguments).status().unwrap();
        assert!(status.success(), "the API server is restarted");
        let answers = async {
            while cluster.client.apiserver_version().await.is_err() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        if timeout(Duration::from_secs(30), answers).await.is_ok() {
            return;
        }
    }
    panic!("the API server is not back");
}

#[tokio::test]
async fn an_api_server_that_restarts_takes_nothing_away() {
    let cluster = ApiServer::find().await;
    let namespace = cluster.namespace("restart").await;
    run_pod(&cluster, &namespace, "stays", "10.250.2.1").await;
    run_pod(&cluster, &namespace, "goes", "10.250.2.2").await;
    let rights = Rights::grant(&cluster, &namespace, "").await;
    let controller = rights.controller().await;
    ready(&controller).await;
    let uid = |name: &str| format!("//Pod/{namespace}/{name}");
    let generation = controller.published().await.generation();

    // What happens while nobody looks is beyond what the new server remembers: the watch can not go on (410), and lists.
    let process = Pid::from_raw(controller.pid().try_into().unwrap());
    kill(process, Signal::SIGSTOP).unwrap();
    restart_api_server(&cluster).await;
    cluster.delete(pod(&namespace, "goes", &json!({}))).await;
    run_pod(&cluster, &namespace, "comes", "10.250.2.3").await;
    kill(process, Signal::SIGCONT).unwrap();

    eventually("the state is that of the cluster", async || {
        let published = controller.published().await;
        assert!(published.workload(&uid("stays")).is_some(), "what is there is never taken away");
        published.workload(&uid("goes")).is_none() && published.workload(&uid("comes")).is_some()
    })
    .await;
    assert!(controller.published().await.generation() > generation);
    assert!(controller.log().await.contains("the watch fell behind and lists again kind=\"pods\""), "that was what was tried");
    assert!(controller.readiness().await.0);
    // Watches that were quiet go on too.
    cluster.apply(service(&namespace, "late", 80)).await;
    eventually("news go on", async || controller.published().await.service(&namespace, "late").is_some()).await;
    rights.revoke().await;
}

/// What the controller reads; and nothing of it is written by these controllers, beside which the mesh's own may run.
const READ: &[&str] = &[
    "pods",
    "nodes",
    "namespaces",
    "services",
    "configmaps",
    "endpointslices.discovery.k8s.io",
    "daemonsets.apps",
    "customresourcedefinitions.apiextensions.k8s.io",
    "*.networking.istio.io",
    "*.security.istio.io",
    "*.telemetry.istio.io",
    "*.gateway.networking.k8s.io",
];

/// The rights of a test's controller: of the namespace's default account.
struct Rights<'a> {
    cluster: &'a ApiServer,
    namespace: &'a str,
}

impl<'a> Rights<'a> {
    /// To read everything but this, and keys of its own in the test's namespace.
    async fn grant(cluster: &'a ApiServer, namespace: &'a str, missing: &str) -> Self {
        let rights = Self { cluster, namespace };
        cluster.apply(service_account(namespace)).await;
        rights.set_missing(missing).await;
        let subjects = json!([{ "kind": "ServiceAccount", "name": "default", "namespace": namespace }]);
        cluster
            .apply(json!({
                "apiVersion": RBAC, "kind": "ClusterRoleBinding", "metadata": { "name": namespace }, "subjects": subjects,
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": namespace },
            }))
            .await;
        let rules = json!([{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["*"] }]);
        let (role, metadata) = ("own-keys", json!({ "namespace": namespace, "name": "own-keys" }));
        cluster.apply(json!({ "apiVersion": RBAC, "kind": "Role", "metadata": metadata, "rules": rules })).await;
        cluster
            .apply(json!({
                "apiVersion": RBAC, "kind": "RoleBinding", "metadata": metadata, "subjects": subjects,
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role },
            }))
            .await;
        rights
    }

    async fn set_missing(&self, missing: &str) {
        let granted = READ.iter().copied().filter(|resource| *resource != missing);
        self.cluster.apply(role(self.namespace, &granted.collect::<Vec<_>>())).await;
    }

    /// Starts a controller that has them.
    async fn controller(&self) -> Controller {
        let (_folder, kubeconfig) = kubeconfig_of(self.cluster, self.namespace, "default").await;
        // The file is read once, before the controller says where it is asked.
        Controller::start(&kubeconfig, &["--namespace", self.namespace]).await
    }

    async fn revoke(self) {
        for kind in ["ClusterRoleBinding", "ClusterRole"] {
            self.cluster.delete(json!({ "apiVersion": RBAC, "kind": kind, "metadata": { "name": self.namespace } })).await;
        }
    }
}

const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// A kubeconfig for a service account.
async fn kubeconfig_of(cluster: &ApiServer, namespace: &str, account: &str) -> (TempDir, PathBuf) {
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), namespace);
    let request: TokenRequest =
        serde_json::from_value(json!({ "spec": { "audiences": [], "expirationSeconds": 3600 } })).unwrap();
    let issued = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
    let admin = Kubeconfig::read_from(&cluster.kubeconfig).unwrap();
    let of_cluster = admin.clusters[0].cluster.as_ref().unwrap();
    let document = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": of_cluster }],
        "users": [{ "name": "u", "user": { "token": issued.status.unwrap().token } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, document.to_string()).unwrap();
    (folder, path)
}

fn role(name: &str, resources: &[&str]) -> Value {
    let rule = |group: &str, resources: Vec<&str>| json!({ "apiGroups": [group], "resources": resources, "verbs": ["get", "list", "watch"] });
    let core: Vec<&str> = resources.iter().copied().filter(|resource| !resource.contains('.')).collect();
    let others =
        resources.iter().filter_map(|resource| resource.split_once('.')).map(|(resource, group)| rule(group, vec![resource]));
    let rules: Vec<Value> = std::iter::once(rule("", core)).chain(others).collect();
    json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": name }, "rules": rules })
}

#[tokio::test]
async fn what_may_not_be_read_is_named() {
    let cluster = ApiServer::find().await;
    let namespace = cluster.namespace("rights").await;
    run_pod(&cluster, &namespace, "page", "10.250.3.1").await;
    let rights = Rights::grant(&cluster, &namespace, "services").await;
    let controller = rights.controller().await;
    let refused = "services: list and watch of services are not permitted";

    eventually("only the services are missing", async || {
        let (ready, text) = controller.readiness().await;
        let named: Vec<&str> = text.lines().filter(|line| line.contains(": ")).collect();
        !ready && named.len() == 1 && named[0].starts_with(refused)
    })
    .await;
    assert_eq!(controller.published().await.generation(), 0, "nothing is said before everything is known");
    assert!(controller.log().await.contains("not permitted"), "the log says it too");

    rights.set_missing("").await;
    ready(&controller).await;
    let uid = |name: &str| format!("//Pod/{namespace}/{name}");
    assert!(controller.published().await.workload(&uid("page")).is_some());

    // Taken away later: the last state stays, the rest goes on, and it is said.
    rights.set_missing("services").await;
    eventually("it is said that services are stale", async || {
        let (ready, text) = controller.readiness().await;
        assert!(ready, "{text}");
        text.contains(refused)
    })
    .await;
    run_pod(&cluster, &namespace, "late", "10.250.3.2").await;
    eventually("pods go on", async || controller.published().await.workload(&uid("late")).is_some()).await;
    assert!(controller.published().await.service("default", "kubernetes").is_some(), "what was known of services stays");
    rights.revoke().await;
}

#[tokio::test]
async fn a_capture_is_written_on_the_pod() {
    let cluster = ApiServer::find().await;
    let namespace = cluster.namespace("capture").await;
    run_pod(&cluster, &namespace, "a", "10.250.4.1").await;
    run_pod(&cluster, &namespace, "b", "10.250.4.2").await;
    let uid = async |name: &str| {
        let found = cluster.get(pod(&namespace, name, &json!({}))).await.unwrap();
        found.metadata.uid.unwrap()
    };
    let annotation = async |name: &str| {
        let found = cluster.get(pod(&namespace, name, &json!({}))).await.unwrap();
        found.metadata.annotations.and_then(|annotations| annotations.get(REDIRECTION).cloned())
    };
    let (sender, marks) = watch::channel(Arc::default());
    let annotator = Annotator { client: cluster.client.clone(), marks, telemetry: Arc::new(Telemetry::new()) };
    let annotator = tokio::spawn(annotator.run());
    let mark = |pod_uid: String, captured: bool| Mark { pod_uid, captured };
    let (a, b) = (Name::new(&namespace, "a"), Name::new(&namespace, "b"));
    let gone = Name::new(&namespace, "gone");
    let marked = [
        (a.clone(), mark(uid("a").await, true)),
        (gone, mark("5a6ad5a1-26c8-4b17-8a10-7b4b7a2c5c9f".into(), true)),
        // An earlier pod of the same name.
        (b, mark("6d1f6b1a-2d0c-4a53-8d5a-9f3a3a1f0c11".into(), true)),
    ];
    sender.send_replace(Arc::new(marked.into()));
    eventually("the annotation is written", async || annotation("a").await.as_deref() == Some("enabled")).await;
    sender.send_replace(Arc::new([(a.clone(), mark(uid("a").await, false))].into()));
    eventually("the annotation is taken back", async || annotation("a").await.is_none()).await;
    assert_eq!(annotation("b").await, None, "a report on another pod is not this one's");
    drop(sender);
    annotator.await.unwrap();
}
