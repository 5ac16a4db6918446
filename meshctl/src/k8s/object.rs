//! Objects of any kind, as manifests have them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PropagationPolicy},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{Cluster, api::is_missing};

/// Who owns the fields that meshctl writes, and the value of `app.kubernetes.io/managed-by`.
pub(crate) const MANAGER: &str = "meshctl";

/// An object and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) value: Value,
    pub(crate) kind: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    resource: ApiResource,
}

impl Object {
    pub(crate) fn new(value: Value) -> Result<Self> {
        let text =
            |value: &Value, what: &str| value.as_str().map(str::to_owned).with_context(|| format!("an object has no {what}"));
        let (version, kind) = (text(&value["apiVersion"], "apiVersion")?, text(&value["kind"], "kind")?);
        let (group, version) = version.rsplit_once('/').unwrap_or(("", &version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
        let name = text(&value["metadata"]["name"], "name")?;
        let namespace = value["metadata"]["namespace"].as_str().map(str::to_owned);
        Ok(Self { value, kind, namespace, name, resource })
    }

    /// `Service keelson-system/keelson-controller`.
    pub(crate) fn told(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }

    fn api(&self, client: &Client) -> Api<DynamicObject> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.resource),
            None => Api::all_with(client.clone(), &self.resource),
        }
    }

    /// Makes the object, or makes it what it is here, whoever wrote the fields before.
    pub(crate) async fn apply(&self, cluster: &Cluster) -> Result<()> {
        let params = PatchParams::apply(MANAGER).force();
        let applied = self.api(&cluster.client).patch(&self.name, &params, &Patch::Apply(&self.value)).await;
        applied.map(drop).map_err(|error| cluster.told(error)).with_context(|| format!("cannot apply {}", self.told()))
    }

    /// The object as the cluster has it; none if it has not.
    pub(crate) async fn get(&self, cluster: &Cluster) -> Result<Option<DynamicObject>> {
        let found = self.api(&cluster.client).get_opt(&self.name).await;
        // A kind that is not served has no objects.
        let found = found.or_else(|error| if is_missing(&error) { Ok(None) } else { Err(error) });
        found.map_err(|error| cluster.told(error)).with_context(|| format!("cannot read {}", self.told()))
    }

    /// Whether there was one.
    pub(crate) async fn delete(&self, cluster: &Cluster) -> Result<bool> {
        delete(&self.api(&cluster.client), cluster, &self.name).await.with_context(|| format!("cannot delete {}", self.told()))
    }
}

/// Whether there was an object to delete. What it owns is deleted with it.
async fn delete<K>(api: &Api<K>, cluster: &Cluster, name: &str) -> Result<bool>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    match api.delete(name, &params).await {
        Ok(_) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(cluster.told(error)),
    }
}

/// Whether the API server has the object; a kind that is not served has none.
pub(crate) async fn exists<K>(api: &Api<K>, cluster: &Cluster, name: &str) -> Result<bool>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    match api.get_metadata_opt(name).await {
        Ok(found) => Ok(found.is_some()),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(cluster.told(error)),
    }
}

/// Deletes an object and waits until it is gone.
pub(crate) async fn delete_and_wait(object: &Object, cluster: &Cluster, patience: Duration) -> Result<bool> {
    if !object.delete(cluster).await? {
        return Ok(false);
    }
    let end = Instant::now() + patience;
    while object.get(cluster).await?.is_some() {
        if Instant::now() >= end {
            bail!("{} is still there {} s after it was deleted: does it have a finalizer?", object.told(), patience.as_secs());
        }
        sleep(Duration::from_millis(300)).await;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_knows_where_it_is() {
        let object = |value| Object::new(value).unwrap();
        let role = object(
            json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "a", "namespace": "b" } }),
        );
        assert_eq!((role.told().as_str(), role.resource.plural.as_str()), ("Role b/a", "roles"));
        let budget = object(json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "a" } }));
        assert_eq!((budget.told().as_str(), budget.resource.plural.as_str()), ("PodDisruptionBudget a", "poddisruptionbudgets"));
        assert!(Object::new(json!({ "kind": "Role" })).is_err());
    }
}
