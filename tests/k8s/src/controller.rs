//! A controller as a process on this machine, asking the cluster's API server by a kubeconfig.

use std::{path::Path, process::Stdio, sync::Arc};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::Mutex,
    time::timeout,
};

use crate::{DEADLINE, program};

/// Killed when dropped.
pub struct Controller {
    process: Child,
    admin: String,
    log: Arc<Mutex<String>>,
    _state: TempDir,
}

/// What nodes are told, as the controller shows it.
pub struct Published(Value);

impl Controller {
    /// Starts one; it may never become ready. It has read the kubeconfig when this returns.
    pub async fn start(kubeconfig: &Path, arguments: &[&str]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut process = Command::new(program("mesh-controller"))
            .arg("--source=kubernetes")
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--state")
            .arg(state.path())
            .args(["--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--webhook=127.0.0.1:0"])
            .args(arguments)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the controller starts");
        let mut lines = BufReader::new(process.stderr.take().expect("stderr is a pipe")).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let admin = timeout(DEADLINE, async {
            while let Some(line) = lines.next_line().await.unwrap() {
                eprintln!("controller: {line}");
                if let Some((_, rest)) = line.split_once(" admin=")
                    && let Some(address) = rest.split_whitespace().next()
                {
                    return address.to_owned();
                }
            }
            panic!("the controller has ended");
        });
        let admin = admin.await.expect("the controller says where it is asked");
        let kept = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("controller: {line}");
                let mut log = kept.lock().await;
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { process, admin, log, _state: state }
    }

    pub fn pid(&self) -> u32 {
        self.process.id().expect("it runs")
    }

    /// What it has logged since it said where it is asked.
    pub async fn log(&self) -> String {
        self.log.lock().await.clone()
    }

    /// Whether it is ready, and why not.
    pub async fn readiness(&self) -> (bool, String) {
        let (head, body) = self.get("/readyz").await;
        (head.starts_with("HTTP/1.1 200"), body)
    }

    pub async fn published(&self) -> Published {
        let (_, body) = self.get("/debug/config").await;
        Published(serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }

    pub async fn metrics(&self) -> String {
        self.get("/metrics").await.1
    }

    async fn get(&self, path: &str) -> (String, String) {
        let exchange = async {
            let mut stream = TcpStream::connect(&self.admin).await?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: controller\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = timeout(DEADLINE, exchange).await.expect("an answer in time").expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        (head.to_owned(), body.to_owned())
    }
}

impl Published {
    pub fn generation(&self) -> u64 {
        self.0["generation"].as_u64().unwrap()
    }

    /// A workload by the end of its uid.
    pub fn workload(&self, uid: &str) -> Option<&Value> {
        self.find("workloads", |found| found["uid"].as_str().is_some_and(|known| known.ends_with(uid)))
    }

    /// A service of Kubernetes.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Value> {
        self.find("services", |found| found["namespace"] == namespace && found["name"] == name)
    }

    pub fn policy(&self, namespace: &str, name: &str) -> Option<&Value> {
        self.find("policies", |found| found["namespace"] == namespace && found["name"] == name)
    }

    fn find(&self, of: &str, wanted: impl Fn(&Value) -> bool) -> Option<&Value> {
        self.0[of].as_array()?.iter().find(|found| wanted(found))
    }
}
