//! The cluster, by what its maker wrote down.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::{in_netns, wait_until};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::Metrics;

/// The file with a cluster's state, as `cargo xtask cluster` writes it.
const STATE: &str = "KEELSON_CLUSTER";
/// The `meshctl` to use.
const MESHCTL: &str = "KEELSON_MESHCTL";

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_mins(2);

/// A cluster with the mesh in it.
#[derive(Clone, Debug)]
pub struct Cluster {
    state: State,
    kubectl: PathBuf,
    meshctl: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
struct State {
    name: String,
    kubeconfig: PathBuf,
    nodes: Vec<Node>,
    programs: Vec<PathBuf>,
}

/// A node of the cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    pub name: String,
    /// The file of its network namespace.
    pub netns: PathBuf,
    /// What is its own on disk.
    pub folder: PathBuf,
    init: Option<Init>,
}

#[derive(Clone, Debug, Deserialize)]
struct Init {
    pid: i32,
}

impl Cluster {
    /// The cluster of this run.
    ///
    /// # Errors
    ///
    /// When there is none: these tests are run by `cargo xtask test --k8s`.
    pub fn find() -> Result<Self> {
        let named = |variable: &str| {
            env::var_os(variable)
                .map(PathBuf::from)
                .with_context(|| format!("{variable} is not set: run `cargo xtask test --k8s`"))
        };
        let (file, meshctl) = (named(STATE)?, named(MESHCTL)?);
        let text = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let state: State = serde_json::from_slice(&text).with_context(|| format!("{} is no cluster's state", file.display()))?;
        let kubectl = state.programs.iter().map(|folder| folder.join("kubectl")).find(|file| file.exists());
        Ok(Self { kubectl: kubectl.context("the cluster's kubectl has gone")?, meshctl, state })
    }

    /// As `cargo xtask cluster up --name` was given it.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    pub fn nodes(&self) -> &[Node] {
        &self.state.nodes
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.state.kubeconfig
    }

    /// What kubectl prints, trimmed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        text_of(&self.kubectl_command(arguments).output()?, "kubectl", arguments)
    }

    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.state.kubeconfig).args(arguments).stdin(Stdio::null());
        command
    }

    /// What it prints with `-o json`.
    pub fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let text = self.kubectl(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {} -o json printed something else", arguments.join(" ")))
    }

    /// Applies manifests, YAML or JSON.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        let mut command = self.kubectl_command(&arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("a pipe was asked for")?.write_all(manifests.as_bytes())?;
        text_of(&child.wait_with_output()?, "kubectl", &arguments).map(drop)
    }

    /// Runs meshctl against the cluster; its exit status is the test's to judge.
    pub fn meshctl(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.meshctl);
        command.arg("--kubeconfig").arg(&self.state.kubeconfig).args(arguments).stdin(Stdio::null());
        command.output().with_context(|| format!("start {}", self.meshctl.display()))
    }

    /// What meshctl prints; an error unless all went well.
    pub fn meshctl_text(&self, arguments: &[&str]) -> Result<String> {
        text_of(&self.meshctl(arguments)?, "meshctl", arguments)
    }

    /// What the node proxies have counted, of all nodes together.
    pub fn metrics(&self) -> Result<Metrics> {
        let mut all = Metrics::default();
        for node in &self.state.nodes {
            all.add(&in_netns(&node.netns, Metrics::fetch)?.with_context(|| format!("the metrics of {}", node.name))?);
        }
        Ok(all)
    }

    /// Asks `condition` until it is true.
    #[allow(clippy::unused_self, reason = "reads as what it is: waiting for the cluster")]
    pub fn wait(&self, what: &str, condition: impl FnMut() -> Result<bool>) -> Result<()> {
        wait_until(what, PATIENCE, condition)
    }

    /// Until every pod of a namespace is ready, and captured if `captured` says so.
    pub fn await_pods(&self, namespace: &str, captured: bool) -> Result<()> {
        self.wait(&format!("pods of {namespace}"), || {
            let pods: Value = self.json(&["get", "pods", "--namespace", namespace])?;
            let pods = pods["items"].as_array().cloned().unwrap_or_default();
            ensure!(!pods.is_empty(), "there are none");
            for pod in &pods {
                let name = &pod["metadata"]["name"];
                ensure!(is_ready(pod), "{name} is not ready: {}", pod["status"]["containerStatuses"]);
                let annotation = &pod["metadata"]["annotations"]["ambient.istio.io/redirection"];
                ensure!((annotation == "enabled") == captured, "{name} has the annotation {annotation}");
            }
            Ok(true)
        })
    }
}

/// Whether a pod's condition says so.
pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

impl Node {
    /// A command in all of the node's namespaces, with the machine's programs.
    pub fn command(&self, program: &str) -> Result<Command> {
        let init = self.init.as_ref().with_context(|| format!("{} does not run", self.name))?;
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &init.pid.to_string(),
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--cgroup",
            "--wd=/",
            "--",
        ]);
        command.arg(program);
        Ok(command)
    }

    /// What a command prints on the node, trimmed.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        text_of(&self.command(program)?.args(arguments).output()?, program, arguments)
    }
}

fn text_of(output: &Output, program: &str, arguments: &[&str]) -> Result<String> {
    let (out, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{program} {}: {}\n{out}{complaints}", arguments.join(" "), output.status);
    Ok(out.trim().to_owned())
}
