//! Whether the kinds that people write are known to the API server.

use anyhow::Result;

use super::Finding;
use crate::{
    install::{gateway_api, ours},
    k8s::Cluster,
};

pub(crate) async fn kinds(cluster: &Cluster) -> Result<Vec<Finding>> {
    let mut missing = Vec::new();
    for definition in ours()? {
        if definition.get(cluster).await?.is_none() {
            missing.push(definition.name);
        }
    }
    let istio = if missing.is_empty() {
        Finding::good("Istio's kinds", "all that Keelson reads are defined")
    } else {
        Finding::bad("Istio's kinds", format!("not defined: {}", missing.join(", ")), "meshctl upgrade installs what is missing")
    };
    let gateway = gateway_api(cluster).await?;
    let gateway = if gateway.missing.is_empty() {
        Finding::good(
            "Gateway API",
            format!("defined, {}", if gateway.version.is_empty() { "of no version" } else { &gateway.version }),
        )
    } else {
        Finding::warning(
            "Gateway API",
            format!("not defined: {}", gateway.missing.join(", ")),
            "install its definitions from https://github.com/kubernetes-sigs/gateway-api/releases; nothing has to be restarted then",
        )
    };
    Ok(vec![istio, gateway])
}
