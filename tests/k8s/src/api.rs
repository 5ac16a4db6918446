//! The API server of the cluster, asked as a client of Kubernetes does.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::Cluster;

/// Generous: it is for a test that hangs, never for one that is slow.
pub const DEADLINE: Duration = Duration::from_mins(2);
const MANAGER: &str = "k8s-tests";

/// With all rights.
#[derive(Clone)]
pub struct ApiServer {
    pub client: Client,
    pub kubeconfig: PathBuf,
    /// What `cargo xtask cluster` calls the cluster.
    pub cluster: String,
}

impl ApiServer {
    /// Of the cluster of this run.
    pub async fn find() -> Self {
        let cluster = Cluster::find().unwrap();
        let kubeconfig = cluster.kubeconfig().to_path_buf();
        let read = Kubeconfig::read_from(&kubeconfig).expect("a kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.expect("a kubeconfig");
        let client = Client::try_from(config).expect("a client");
        Self { client, kubeconfig, cluster: cluster.name().to_owned() }
    }

    /// A namespace that no other test has.
    pub async fn namespace(&self, name: &str) -> String {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let document = json!({ "metadata": { "generateName": format!("{name}-") } });
        let created = api.create(&PostParams::default(), &serde_json::from_value(document).unwrap()).await.unwrap();
        created.metadata.name.unwrap()
    }

    /// Makes an object, or what it should be of one that is there.
    pub async fn apply(&self, document: Value) {
        let parameters = PatchParams::apply(MANAGER).force();
        let (api, name) = self.api(&document);
        api.patch(&name, &parameters, &Patch::Apply(&document)).await.unwrap_or_else(|error| panic!("{error}: {document}"));
    }

    /// Sets the status of an object.
    pub async fn set_status(&self, document: Value) {
        let (api, name) = self.api(&document);
        let parameters = PatchParams::apply(MANAGER).force();
        api.patch_status(&name, &parameters, &Patch::Apply(&document))
            .await
            .unwrap_or_else(|error| panic!("{error}: {document}"));
    }

    /// Removes an object at once.
    pub async fn delete(&self, document: Value) {
        let (api, name) = self.api(&document);
        api.delete(&name, &DeleteParams::default().grace_period(0)).await.unwrap_or_else(|error| panic!("{error}: {document}"));
    }

    /// An object as the server has it.
    pub async fn get(&self, document: Value) -> Option<DynamicObject> {
        let (api, name) = self.api(&document);
        api.get_opt(&name).await.unwrap()
    }

    fn api(&self, document: &Value) -> (Api<DynamicObject>, String) {
        let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
        let (group, version) = match text("/apiVersion").unwrap().split_once('/') {
            Some((group, version)) => (group, version),
            None => ("", text("/apiVersion").unwrap()),
        };
        let kind = GroupVersionKind::gvk(group, version, text("/kind").unwrap());
        let resource = ApiResource::from_gvk(&kind);
        let api = match text("/metadata/namespace") {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        (api, text("/metadata/name").unwrap().to_owned())
    }
}

/// Waits for something that happens by itself.
pub async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    timeout(DEADLINE, async {
        while !holds().await {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{what}"));
}

/// A program of this workspace, built beside the tests.
pub fn program(name: &str) -> PathBuf {
    let own = env::current_exe().unwrap();
    let built = own.ancestors().find(|folder| folder.join(name).is_file());
    built.map_or_else(|| panic!("{name} is not built: cargo build --workspace --bins"), |folder: &Path| folder.join(name))
}
