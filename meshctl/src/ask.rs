//! A question as people put it, and the model's answer: who asks whom for what, and what comes of it.

mod outcome;
mod place;
#[cfg(test)]
mod tests;
mod text;

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, anyhow};
use hyper::{HeaderMap, Method, header};
use mesh_policy::{
    explain::{Explanation, Question, Transport, explain},
    http::{Request, authority, normalize_path},
    model::{AppProtocol, Snapshot, TunnelProtocol, Workload},
};
pub(crate) use outcome::{Kind, Outcome};
pub(crate) use place::{nothing, service};
use serde::Serialize;

/// A call as it is written on the command line or in a file of expectations.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// NAMESPACE/NAME of a pod or service, a host name, or an address.
    pub(crate) from: String,
    /// Likewise.
    pub(crate) to: String,
    /// None: the first HTTP port of the service, else its first.
    pub(crate) port: Option<u16>,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

/// What comes of a call, and why.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
    /// `GET http://reviews.shop:9080/`.
    pub(crate) request: String,
    /// What the answer leaves out or supposes.
    pub(crate) remarks: Vec<String>,
    pub(crate) explanation: Explanation,
}

impl Call {
    /// Puts the call to a model.
    ///
    /// # Errors
    ///
    /// When its ends are not known there, and when it is no request that a node would take.
    pub(crate) fn put(&self, snapshot: &Snapshot) -> Result<Answer> {
        let source = self.source(snapshot)?;
        self.put_by(snapshot, &source)
    }

    /// The workload that calls.
    pub(crate) fn source(&self, snapshot: &Snapshot) -> Result<Arc<Workload>> {
        place::source(snapshot, &self.from)
    }

    pub(crate) fn put_by(&self, snapshot: &Snapshot, source: &Arc<Workload>) -> Result<Answer> {
        let place = place::target(snapshot, source, &self.to, self.port)?;
        let dialled = SocketAddr::new(place.address, place.port);
        let mut headers = self.headers()?;
        let named = match headers.remove(header::HOST) {
            Some(host) => host.to_str().context("the host header is no text")?.to_owned(),
            None if place.host_port == 80 => place.host.clone(),
            None => format!("{}:{}", place.host, place.host_port),
        };
        let host = authority(&named).with_context(|| format!("{named:?} is no host: the node answers 400"))?;
        let path = normalize_path(&self.path, snapshot.http().normalization);
        let path = path.with_context(|| format!("{:?} is no path: the node answers 400", self.path))?;
        let (before, query) = path.split_once('?').map_or((&*path, None), |(path, query)| (path, Some(query)));
        let method: Method = self.method.parse().map_err(|_| anyhow!("{:?} is no method", self.method))?;
        let request = Request {
            method: &method,
            scheme: "http",
            host: &host.host,
            host_port: host.port,
            path: before,
            query,
            headers: &headers,
            remote_ip: None,
        };
        let sni = (place.protocol == AppProtocol::Tls).then_some(&*host.host);
        let question = Question { source, dialled, sni, request: Some(request) };
        let captured = source.tunnel == TunnelProtocol::Hbone;
        let explanation = if captured { explain(snapshot, &question) } else { without_client_side(snapshot, &question) };
        let mut remarks = Vec::new();
        if !captured {
            remarks.push(format!(
                "{} is not captured: routes and DestinationRules do not apply to it, and it proves no identity",
                explanation.source
            ));
        }
        let written = format!("{method} http://{named}{path}");
        Ok(Answer { outcome: Outcome::of(&explanation), request: written, remarks, explanation })
    }

    fn headers(&self) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name: header::HeaderName = name.trim().parse().map_err(|_| anyhow!("{name:?} is no header's name"))?;
            let value = value.trim().parse().map_err(|_| anyhow!("{value:?} is no value of the header {name}"))?;
            headers.append(name, value);
        }
        Ok(headers)
    }
}

/// A client that no node has captured: the kernel's own balancing, in plain, whatever routes say.
fn without_client_side(snapshot: &Snapshot, question: &Question<'_>) -> Explanation {
    let mut model = snapshot.model().clone();
    model.routes.clear();
    model.traffic.clear();
    let mut explanation = explain(&model.snapshot(), question);
    for endpoint in explanation.backends.iter_mut().flat_map(|backend| &mut backend.endpoints) {
        endpoint.transport = Transport::Plaintext;
    }
    explanation
}
