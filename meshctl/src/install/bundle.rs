//! The manifests that come with this program: the Helm chart's, rendered with its default values.

use anyhow::{Context, Result, anyhow};
use mesh_config::document::{Format, Limits, documents};
use serde_json::{Value, json};

use crate::k8s::{MANAGER, Object};

/// `cargo xtask manifests` writes it.
const MANIFESTS: &str = include_str!("../../../deploy/manifests/keelson.yaml");

/// The namespace in the rendered manifests; the name stands for nothing else there.
const NAMESPACE: &str = "keelson-system";

/// On every object of an installation.
pub(crate) const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "keelson");
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// What an installation is made of, in the order in which it is applied.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    objects: Vec<Value>,
}

impl Bundle {
    /// For this namespace.
    pub(crate) fn new(namespace: &str) -> Result<Self> {
        let text = MANIFESTS.replace(NAMESPACE, namespace);
        let mut objects = read(&text)?;
        for object in &mut objects {
            object["metadata"]["labels"][MANAGED_BY] = MANAGER.into();
        }
        Ok(Self { objects })
    }

    pub(crate) fn push(&mut self, mut object: Value) {
        object["metadata"]["labels"][PART_OF.0] = PART_OF.1.into();
        object["metadata"]["labels"][MANAGED_BY] = MANAGER.into();
        self.objects.push(object);
    }

    /// Namespaces first, then accounts and what they may do, then the rest as the chart has it.
    pub(crate) fn objects(&self) -> Result<Vec<Object>> {
        let mut objects: Vec<&Value> = self.objects.iter().collect();
        objects.sort_by_key(|object| match object["kind"].as_str() {
            Some("Namespace") => 0,
            Some("ServiceAccount") => 1,
            Some("ClusterRole" | "Role") => 2,
            Some("ClusterRoleBinding" | "RoleBinding") => 3,
            Some("ConfigMap") => 4,
            // Last: it judges what is applied after it.
            Some("ValidatingWebhookConfiguration") => 9,
            _ => 5,
        });
        objects.into_iter().cloned().map(Object::new).collect()
    }

    pub(crate) fn object(&mut self, kind: &str, name: &str) -> Result<&mut Value> {
        let found = self.objects.iter_mut().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
        found.with_context(|| format!("the manifests have no {kind} {name}"))
    }

    pub(crate) fn remove(&mut self, kind: &str, name: &str) {
        self.objects.retain(|object| object["kind"] != kind || object["metadata"]["name"] != name);
    }

    /// The pods of the controller or of the node.
    pub(crate) fn pods(&mut self, program: Program) -> Result<&mut Value> {
        Ok(&mut self.object(program.kind(), program.name())?["spec"]["template"]["spec"])
    }

    /// The program's own container.
    pub(crate) fn container(&mut self, program: Program) -> Result<&mut Value> {
        self.pods(program)?["containers"].get_mut(0).context("a pod has a container")
    }

    /// Sets `--name=value`, which the program has once.
    pub(crate) fn set_argument(&mut self, program: Program, name: &str, value: &str) -> Result<()> {
        let arguments = self.container(program)?["args"].as_array_mut().context("the program has arguments")?;
        let prefix = format!("--{name}=");
        arguments.retain(|argument| !argument.as_str().is_some_and(|argument| argument.starts_with(&prefix)));
        arguments.push(json!(format!("{prefix}{value}")));
        Ok(())
    }

    /// Adds `--name=value` to those of this name.
    pub(crate) fn add_argument(&mut self, program: Program, name: &str, value: &str) -> Result<()> {
        let arguments = self.container(program)?["args"].as_array_mut().context("the program has arguments")?;
        arguments.push(json!(format!("--{name}={value}")));
        Ok(())
    }

    /// Of an argument `--name=value`.
    pub(crate) fn argument(&mut self, program: Program, name: &str) -> Result<String> {
        let prefix = format!("--{name}=");
        let arguments = self.container(program)?["args"].as_array().cloned().unwrap_or_default();
        let found = arguments.iter().find_map(|argument| argument.as_str()?.strip_prefix(&prefix).map(str::to_owned));
        found.ok_or_else(|| anyhow!("the manifests give {} no --{name}", program.name()))
    }

    /// Sets the hub, and what else is given, of both images.
    pub(crate) fn set_image(&mut self, hub: Option<&str>, tag: Option<&str>, pull_policy: Option<&str>) -> Result<()> {
        for program in [Program::Controller, Program::Node] {
            let container = self.container(program)?;
            let image = container["image"].as_str().context("a container has an image")?.to_owned();
            let (path, old_tag) = image.rsplit_once(':').context("an image has a tag")?;
            let (old_hub, name) = path.rsplit_once('/').context("an image has a hub")?;
            container["image"] =
                format!("{}/{name}:{}", hub.unwrap_or(old_hub).trim_end_matches('/'), tag.unwrap_or(old_tag)).into();
            if let Some(policy) = pull_policy {
                container["imagePullPolicy"] = policy.into();
            }
        }
        Ok(())
    }
}

/// What runs in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Controller,
    Node,
}

impl Program {
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Controller => "Deployment",
            Self::Node => "DaemonSet",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Controller => "keelson-controller",
            Self::Node => "keelson-node",
        }
    }
}

/// The documents of a YAML text of this program's own.
pub(super) fn read(text: &str) -> Result<Vec<Value>> {
    documents(text.as_bytes(), Format::Yaml, Limits::default()).context("this program's own manifests")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_have_what_is_set() {
        let mut bundle = Bundle::new("mesh").unwrap();
        bundle.set_image(Some("r.test/x/"), Some("2"), Some("Always")).unwrap();
        assert_eq!(bundle.container(Program::Node).unwrap()["image"], "r.test/x/mesh-node:2");
        assert_eq!(bundle.container(Program::Controller).unwrap()["imagePullPolicy"], "Always");
        bundle.set_argument(Program::Node, "log", "debug").unwrap();
        assert_eq!(bundle.argument(Program::Node, "log").unwrap(), "debug");
        let objects = bundle.objects().unwrap();
        assert_eq!((objects[0].kind.as_str(), objects[0].name.as_str()), ("Namespace", "mesh"));
        assert_eq!(objects.last().unwrap().kind, "ValidatingWebhookConfiguration");
        for object in &objects {
            assert_eq!(object.value["metadata"]["labels"][PART_OF.0], PART_OF.1, "{}", object.told());
            assert!(!object.value.to_string().contains("keelson-system"), "{}", object.told());
        }
    }
}
