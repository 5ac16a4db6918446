//! A container's environment and command line, as the kubelet makes them.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Result, bail};

use crate::{
    objects::{Container, Pod},
    place::join_addresses,
};

/// What of a pod its containers may ask for (the downward API).
pub(crate) struct Downward<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) node: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) addresses: &'a [IpAddr],
}

impl Downward<'_> {
    /// `base`, then the pod's own facts (`POD_NAME`, `POD_NAMESPACE`, `POD_IP`, `POD_IPS`, `NODE_NAME`, `SERVICE_ACCOUNT`),
    /// then the container's `env`, each of which may use the ones before.
    pub(crate) fn environment(&self, base: &BTreeMap<String, String>, container: &Container) -> Result<BTreeMap<String, String>> {
        let mut environment = base.clone();
        let facts = [
            ("POD_NAME", "metadata.name"),
            ("POD_NAMESPACE", "metadata.namespace"),
            ("POD_IP", "status.podIP"),
            ("POD_IPS", "status.podIPs"),
            ("NODE_NAME", "spec.nodeName"),
            ("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        ];
        for (variable, path) in facts {
            environment.insert(variable.to_owned(), self.field(path)?);
        }
        for variable in &container.env {
            let value = match &variable.value_from {
                Some(source) => self.field(&source.field_ref.field_path)?,
                None => expand(&variable.value, &environment),
            };
            environment.insert(variable.name.clone(), value);
        }
        Ok(environment)
    }

    fn field(&self, path: &str) -> Result<String> {
        let metadata = &self.pod.metadata;
        Ok(match path {
            "metadata.name" => metadata.name.clone(),
            "metadata.namespace" => metadata.namespace.clone(),
            "metadata.uid" => self.uid.to_owned(),
            "spec.nodeName" => self.node.to_owned(),
            "spec.serviceAccountName" => self.pod.spec.service_account_name.clone(),
            "status.podIP" => self.addresses.first().map(ToString::to_string).unwrap_or_default(),
            "status.podIPs" => join_addresses(self.addresses),
            _ => match quoted(path, "metadata.labels").map(|key| metadata.labels.get(key)) {
                Some(value) => value.cloned().unwrap_or_default(),
                None => match quoted(path, "metadata.annotations").map(|key| metadata.annotations.get(key)) {
                    Some(value) => value.cloned().unwrap_or_default(),
                    None => bail!("the laboratory does not know the field {path}"),
                },
            },
        })
    }
}

/// The key of `parent['key']`.
fn quoted<'a>(path: &'a str, parent: &str) -> Option<&'a str> {
    path.strip_prefix(parent)?.strip_prefix("['")?.strip_suffix("']")
}

/// The container's command line, variables replaced.
pub(crate) fn command_line(container: &Container, environment: &BTreeMap<String, String>) -> Result<Vec<String>> {
    if container.command.is_empty() {
        bail!("container {} has no command: the laboratory runs commands, not images", container.name);
    }
    Ok(container.command.iter().chain(&container.args).map(|word| expand(word, environment)).collect())
}

/// Replaces `$(NAME)`; `$$(NAME)` stands for the text itself, an unknown name stays (Kubernetes' rule for commands).
fn expand(text: &str, environment: &BTreeMap<String, String>) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(position) = rest.find('$') {
        result += &rest[..position];
        rest = &rest[position..];
        if let Some(after) = rest.strip_prefix("$$") {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')')) {
            match environment.get(name) {
                Some(value) => result += value,
                None => result += &rest[..rest.len() - after.len()],
            }
            rest = after;
        } else {
            result.push('$');
            rest = &rest[1..];
        }
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Objects;

    #[test]
    fn variables_are_replaced_as_kubernetes_does() {
        let environment = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        let check = |text: &str, expected: &str| assert_eq!(expand(text, &environment), expected, "{text}");
        check("plain", "plain");
        check("x$(A)y$(A)", "x1y1");
        check("$(B)", "$(B)");
        check("$$(A)", "$(A)");
        check("cost: 5$ and $(A", "cost: 5$ and $(A");
    }

    #[test]
    fn a_container_knows_its_pod() {
        let text = "
apiVersion: v1
kind: Pod
metadata: {name: page-0, namespace: shop, labels: {version: v2}}
spec:
  serviceAccountName: shop-page
  containers:
  - name: page
    command: [shop, page]
    args: [--name, $(WHO)]
    env:
    - {name: VERSION, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['version']\"}}}
    - {name: WHO, value: $(POD_NAME)-$(VERSION)}
";
        let objects = Objects::parse(text).unwrap();
        let pod = objects.pods.values().next().unwrap();
        let addresses = ["10.65.0.2".parse().unwrap(), "fd64:0:0:1::2".parse().unwrap()];
        let downward = Downward { pod, node: "node-1", uid: "u", addresses: &addresses };
        let environment = downward.environment(&BTreeMap::new(), &pod.spec.containers[0]).unwrap();
        assert_eq!(environment["POD_IPS"], "10.65.0.2,fd64:0:0:1::2");
        assert_eq!(environment["SERVICE_ACCOUNT"], "shop-page");
        let words = command_line(&pod.spec.containers[0], &environment).unwrap();
        assert_eq!(words, ["shop", "page", "--name", "page-0-v2"]);
    }
}
