//! Definitions of kinds: Istio's, which are ours to install where nobody else did, and the Gateway API's, which are not.

use anyhow::Result;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, api::ListParams};

use super::bundle::{PART_OF, read};
use crate::{
    k8s::{Cluster, MANAGER, Object},
    output::Printer,
};

/// `cargo xtask codegen` writes them.
const DEFINITIONS: [&str; 3] = [
    include_str!("../../../deploy/helm/keelson/crds/networking.istio.io.yaml"),
    include_str!("../../../deploy/helm/keelson/crds/security.istio.io.yaml"),
    include_str!("../../../deploy/helm/keelson/crds/telemetry.istio.io.yaml"),
];

/// Kinds of the Gateway API without which routes can not be written; the newer or experimental ones are not missed.
const GATEWAY_API: [&str; 5] = ["gatewayclasses", "gateways", "httproutes", "grpcroutes", "referencegrants"];

/// The definitions that come with this program.
pub(crate) fn ours() -> Result<Vec<Object>> {
    let mut all = Vec::new();
    for text in DEFINITIONS {
        for mut value in read(text)? {
            value["metadata"]["labels"]["app.kubernetes.io/managed-by"] = MANAGER.into();
            all.push(Object::new(value)?);
        }
    }
    Ok(all)
}

/// Installs those that are missing, renews ours, and leaves others' alone.
pub(crate) async fn install_definitions(cluster: &Cluster, printer: &Printer) -> Result<()> {
    let (mut applied, mut foreign) = (0, Vec::new());
    for definition in ours()? {
        let found = definition.get(cluster).await?;
        let is_ours =
            |labels: &std::collections::BTreeMap<String, String>| labels.get(PART_OF.0).is_some_and(|of| of == PART_OF.1);
        match found {
            Some(found) if !found.metadata.labels.as_ref().is_some_and(is_ours) => foreign.push(definition.name),
            _ => {
                definition.apply(cluster).await?;
                applied += 1;
            }
        }
    }
    printer.note(&format!("{applied} definitions of Istio's kinds are in place"));
    if !foreign.is_empty() {
        printer.note(&format!("left as they are, because somebody else brought them: {}", foreign.join(", ")));
    }
    Ok(())
}

/// What the cluster has of the Gateway API.
pub(crate) struct GatewayApi {
    /// Of its definitions; empty if there are none, or they do not say.
    pub(crate) version: String,
    pub(crate) missing: Vec<&'static str>,
}

pub(crate) async fn gateway_api(cluster: &Cluster) -> Result<GatewayApi> {
    let definitions: Api<CustomResourceDefinition> = cluster.all();
    let list = definitions.list_metadata(&ListParams::default()).await.map_err(|error| cluster.told(error))?;
    let of_group = list.items.iter().filter_map(|definition| {
        let name = definition.metadata.name.as_deref()?.strip_suffix(".gateway.networking.k8s.io")?;
        Some((name, definition))
    });
    let found: Vec<_> = of_group.collect();
    let missing = GATEWAY_API.into_iter().filter(|name| !found.iter().any(|(other, _)| other == name)).collect();
    let version = found.iter().find_map(|(_, definition)| {
        definition.metadata.annotations.as_ref()?.get("gateway.networking.k8s.io/bundle-version").cloned()
    });
    Ok(GatewayApi { version: version.unwrap_or_default(), missing })
}
