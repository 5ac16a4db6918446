//! `--set KEY=VALUE`: the part of the chart's values that needs no template.

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value, json};

use super::bundle::{Bundle, Program};

/// A value of the chart.
pub(crate) struct Setting {
    key: &'static str,
    set: fn(&mut Bundle, &str) -> Result<()>,
}

/// By key, as `deploy/helm/keelson/values.yaml` explains them. What is not here (resources, affinity, tolerations) is for Helm.
pub(crate) const SETTINGS: &[Setting] = &[
    Setting { key: "cluster.dnsDomain", set: |bundle, value| bundle.set_argument(Program::Controller, "dns-domain", value) },
    Setting { key: "cluster.name", set: cluster_name },
    Setting {
        key: "controller.leafLifetime",
        set: |bundle, value| bundle.set_argument(Program::Controller, "leaf-lifetime", value),
    },
    Setting { key: "controller.log", set: |bundle, value| bundle.set_argument(Program::Controller, "log", value) },
    Setting { key: "controller.logFormat", set: |bundle, value| log_format(bundle, Program::Controller, value) },
    Setting { key: "controller.replicas", set: replicas },
    Setting { key: "image.hub", set: |bundle, value| bundle.set_image(Some(value), None, None) },
    Setting { key: "image.pullPolicy", set: |bundle, value| bundle.set_image(None, None, Some(pull_policy(value)?)) },
    Setting { key: "image.tag", set: |bundle, value| bundle.set_image(None, Some(value), None) },
    Setting { key: "node.cni.binDir", set: |bundle, value| folder(bundle, "cni-bin", value) },
    Setting { key: "node.cni.confDir", set: |bundle, value| folder(bundle, "cni-conf", value) },
    Setting { key: "node.cni.exemptNamespaces", set: exempt },
    Setting { key: "node.cni.wait", set: |bundle, value| bundle.set_argument(Program::Node, "cni-wait", value) },
    Setting { key: "node.drain", set: |bundle, value| bundle.set_argument(Program::Node, "drain", value) },
    Setting { key: "node.log", set: |bundle, value| bundle.set_argument(Program::Node, "log", value) },
    Setting { key: "node.logFormat", set: |bundle, value| log_format(bundle, Program::Node, value) },
    Setting { key: "node.otlp", set: |bundle, value| bundle.set_argument(Program::Node, "otlp", value) },
    Setting { key: "node.traceSampling", set: trace_sampling },
    Setting { key: "node.workers", set: workers },
    Setting { key: "webhook.enabled", set: webhook_enabled },
    Setting { key: "webhook.failurePolicy", set: webhook_policy },
];

impl Setting {
    /// Applies `KEY=VALUE`.
    pub(crate) fn apply(bundle: &mut Bundle, key: &str, value: &str) -> Result<()> {
        let found = SETTINGS.iter().find(|setting| setting.key == key).ok_or_else(|| unknown(key))?;
        (found.set)(bundle, value).with_context(|| format!("--set {key}={value}"))
    }
}

fn unknown(key: &str) -> anyhow::Error {
    let keys: Vec<_> = SETTINGS.iter().map(|setting| setting.key).collect();
    anyhow!(
        "--set {key}: there is no such setting here. There are {}, and meshConfig.FIELD. Others are for the Helm chart",
        keys.join(", ")
    )
}

fn cluster_name(bundle: &mut Bundle, value: &str) -> Result<()> {
    bundle.set_argument(Program::Controller, "cluster", value)?;
    bundle.set_argument(Program::Node, "cluster", value)
}

fn replicas(bundle: &mut Bundle, value: &str) -> Result<()> {
    let count: u16 = value.parse().context("a whole number")?;
    bundle.object("Deployment", "keelson-controller")?["spec"]["replicas"] = count.into();
    Ok(())
}

fn log_format(bundle: &mut Bundle, program: Program, value: &str) -> Result<()> {
    ensure!(["text", "json"].contains(&value), "text or json");
    bundle.set_argument(program, "log-format", value)
}

fn pull_policy(value: &str) -> Result<&str> {
    ensure!(["Always", "IfNotPresent", "Never"].contains(&value), "Always, IfNotPresent or Never");
    Ok(value)
}

fn workers(bundle: &mut Bundle, value: &str) -> Result<()> {
    let count: u16 = value.parse().context("a whole number")?;
    if count > 0 { bundle.set_argument(Program::Node, "workers", value) } else { Ok(()) }
}

fn trace_sampling(bundle: &mut Bundle, value: &str) -> Result<()> {
    let percent: f64 = value.parse().context("a number")?;
    ensure!((0.0..=100.0).contains(&percent), "a percentage, from 0 to 100");
    bundle.set_argument(Program::Node, "trace-sampling", value)
}

fn exempt(bundle: &mut Bundle, value: &str) -> Result<()> {
    let known = bundle.argument(Program::Node, "cni-exempt")?;
    bundle.set_argument(Program::Node, "cni-exempt", &format!("{known},{value}"))?;
    value.split(',').try_for_each(|namespace| bundle.add_argument(Program::Controller, "exempt-namespace", namespace))
}

