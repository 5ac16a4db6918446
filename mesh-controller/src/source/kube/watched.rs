//! An object on its way from the API server, cut down as it is decoded.

use std::{borrow::Cow, fmt, marker::PhantomData};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{ApiResource, DynamicResourceScope, Resource};
use mesh_config::kinds::Name;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::trim::Shape;

pub(super) struct Watched<S> {
    /// As far as a watch needs it.
    metadata: ObjectMeta,
    pub(super) document: Map<String, Value>,
    shape: PhantomData<S>,
}

impl<S> Watched<S> {
    /// None: the server has sent something that is no object.
    pub(super) fn name(&self) -> Option<Name> {
        let ObjectMeta { name, namespace, .. } = &self.metadata;
        Some(Name::new(namespace.as_deref().unwrap_or_default(), name.as_deref()?))
    }
}

impl<'de, S: Shape> Deserialize<'de> for Watched<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut document = Map::deserialize(deserializer)?;
        let metadata = {
            let text = |name: &str| document.get("metadata")?.get(name)?.as_str().map(str::to_owned);
            let (name, namespace, resource_version) = (text("name"), text("namespace"), text("resourceVersion"));
            ObjectMeta { name, namespace, resource_version, ..ObjectMeta::default() }
        };
        S::trim(&mut document);
        Ok(Self { metadata, document, shape: PhantomData })
    }
}

impl<S> Clone for Watched<S> {
    fn clone(&self) -> Self {
        Self { metadata: self.metadata.clone(), document: self.document.clone(), shape: PhantomData }
    }
}

impl<S> fmt::Debug for Watched<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectMeta { namespace, name, .. } = &self.metadata;
        write!(f, "{}/{}", namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default())
    }
}

impl<S> Resource for Watched<S> {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
