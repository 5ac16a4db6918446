//! A meshed laboratory that a test owns.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    ops::Deref,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use harness::{Lab, LabOptions, http, leftovers, wait_until};
use serde_json::Value;
use tempfile::TempDir;

/// How long a test waits for a condition: far longer than it takes on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a laboratory begins with, beside its manifests.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Arguments for the controller, beside those that the laboratory gives.
    pub controller: Vec<String>,
    /// Arguments for every node proxy.
    pub node: Vec<String>,
}

/// A meshed laboratory on a folder of its own. Derefs to the [`Lab`].
#[derive(Debug)]
pub struct Mesh {
    /// Only `None` while it goes down.
    lab: Option<Lab>,
    folder: TempDir,
}

impl Deref for Mesh {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        self.lab.as_ref().expect("the lab is up")
    }
}

impl Mesh {
    /// Brings a lab up on these documents.
    pub fn up(documents: &[String]) -> Self {
        Self::up_with(&Options::default(), documents)
    }

    /// The same with settings of its own.
    pub fn up_with(options: &Options, documents: &[String]) -> Self {
        let folder = tempfile::Builder::new().prefix("keelson-test-").tempdir().unwrap();
        fs::write(folder.path().join("base.yaml"), documents.concat()).unwrap();
        let mut lab = LabOptions::new(folder.path()).unwrap();
        lab.controller_arguments.clone_from(&options.controller);
        lab.node_arguments.clone_from(&options.node);
        lab.deadline = Duration::from_mins(2);
        let begin = Instant::now();
        let lab = Lab::up(lab).unwrap();
        println!("lab {} with {} pods is up after {:.1?}", lab.id(), lab.status().pods().count(), begin.elapsed());
        Self { lab: Some(lab), folder }
    }

    /// Takes the lab down and checks that nothing is left of it.
    pub fn down(mut self) {
        let lab = self.lab.take().expect("the lab is up");
        let id = lab.id();
        lab.down().unwrap();
        assert_eq!(leftovers(&id).unwrap(), Vec::<String>::new());
    }

    /// The folder of manifests.
    pub fn manifests(&self) -> &Path {
        self.folder.path()
    }

    /// A pod's IPv4 address.
    pub fn v4(&self, pod: &str) -> IpAddr {
        self.pod(pod).unwrap().v4().expect("the pod has IPv4")
    }

    /// A pod's IPv6 address.
    pub fn v6(&self, pod: &str) -> IpAddr {
        self.pod(pod).unwrap().v6().expect("the pod has IPv6")
    }

    /// Runs `shop client tcp TARGET` in a pod; what became of the one connection.
    pub fn tcp(&self, pod: &str, target: impl ToString, extra: &[&str]) -> Value {
        let records = self.tcp_many(pod, target, extra);
        assert_eq!(records.len(), 1, "{records:?}");
        records.into_iter().next().expect("there is one")
    }

    /// The same with several connections (`-n`).
    pub fn tcp_many(&self, pod: &str, target: impl ToString, extra: &[&str]) -> Vec<Value> {
        let target = target.to_string();
        let mut words = vec!["shop", "client", "tcp", &target, "-o", "json", "--body", "--timeout", "20"];
        words.extend(extra);
        let output = self.exec(pod, &words).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.is_empty(), "{words:?} in {pod}: {}", String::from_utf8_lossy(&output.stderr));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// `ok`, or how a connection from `pod` failed.
    pub fn outcome(&self, pod: &str, target: impl ToString) -> String {
        self.tcp(pod, target, &[])["outcome"].as_str().expect("a record has an outcome").to_owned()
    }

