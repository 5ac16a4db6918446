//! What a node's admin endpoints answer, as far as tables show it. Fields that are not read here stay in the raw value.

use std::net::SocketAddr;

use serde::{Deserialize, de::DeserializeOwned};

/// `GET /status`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) node: String,
    pub(crate) version: String,
    pub(crate) ready: bool,
    /// Why it is not ready.
    pub(crate) reasons: Vec<String>,
    pub(crate) controller_connected: bool,
    pub(crate) workloads: u64,
    pub(crate) services: u64,
    pub(crate) policies: u64,
    pub(crate) connections: u64,
    pub(crate) pods: u64,
    /// Of each worker.
    pub(crate) worker_busy_permille: Vec<u64>,
    pub(crate) uptime_seconds: u64,
}

/// Something that lists are made of.
pub(crate) trait Listed: DeserializeOwned {
    /// In messages: "no workload \"page\"".
    const ONE: &str;
    const MANY: &str;

    /// Under which nodes that speak of the same thing agree.
    fn id(&self) -> String;

    /// The namespaces and names by which it may be asked for.
    fn names(&self) -> Vec<(&str, &str)>;

    /// By what lists are sorted.
    fn order(&self) -> (Vec<(&str, &str)>, u64) {
        (self.names(), 0)
    }
}

/// `GET /config_dump`: `workloads`.
#[derive(Debug, Deserialize)]
pub(crate) struct Workload {
    pub(crate) uid: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    #[serde(rename = "workloadIps")]
    pub(crate) addresses: Vec<String>,
    pub(crate) node: String,
    pub(crate) protocol: String,
    pub(crate) identity: String,
}

impl Listed for Workload {
    const ONE: &str = "workload";
    const MANY: &str = "workloads";

    fn id(&self) -> String {
        self.uid.clone()
    }

    fn names(&self) -> Vec<(&str, &str)> {
        vec![(&self.namespace, &self.name)]
    }
}

/// `GET /config_dump`: `services`.
#[derive(Debug, Deserialize)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) hostname: String,
    /// Prefixes; one address has the longest.
    pub(crate) vips: Vec<String>,
    pub(crate) ports: Vec<Port>,
    pub(crate) endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Port {
    #[serde(rename = "port")]
    pub(crate) number: u16,
    /// Zero: a named port, each endpoint has its own.
    #[serde(rename = "targetPort")]
    pub(crate) target: u16,
    /// Empty when it was not declared.
    pub(crate) protocol: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) healthy: bool,
}

impl Listed for Service {
    const ONE: &str = "service";
    const MANY: &str = "services";

    fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.hostname)
    }

    fn names(&self) -> Vec<(&str, &str)> {
        vec![(&self.namespace, &self.name), (&self.namespace, &self.hostname)]
    }
}

/// `GET /config_dump`: `policies`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Policy {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) action: String,
    pub(crate) scope: String,
    pub(crate) dry_run: bool,
    pub(crate) rules: Vec<serde_json::Value>,
}

impl Listed for Policy {
    const ONE: &str = "policy";
    const MANY: &str = "policies";

    fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn names(&self) -> Vec<(&str, &str)> {
        vec![(&self.namespace, &self.name)]
    }
}

/// `GET /config_dump`: `pods`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pod {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) service_account: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) state: String,
    pub(crate) connections: u64,
    pub(crate) cpu_seconds: f64,
}

impl Listed for Pod {
    const ONE: &str = "captured pod";
    const MANY: &str = "captured pods";

    fn id(&self) -> String {
        self.uid.clone()
    }

    fn names(&self) -> Vec<(&str, &str)> {
        vec![(&self.namespace, &self.name)]
    }
}

/// `GET /config_dump`: `certificates`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CertificateEntry {
    pub(crate) identity: String,
    pub(crate) state: String,
    pub(crate) last_error: Option<String>,
    /// Nothing before the first one was signed.
    pub(crate) cert_chain: Option<Vec<Certificate>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Certificate {
    pub(crate) serial_number: String,
    pub(crate) valid_from: String,
    pub(crate) expiration_time: String,
}

impl Listed for CertificateEntry {
    const ONE: &str = "certificate";
    const MANY: &str = "certificates";

    fn id(&self) -> String {
        self.identity.clone()
    }

    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    fn names(&self) -> Vec<(&str, &str)> {
        let account = self.identity.split_once("/ns/").and_then(|(_, rest)| rest.split_once("/sa/"));
        account.map(|(namespace, name)| [(namespace, name), (namespace, &*self.identity)]).into_iter().flatten().collect()
    }
}

/// A row of `GET /connections`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) direction: String,
    pub(crate) protocol: String,
    pub(crate) security: String,
    /// `namespace/name`, where the workload is known.
    pub(crate) source: Option<String>,
    pub(crate) destination: Option<String>,
    /// `namespace/hostname`.
    pub(crate) service: Option<String>,
    pub(crate) source_address: SocketAddr,
    pub(crate) original_destination: SocketAddr,
    pub(crate) destination_address: Option<SocketAddr>,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) age_ms: u64,
}

impl Listed for Connection {
    const ONE: &str = "connection";
    const MANY: &str = "connections";

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn names(&self) -> Vec<(&str, &str)> {
        let ends = [&self.source, &self.destination, &self.service];
        ends.into_iter().flatten().filter_map(|end| end.split_once('/')).collect()
    }

    /// The oldest first, so that both halves of one connection stand together.
    fn order(&self) -> (Vec<(&str, &str)>, u64) {
        (Vec::new(), self.id)
    }
}
