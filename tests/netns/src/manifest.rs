//! Kubernetes objects in a few words. JSON is YAML: a document a line.

use serde_json::{Value, json};

/// A namespace, in the mesh as a whole or not.
pub fn namespace(name: &str, meshed: bool) -> String {
    let mode = if meshed { "keelson" } else { "none" };
    document(&json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": name, "labels": { "istio.io/dataplane-mode": mode } },
    }))
}

/// A node with the ranges that the laboratory gives to its pods; `index` counts from 1.
pub fn node(name: &str, index: usize) -> String {
    let ranges = [format!("10.{}.0.0/16", 64 + index), format!("fd64:0:0:{index:x}::/64")];
    document(&json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name }, "spec": { "podCIDR": ranges[0], "podCIDRs": ranges },
    }))
}

/// A service over the pods with the label `app: <name>`, dual-stack: `10.96.0.<host>` and `fd96::<host>`.
pub fn service(namespace: &str, name: &str, host: u8, ports: &[u16]) -> String {
    let addresses = [format!("10.96.0.{host}"), format!("fd96::{host:x}")];
    let ports: Vec<Value> =
        ports.iter().map(|port| json!({ "name": format!("tcp-{port}"), "port": port, "targetPort": port })).collect();
    document(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "clusterIP": addresses[0], "clusterIPs": addresses, "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "PreferDualStack", "selector": { "app": name }, "ports": ports,
        },
    }))
}

/// The same with ports that have names, and so protocols: name, port, target port.
pub fn service_with(namespace: &str, name: &str, host: u8, ports: &[(&str, u16, u16)]) -> String {
    let addresses = [format!("10.96.0.{host}"), format!("fd96::{host:x}")];
    let port = |(name, port, target): &(&str, u16, u16)| json!({ "name": name, "port": port, "targetPort": target });
    let ports: Vec<Value> = ports.iter().map(port).collect();
    document(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "clusterIP": addresses[0], "clusterIPs": addresses, "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "PreferDualStack", "selector": { "app": name }, "ports": ports,
        },
    }))
}

/// An AuthorizationPolicy; `app` selects pods by their label, without it all of the namespace.
pub fn policy(namespace: &str, name: &str, app: Option<&str>, action: &str, rules: &Value) -> String {
    let mut spec = json!({ "action": action, "rules": rules });
    if let Some(app) = app {
        spec["selector"] = json!({ "matchLabels": { "app": app } });
    }
    let metadata = json!({ "name": name, "namespace": namespace });
    document(&json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec,
    }))
}

/// A PeerAuthentication named `default` or, with `app`, after the pods that it selects; `ports` have modes of their own.
pub fn peer_authentication(namespace: &str, app: Option<&str>, mode: &str, ports: &[(u16, &str)]) -> String {
    let mut spec = json!({ "mtls": { "mode": mode } });
    if let Some(app) = app {
        spec["selector"] = json!({ "matchLabels": { "app": app } });
    }
    for (port, mode) in ports {
        spec["portLevelMtls"][port.to_string()] = json!({ "mode": mode });
    }
    let metadata = json!({ "name": app.unwrap_or("default"), "namespace": namespace });
    document(&json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": metadata, "spec": spec,
    }))
}

/// A pod in the making; its name is `namespace/name`, and name, label `app` and service account are the same until said otherwise.
#[derive(Clone, Debug)]
pub struct Pod {
    namespace: String,
    name: String,
    node: String,
    app: String,
    account: String,
    annotations: Vec<(&'static str, String)>,
    labels: Vec<(String, String)>,
    containers: Vec<Value>,
    grace: u64,
}

/// A pod without containers.
pub fn pod(path: &str, node: &str) -> Pod {
    let (namespace, name) = path.split_once('/').expect("NAMESPACE/NAME");
    Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        node: node.to_owned(),
        app: name.to_owned(),
        account: name.to_owned(),
        annotations: Vec::new(),
        labels: Vec::new(),
        containers: Vec::new(),
        grace: 1,
    }
}

impl Pod {
    /// Another label `app` than its name.
    #[must_use]
    pub fn app(mut self, app: &str) -> Self {
        app.clone_into(&mut self.app);
        self
    }

    /// Another service account than its name.
    #[must_use]
    pub fn account(mut self, account: &str) -> Self {
        account.clone_into(&mut self.account);
        self
    }

    /// One more label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Its own mode, whatever its namespace's: `keelson` or `none`.
    #[must_use]
    pub fn mode(self, mode: &str) -> Self {
        self.label("istio.io/dataplane-mode", mode)
    }

    /// Seconds that it has after it was told to go, instead of one.
    #[must_use]
    pub fn grace(mut self, seconds: u64) -> Self {
        self.grace = seconds;
        self
    }

    /// `IPv4` or `IPv6` instead of both.
    #[must_use]
    pub fn families(mut self, families: &'static str) -> Self {
        self.annotations.push(("keelson.dev/ip-families", families.to_owned()));
        self
    }

    /// An address of its node that an earlier pod may have had; slots from 50,000 on are never given otherwise.
    #[must_use]
    pub fn address_slot(mut self, slot: u32) -> Self {
        self.annotations.push(("keelson.dev/address-slot", slot.to_string()));
        self
    }

    /// One more container; ready when it listens on `port`.
    #[must_use]
    pub fn runs(mut self, command: &[&str], port: Option<u16>) -> Self {
        let mut container = json!({ "name": format!("c{}", self.containers.len()), "command": command });
        if let Some(port) = port {
            container["readinessProbe"] = json!({ "tcpSocket": { "port": port } });
        }
        self.containers.push(container);
        self
    }

    /// Nothing but a place to run programs in.
    #[must_use]
    pub fn idle(self) -> Self {
        self.runs(&["shop", "idle"], None)
    }

    /// The shop's line protocol on a port.
    #[must_use]
    pub fn ledger(self, port: u16) -> Self {
        self.runs(&["shop", "ledger", "--port", &port.to_string()], Some(port))
    }

    /// The shop's ports 9001 (echo), 9002 (sink) and 9003 (source).
    #[must_use]
    pub fn echo(self) -> Self {
        self.runs(&["shop", "echo"], Some(9001))
    }

    /// The object.
    pub fn document(&self) -> String {
        let mut labels = json!({ "app": self.app });
        for (key, value) in &self.labels {
            labels[key] = json!(value);
        }
        let mut metadata = json!({ "name": self.name, "namespace": self.namespace, "labels": labels });
        for (key, value) in &self.annotations {
            metadata["annotations"][key] = json!(value);
        }
        document(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
            "spec": {
                "nodeName": self.node, "serviceAccountName": self.account, "terminationGracePeriodSeconds": self.grace,
                "containers": self.containers,
            },
        }))
    }
}

fn document(object: &Value) -> String {
    format!("---\n{object}\n")
}