    /// Runs a program in a pod that prints one JSON object.
    pub fn json(&self, pod: &str, words: &[&str]) -> Value {
        let output = self.exec(pod, words).unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last)
            .unwrap_or_else(|_| panic!("{words:?} in {pod}: {text} {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// `shop load …` in a pod; its report.
    pub fn load(&self, pod: &str, words: &[&str]) -> Value {
        let words: Vec<&str> = ["shop", "load"].iter().chain(words).copied().collect();
        self.json(pod, &words)
    }

    /// Asks the admin socket of a node.
    pub fn admin(&self, node: &str, path: &str) -> Result<Value> {
        let socket = self.node(node)?.runtime.join("admin.sock");
        let answer = http::get_unix(&socket, path, PATIENCE)?;
        serde_json::from_str(&answer.body).with_context(|| format!("{path} of {node}: {}", answer.body))
    }

    /// The sum of a metric's samples on a node whose labels contain all of `labels` (`reason="POLICY_DENY"`).
    pub fn metric(&self, node: &str, name: &str, labels: &[&str]) -> f64 {
        let socket = self.node(node).unwrap().runtime.join("admin.sock");
        let text = http::get_unix(&socket, "/metrics", PATIENCE).unwrap().body;
        let samples = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
                && labels.iter().all(|label| line.contains(label))
        });
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// How many connections a node has refused or lost for a reason, in all.
    pub fn failures(&self, node: &str, reason: &str) -> f64 {
        self.metric(node, "keelson_connection_failures_total", &[&format!("reason=\"{reason}\"")])
    }

    /// The lines of a node's log that contain all of `parts`.
    pub fn logged(&self, node: &str, parts: &[&str]) -> Vec<String> {
        let text = fs::read_to_string(self.node(node).unwrap().log).unwrap_or_default();
        let text = without_colours(&text);
        text.lines().filter(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned).collect()
    }

    /// Waits until a node's log has such a line.
    pub fn wait_logged(&self, node: &str, parts: &[&str]) {
        let what = format!("a line with {parts:?} in the log of {node}");
        wait_until(&what, PATIENCE, || Ok(!self.logged(node, parts).is_empty())).unwrap();
    }

    /// How many connections a pod's ledger has taken so far.
    pub fn taken(&self, pod: &str) -> usize {
        let log = fs::read_to_string(self.pod(pod).unwrap().log).unwrap_or_default();
        log.lines().filter(|line| line.starts_with("connection from ")).count()
    }

    /// Writes a file of manifests without waiting for anything.
    pub fn put(&self, file: &str, text: &str) {
        // Beside and renamed: nobody reads half of it.
        let path = self.manifests().join(file);
        let draft = path.with_extension("new");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, path).unwrap();
    }

    /// Removes a file of manifests without waiting for anything.
    pub fn take_away(&self, file: &str) {
        fs::remove_file(self.manifests().join(file)).unwrap();
    }

    /// What the controller says of an object, as text.
    pub fn object_status(&self, kind: &str, namespace: &str, name: &str) -> String {
        let path = self.manifests().join(".status/keelson").join(kind).join(namespace).join(format!("{name}.yaml"));
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Waits until every one of these connections ends as expected, all in one round, and says how long it took.
    pub fn settle_on(&self, what: &str, expected: &[(&str, SocketAddr, &str)]) -> Duration {
        let begin = Instant::now();
        let waited = wait_until(what, PATIENCE, || {
            for (pod, target, outcome) in expected {
                let found = self.outcome(pod, target);
                anyhow::ensure!(found == *outcome, "{pod} to {target}: {found}, not {outcome}");
            }
            Ok(true)
        });
        waited.unwrap();
        begin.elapsed()
    }

    /// `meshctl` with these arguments, to its end.
    #[allow(clippy::unused_self, reason = "it asks this mesh, which is the only one of the test")]
    pub fn meshctl(&self, arguments: &[&str]) -> Result<()> {
        let program = harness::Binaries::beside_current()?.folder.join("meshctl");
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
        anyhow::ensure!(output.status.success(), "meshctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

/// A failed test shows what the programs said: the logs go with the lab.
impl Drop for Mesh {
    fn drop(&mut self) {
        let Some(lab) = &self.lab else { return };
        if !thread::panicking() {
            return;
        }
        let status = lab.status();
        for problem in &status.problems {
            println!("problem: {problem}");
        }
        for log in status.controller.iter().map(|controller| &controller.log).chain(status.nodes.values().map(|node| &node.log)) {
            let text = without_colours(&fs::read_to_string(log).unwrap_or_default());
            let lines: Vec<&str> = text.lines().collect();
            let failed: Vec<&str> = lines.iter().copied().filter(|line| line.contains("connection failed")).collect();
            println!("--- the last failures in {}:\n{}", log.display(), failed[failed.len().saturating_sub(20)..].join("\n"));
            println!("--- the end of {}:\n{}", log.display(), lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// Text without ANSI escapes (ECMA-48, `ESC [ … m`).
fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain += before;
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    plain + rest
}
