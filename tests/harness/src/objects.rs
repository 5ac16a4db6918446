//! What the laboratory reads of Kubernetes objects: the part that kubelet and network need.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
};

use anyhow::{Context, Error, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::address::Family;

/// `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct PodName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for PodName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => bail!("{text:?} names no pod: it is NAMESPACE/NAME"),
        }
    }
}

impl TryFrom<String> for PodName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<PodName> for String {
    fn from(name: PodName) -> Self {
        name.to_string()
    }
}

/// All objects of one file or of a whole folder.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Objects {
    pub(crate) namespaces: BTreeMap<String, Metadata>,
    pub(crate) nodes: BTreeSet<String>,
    pub(crate) services: Vec<Service>,
    pub(crate) pods: BTreeMap<PodName, Pod>,
}

impl Objects {
    /// Reads the documents of one file; kinds that concern only the mesh are passed over.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("not YAML")?;
        let mut objects = Self::default();
        for document in documents {
            objects.take(document)?;
        }
        Ok(objects)
    }

    fn take(&mut self, document: Value) -> Result<()> {
        let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let core = document.get("apiVersion").and_then(Value::as_str) == Some("v1");
        if !core {
            return Ok(());
        }
        match kind.as_str() {
            "List" => {
                for item in document.get("items").and_then(Value::as_array).into_iter().flatten() {
                    self.take(item.clone())?;
                }
            }
            "Namespace" => {
                let object: Named = typed(document)?;
                self.namespaces.insert(object.metadata.name.clone(), object.metadata);
            }
            "Node" => {
                let object: Named = typed(document)?;
                self.nodes.insert(object.metadata.name);
            }
            "Service" => self.services.push(typed(document)?),
            "Pod" => {
                let pod: Pod = typed(document)?;
                self.pods.insert(pod.pod_name(), pod);
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds the objects of another file. Of two objects with one name, the later file's wins.
    pub(crate) fn merge(&mut self, other: Self) {
        let Self { namespaces, nodes, services, pods } = other;
        self.namespaces.extend(namespaces);
        self.nodes.extend(nodes);
        self.services.extend(services);
        self.pods.extend(pods);
    }

    /// Whether the pod wants to be in the mesh: its own label wins over its namespace's.
    pub(crate) fn enrolled(&self, pod: &Pod) -> bool {
        const LABEL: &str = "istio.io/dataplane-mode";
        let namespace = self.namespaces.get(&pod.metadata.namespace);
        let mode = pod.metadata.labels.get(LABEL).or_else(|| namespace?.labels.get(LABEL));
        mode.is_some_and(|mode| mode == "keelson" || mode == "ambient")
    }

    /// The pod's IP versions: annotation `keelson.dev/ip-families` (`IPv4`, `IPv6` or both) of pod, else namespace; default both.
    pub(crate) fn families(&self, pod: &Pod) -> Result<Vec<Family>> {
        const ANNOTATION: &str = "keelson.dev/ip-families";
        let namespace = self.namespaces.get(&pod.metadata.namespace);
        let wanted = pod.metadata.annotations.get(ANNOTATION).or_else(|| namespace?.annotations.get(ANNOTATION));
        let Some(wanted) = wanted else { return Ok(vec![Family::V4, Family::V6]) };
        let families = wanted.split(',').map(|family| match family.trim() {
            "IPv4" => Ok(Family::V4),
            "IPv6" => Ok(Family::V6),
            other => bail!("{}: {ANNOTATION} knows IPv4 and IPv6, not {other:?}", pod.pod_name()),
        });
        families.collect()
    }
}

fn typed<T: for<'de> Deserialize<'de>>(document: Value) -> Result<T> {
    let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without a name").to_owned();
    let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    serde_json::from_value(document).with_context(|| format!("{kind} {name}"))
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Named {
    metadata: Metadata,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    #[serde(default = "default_namespace")]
    pub(crate) namespace: String,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) uid: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Service {
    pub(crate) metadata: Metadata,
    #[serde(default)]
    pub(crate) spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceSpec {
    #[serde(default, rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(default, rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    #[serde(default)]
    pub(crate) selector: BTreeMap<String, String>,
}

impl Service {
    /// The service's own addresses; none for a headless service.
    pub(crate) fn cluster_ips(&self) -> Vec<IpAddr> {
        let all = if self.spec.cluster_ips.is_empty() { self.spec.cluster_ip.as_slice() } else { &self.spec.cluster_ips };
        all.iter().filter_map(|address| address.parse().ok()).collect()
    }

    /// Whether the service's name stands for the addresses of its pods.
    pub(crate) fn headless(&self) -> bool {
        self.spec.cluster_ip.as_deref() == Some("None") || self.spec.cluster_ips.iter().any(|address| address == "None")
    }

    pub(crate) fn selects(&self, pod: &Pod) -> bool {
        let Self { metadata, spec } = self;
        metadata.namespace == pod.metadata.namespace
            && !spec.selector.is_empty()
            && spec.selector.iter().all(|(key, value)| pod.metadata.labels.get(key) == Some(value))
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Pod {
    pub(crate) metadata: Metadata,
    pub(crate) spec: PodSpec,
}

impl Pod {
    pub(crate) fn pod_name(&self) -> PodName {
        PodName { namespace: self.metadata.namespace.clone(), name: self.metadata.name.clone() }
    }

    /// Annotation `keelson.dev/address-slot`: which of its node's addresses the pod gets, counted from 0. Without, every pod
    /// gets one that none had before; with it, a test has an address used again. Slots from 50,000 on are free for that.
    pub(crate) fn address_slot(&self) -> Result<Option<u32>> {
        const ANNOTATION: &str = "keelson.dev/address-slot";
        let Some(text) = self.metadata.annotations.get(ANNOTATION) else { return Ok(None) };
        let slot = text.parse().with_context(|| format!("{}: {ANNOTATION} is a number, not {text:?}", self.pod_name()))?;
        Ok(Some(slot))
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodSpec {
    #[serde(default)]
    pub(crate) node_name: Option<String>,
    #[serde(default = "default_service_account")]
    pub(crate) service_account_name: String,
    #[serde(default)]
    pub(crate) containers: Vec<Container>,
    #[serde(default)]
    pub(crate) restart_policy: RestartPolicy,
    /// Seconds between SIGTERM and SIGKILL. Kubernetes' default is 30; a laboratory has no use for that.
    #[serde(default = "default_grace")]
    pub(crate) termination_grace_period_seconds: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum RestartPolicy {
    #[default]
    Always,
    OnFailure,
    Never,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Container {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) command: Vec<String>,
    #[serde(default)]
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) env: Vec<EnvVar>,
    #[serde(default)]
    pub(crate) working_dir: Option<String>,
    #[serde(default)]
    pub(crate) readiness_probe: Option<Probe>,
    #[serde(default)]
    pub(crate) ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerPort {
    #[serde(default)]
    pub(crate) name: Option<String>,
    pub(crate) container_port: u16,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EnvVar {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) value: String,
    #[serde(default)]
    pub(crate) value_from: Option<ValueFrom>,
}

/// Only the downward API; secrets and config maps have no place in a laboratory.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ValueFrom {
    pub(crate) field_ref: FieldRef,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FieldRef {
    pub(crate) field_path: String,
}

/// A readiness probe; its thresholds and delays are not honoured: it is asked at every tick until it succeeds once.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Probe {
    #[serde(default)]
    pub(crate) http_get: Option<HttpGet>,
    #[serde(default)]
    pub(crate) tcp_socket: Option<TcpSocket>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct HttpGet {
    #[serde(default = "root_path")]
    pub(crate) path: String,
    pub(crate) port: Port,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct TcpSocket {
    pub(crate) port: Port,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Port {
    Number(u16),
    Name(String),
}

impl Port {
    /// The port's number; a name is looked up among the container's ports.
    pub(crate) fn of(&self, container: &Container) -> Option<u16> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Name(name) => {
                let named = container.ports.iter().find(|port| port.name.as_ref() == Some(name));
                named.map(|port| port.container_port)
            }
        }
    }
}

fn default_namespace() -> String {
    "default".to_owned()
}

fn default_service_account() -> String {
    "default".to_owned()
}

fn default_grace() -> u64 {
    5
}

fn root_path() -> String {
    "/".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: keelson}}
---
apiVersion: v1
kind: Pod
metadata: {name: page, namespace: shop, labels: {app: page}}
spec: {nodeName: node-1, containers: [{name: page, command: [shop, page]}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: out
  namespace: shop
  labels: {istio.io/dataplane-mode: none}
  annotations: {keelson.dev/ip-families: IPv6}
spec: {containers: []}
---
apiVersion: v1
kind: Service
metadata: {name: page, namespace: shop}
spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd96::1'], selector: {app: page}, ports: [{port: 9080}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nothing, namespace: shop}
";

    #[test]
    fn a_folder_is_read() {
        let objects = Objects::parse(FOLDER).unwrap();
        let page = &objects.pods[&"shop/page".parse().unwrap()];
        let out = &objects.pods[&"shop/out".parse().unwrap()];
        assert_eq!(page.spec.containers[0].command, ["shop", "page"]);
        assert_eq!(page.spec.service_account_name, "default");
        assert_eq!((objects.enrolled(page), objects.enrolled(out)), (true, false));
        assert_eq!(objects.families(page).unwrap(), [Family::V4, Family::V6]);
        assert_eq!(objects.families(out).unwrap(), [Family::V6]);
        let service = &objects.services[0];
        assert_eq!(service.cluster_ips().len(), 2);
        assert_eq!((service.headless(), service.selects(page), service.selects(out)), (false, true, false));
    }

    #[test]
    fn an_error_names_the_object() {
        let error = Objects::parse("{apiVersion: v1, kind: Pod, metadata: {name: broken}}").unwrap_err();
        assert!(format!("{error:#}").starts_with("Pod broken: "), "{error:#}");
    }
}