/// A folder of the nodes, which has the same path inside.
fn folder(bundle: &mut Bundle, volume: &str, value: &str) -> Result<()> {
    ensure!(value.starts_with('/'), "an absolute path");
    bundle.set_argument(Program::Node, &format!("{volume}-dir"), value)?;
    let pods = bundle.pods(Program::Node)?;
    let volumes = pods["volumes"].as_array_mut().context("a pod has volumes")?;
    let found = volumes.iter_mut().find(|found| found["name"] == volume).context("no such volume")?;
    found["hostPath"]["path"] = value.into();
    let mounts = pods["containers"][0]["volumeMounts"].as_array_mut().context("a container has mounts")?;
    let found = mounts.iter_mut().find(|found| found["name"] == volume).context("no such mount")?;
    found["mountPath"] = value.into();
    Ok(())
}

const WEBHOOK: (&str, &str) = ("ValidatingWebhookConfiguration", "keelson");

fn webhook_enabled(bundle: &mut Bundle, value: &str) -> Result<()> {
    match value {
        "true" => {}
        "false" => bundle.remove(WEBHOOK.0, WEBHOOK.1),
        _ => bail!("true or false"),
    }
    Ok(())
}

fn webhook_policy(bundle: &mut Bundle, value: &str) -> Result<()> {
    ensure!(["Ignore", "Fail"].contains(&value), "Ignore or Fail");
    bundle.object(WEBHOOK.0, WEBHOOK.1)?["webhooks"][0]["failurePolicy"] = value.into();
    Ok(())
}

/// `meshConfig.FIELD=VALUE`: together they make the ConfigMap of mesh-wide settings.
#[derive(Debug, Default)]
pub(crate) struct MeshConfigValue(Map<String, Value>);

impl MeshConfigValue {
    /// Whether the key is one of these.
    pub(crate) fn take(&mut self, key: &str, value: &str) -> Result<bool> {
        let Some(path) = key.strip_prefix("meshConfig.") else { return Ok(false) };
        let value: Value = serde_saphyr::from_str(value).map_err(|error| anyhow!("--set {key}: {error}"))?;
        let mut names: Vec<&str> = path.split('.').collect();
        let last = names.pop().filter(|name| !name.is_empty()).with_context(|| format!("--set {key}: which field?"))?;
        let mut at = &mut self.0;
        for name in names {
            let next = at.entry(name).or_insert_with(|| json!({}));
            at = next.as_object_mut().with_context(|| format!("--set {key}: {name} is set to a value already"))?;
        }
        at.insert(last.to_owned(), value);
        Ok(true)
    }

    /// Adds the ConfigMap and its namespace, if anything was set.
    pub(crate) fn add_to(self, bundle: &mut Bundle) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let text = serde_saphyr::to_string(&Value::Object(self.0)).map_err(|error| anyhow!("{error}"))?;
        let namespace = mesh_config::validate::ROOT_NAMESPACE;
        bundle.push(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }));
        bundle.push(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": mesh_config::validate::MESH_CONFIG_NAME, "namespace": namespace },
            "data": { "mesh": text },
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_a_value_of_the_chart() {
        let values: Value = serde_saphyr::from_str(include_str!("../../../deploy/helm/keelson/values.yaml")).unwrap();
        for setting in SETTINGS {
            let pointer = format!("/{}", setting.key.replace('.', "/"));
            assert!(values.pointer(&pointer).is_some(), "{}", setting.key);
        }
    }

    #[test]
    fn settings_change_the_manifests_and_nothing_is_ignored() {
        let mut bundle = Bundle::new("keelson-system").unwrap();
        for (key, value) in [
            ("controller.replicas", "2"),
            ("node.cni.confDir", "/etc/other"),
            ("node.cni.exemptNamespaces", "a,b"),
            ("webhook.failurePolicy", "Ignore"),
            ("cluster.name", "east"),
        ] {
            Setting::apply(&mut bundle, key, value).unwrap();
        }
        assert_eq!(bundle.object("Deployment", "keelson-controller").unwrap()["spec"]["replicas"], 2);
        assert_eq!(bundle.argument(Program::Node, "cni-exempt").unwrap(), "keelson-system,kube-system,a,b");
        assert_eq!(bundle.argument(Program::Node, "cni-conf-dir").unwrap(), "/etc/other");
        assert_eq!(bundle.argument(Program::Node, "cluster").unwrap(), "east");
        for (key, value) in
            [("nodes.log", "x"), ("controller.replicas", "many"), ("webhook.enabled", "1"), ("node.cni.binDir", "x")]
        {
            assert!(Setting::apply(&mut bundle, key, value).is_err(), "{key}");
        }
    }

    #[test]
    fn mesh_wide_settings_make_a_config_map() {
        let mut settings = MeshConfigValue::default();
        assert!(settings.take("meshConfig.accessLogFile", "/dev/stdout").unwrap());
        assert!(settings.take("meshConfig.outboundTrafficPolicy.mode", "REGISTRY_ONLY").unwrap());
        assert!(!settings.take("node.log", "info").unwrap());
        assert!(settings.take("meshConfig.accessLogFile.x", "1").is_err());
        let mut bundle = Bundle::new("keelson-system").unwrap();
        settings.add_to(&mut bundle).unwrap();
        let text = bundle.object("ConfigMap", "istio").unwrap()["data"]["mesh"].as_str().unwrap().to_owned();
        assert!(text.contains("mode: REGISTRY_ONLY"), "{text}");
    }
}
