//! What the admin endpoints answer. Paths and forms are ztunnel's where it has them.

use std::{
    sync::{Arc, atomic::AtomicBool, atomic::Ordering::Relaxed},
    time::SystemTime,
};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use serde_json::json;
use tokio::sync::watch;
use tracing::info;

use super::{dump, server::Endpoint};
use crate::{
    enrol::{Agent, cni::Standing},
    identity::Certificates,
    state::Store,
    telemetry::Telemetry,
    worker::Workers,
};

/// Whether the node is able to serve, and if not, why.
pub struct Readiness {
    /// A foreign program runs before ours at `connect()`: it may hide what applications dial.
    pub behind_foreign: AtomicBool,
    /// Pods that start now would not be captured first.
    pub cni: Arc<Standing>,
    pub draining: watch::Sender<bool>,
}

/// Sets the log's filter while running; the error says what is wrong with it.
pub type SetLog = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

pub struct Admin {
    pub node: String,
    pub instance: String,
    pub started: SystemTime,
    pub store: Arc<Store>,
    pub agent: Arc<Agent>,
    pub certificates: Arc<Certificates>,
    pub telemetry: Arc<Telemetry>,
    pub workers: Arc<Workers>,
    pub readiness: Arc<Readiness>,
    pub set_log: SetLog,
    pub log: std::sync::Mutex<String>,
}

type Answer = Response<Full<Bytes>>;

impl Admin {
    pub fn answer(&self, endpoint: Endpoint, request: &Request<Incoming>) -> Answer {
        let path = request.uri().path();
        match (endpoint, request.method(), path) {
            (Endpoint::Ready | Endpoint::Admin, &Method::GET, "/healthz/ready" | "/ready") => self.ready(),
            (Endpoint::Metrics | Endpoint::Admin, &Method::GET, "/metrics" | "/stats/prometheus") => self.metrics(),
            (Endpoint::Admin, &Method::GET, "/") => index(),
            (Endpoint::Admin, &Method::GET, "/config_dump") => json(&dump::config(self)),
            (Endpoint::Admin, &Method::GET, "/model") => self.model(),
            (Endpoint::Admin, &Method::GET, "/status") => json(&self.status()),
            (Endpoint::Admin, &Method::GET, "/connections") => json(&self.telemetry.rows()),
            (Endpoint::Admin, &Method::GET, "/logging") => text(StatusCode::OK, format!("{}\n", self.log_filter())),
            (Endpoint::Admin, &Method::POST, "/logging") => self.change_log(request.uri().query().unwrap_or_default()),
            (Endpoint::Admin, &Method::POST, "/drain" | "/quitquitquit") => {
                info!("drain asked for on the admin endpoint");
                self.readiness.draining.send_replace(true);
                text(StatusCode::OK, "draining\n".into())
            }
            (Endpoint::Admin, _, "/drain" | "/quitquitquit" | "/logging") => {
                text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n".into())
            }
            _ => text(StatusCode::NOT_FOUND, format!("nothing at {path}\n")),
        }
    }

    /// Why the node is not ready; nothing when it is.
    fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.store.generation() == 0 {
            reasons.push("no configuration yet: neither from the controller nor on disk".to_owned());
        }
        if self.readiness.behind_foreign.load(Relaxed) {
            reasons.push("a foreign program runs before ours at connect(): see meshctl check".to_owned());
        }
        reasons.extend(self.readiness.cni.problem());
        if *self.readiness.draining.borrow() {
            reasons.push("draining".to_owned());
        }
        reasons
    }

    fn ready(&self) -> Answer {
        let reasons = self.unready();
        if reasons.is_empty() {
            return text(StatusCode::OK, "ready\n".into());
        }
        text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
    }

    /// The model that the node acts on, for tools that decide as it does.
    fn model(&self) -> Answer {
        let body = mesh_proto::convert::archive(self.store.load().model());
        answer(StatusCode::OK, "application/octet-stream", Full::new(body.into()))
    }

    fn metrics(&self) -> Answer {
        for pod in self.agent.status() {
            self.telemetry.metrics.pod_cpu(&pod.record.namespace, &pod.record.name, pod.cpu.as_secs_f64());
        }
        let body = Full::new(self.telemetry.metrics.encode().into());
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        answer(StatusCode::OK, kind, body)
    }

    fn status(&self) -> serde_json::Value {
        let reasons = self.unready();
        let snapshot = self.store.load();
        json!({
            "node": self.node,
            "instance": self.instance,
            "version": env!("CARGO_PKG_VERSION"),
            "ready": reasons.is_empty(),
            "reasons": reasons,
            "controllerConnected": self.telemetry.metrics.xds_connected.get() == 1,
            "trustDomain": snapshot.mesh().trust_domain.as_str(),
            "workloads": snapshot.workloads().count(),
            "services": snapshot.services().count(),
            "policies": snapshot.policies().count(),
            "connections": self.telemetry.count(),
            "pods": self.agent.status().len(),
            "workerBusyPermille": self.workers.busy(),
            "uptimeSeconds": self.started.elapsed().unwrap_or_default().as_secs(),
        })
    }

    fn log_filter(&self) -> String {
        self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// `?level=info`, `?level=mesh_node::hbone=debug` (added to what is set) or `?reset`.
    fn change_log(&self, query: &str) -> Answer {
        let wanted = match query.split_once('=') {
            Some(("level", level)) if level.contains('=') || level.contains(',') => format!("{},{level}", self.log_filter()),
            Some(("level", level)) => level.to_owned(),
            _ if query == "reset" => "info".to_owned(),
            _ => return text(StatusCode::BAD_REQUEST, "?level=LEVEL, ?level=MODULE=LEVEL or ?reset\n".into()),
        };
        match (self.set_log)(&wanted) {
            Ok(()) => {
                wanted.clone_into(&mut self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
                text(StatusCode::OK, format!("{wanted}\n"))
            }
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{wanted:?} is no log filter: {error}\n")),
        }
    }
}

fn index() -> Answer {
    let paths = "\
GET  /healthz/ready      whether the node can serve, and why not
GET  /status             what the node is and knows, in short
GET  /config_dump        pods, workloads, services, policies, routes, certificates
GET  /model              the model as the node has it, for meshctl
GET  /connections        open connections
GET  /metrics            Prometheus metrics
GET  /logging            the log's filter
POST /logging?level=...  another filter; ?reset for the default
POST /drain              finish open connections and exit
";
    text(StatusCode::OK, paths.into())
}

fn json(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec_pretty(value) {
        Ok(body) => answer(StatusCode::OK, "application/json", Full::new(body.into())),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, body: String) -> Answer {
    answer(status, "text/plain; charset=utf-8", Full::new(body.into()))
}

fn answer(status: StatusCode, kind: &'static str, body: Full<Bytes>) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
