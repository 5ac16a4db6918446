//! The mesh's own parts: there, ready, of one version; and others' that it meets.

use anyhow::Result;
use k8s_openapi::api::{
    admissionregistration::v1::ValidatingWebhookConfiguration,
    apps::v1::{DaemonSet, Deployment},
    core::v1::PodTemplateSpec,
};
use kube::{Api, api::ListParams};

use super::Finding;
use crate::{
    install::{of_daemon_set, of_deployment},
    k8s::{Cluster, of_pods},
};

const OWN: &str = env!("CARGO_PKG_VERSION");

/// Also says whether istio-cni is in the cluster.
pub(crate) async fn components(cluster: &Cluster) -> Result<(Vec<Finding>, bool)> {
    let mut findings = Vec::new();
    let version = cluster.client.apiserver_version().await.map_err(|error| cluster.told(error))?;
    findings.push(Finding::good("API server", format!("Kubernetes {}", version.git_version)));

    let deployments: Api<Deployment> = cluster.own();
    let deployment = deployments.get_opt("keelson-controller").await.map_err(|error| cluster.told(error))?;
    let counted = deployment.as_ref().map(of_deployment);
    let template = deployment.as_ref().and_then(|found| found.spec.as_ref()).map(|spec| &spec.template);
    findings.push(component(cluster, "controller", "keelson-controller", counted, template).await?);

    let sets: Api<DaemonSet> = cluster.own();
    let set = sets.get_opt("keelson-node").await.map_err(|error| cluster.told(error))?;
    let counted = set.as_ref().map(|set| of_daemon_set(set).unwrap_or((1, 0)));
    let template = set.as_ref().and_then(|found| found.spec.as_ref()).map(|spec| &spec.template);
    findings.push(component(cluster, "node proxies", "keelson-node", counted, template).await?);

    findings.push(webhook(cluster).await?);
    let beside = istio_cni(cluster).await?;
    if beside {
        findings.push(Finding::warning(
            "istio-cni",
            "Istio's ambient mode is in this cluster: pods labelled istio.io/dataplane-mode=ambient are its own",
            "label those that Keelson is to have istio.io/dataplane-mode=keelson, or remove istio-cni",
        ));
    }
    Ok((findings, beside))
}

async fn component(
    cluster: &Cluster,
    what: &str,
    name: &str,
    counted: Option<(i32, i32)>,
    template: Option<&PodTemplateSpec>,
) -> Result<Finding> {
    let Some((wanted, ready)) = counted else {
        let says = format!("there is no {name} in namespace {}", cluster.namespace);
        return Ok(Finding::bad(what, says, "meshctl install, or --mesh-namespace NAME if it is in another namespace"));
    };
    if ready < wanted {
        let why = of_pods(cluster, &format!("app.kubernetes.io/name={name}")).await?;
        let says = format!("{ready} of {wanted} are ready\n{}", why.join("\n"));
        return Ok(Finding::bad(what, says, remedy(&why)));
    }
    let image = template.and_then(|template| template.spec.as_ref()?.containers.first()?.image.clone()).unwrap_or_default();
    let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
    let says = format!("{ready} of {wanted} are ready, {image}");
    Ok(if tag == OWN {
        Finding::good(what, says)
    } else {
        Finding::warning(what, says, format!("this meshctl is {OWN}: use that of the mesh, or meshctl upgrade"))
    })
}

/// By what pods say of themselves.
fn remedy(why: &[String]) -> &'static str {
    let says = |words: &[&str]| why.iter().any(|line| words.iter().any(|word| line.contains(word)));
    if says(&["Image"]) {
        "the nodes do not get the image: is its name right (--image-hub, --image-tag), and may the nodes pull it (image.pullSecrets of the chart)?"
    } else if says(&["orbidden", "RBAC"]) {
        "its account lacks a right: meshctl upgrade puts the roles back"
    } else if says(&["PodSecurity", "violates"]) {
        "the namespace forbids what the node needs: kubectl label namespace keelson-system pod-security.kubernetes.io/enforce=privileged --overwrite"
    } else if says(&["not scheduled", "nsufficient"]) {
        "no node has room: give it other resources, or a priority that others give way to"
    } else {
        "the pods' words are beside; meshctl bug-report collects the rest"
    }
}

async fn webhook(cluster: &Cluster) -> Result<Finding> {
    let webhooks: Api<ValidatingWebhookConfiguration> = cluster.all();
    let found = webhooks.get_opt("keelson").await.map_err(|error| cluster.told(error))?;
    let Some(found) = found else {
        return Ok(Finding::warning(
            "webhook",
            "there is none: what is wrong in an object is told by its status alone, after it is written",
            "meshctl upgrade with webhook.enabled=true",
        ));
    };
    let unarmed = found.webhooks.iter().flatten().any(|one| one.client_config.ca_bundle.is_none());
    Ok(if unarmed {
        Finding::bad(
            "webhook",
            "it has no certificate yet, so that no object of Istio's kinds can be written",
            "the controller writes it when it is ready; if it is, see its log",
        )
    } else {
        Finding::good("webhook", "objects are judged when they are written")
    })
}

async fn istio_cni(cluster: &Cluster) -> Result<bool> {
    let list = ListParams::default().labels("k8s-app=istio-cni-node");
    let sets = cluster.all::<DaemonSet>().list_metadata(&list).await.map_err(|error| cluster.told(error))?;
    Ok(!sets.items.is_empty())
}
