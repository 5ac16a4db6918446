//! From a document to a typed object, or a refusal that names object, field and cause.
//!
//! A refused object changes nothing but its own status: whoever holds the set of objects keeps its last good version.
//! Unknown fields refuse a policy, because what is not understood might be what narrows it; elsewhere they are
//! reported and passed over.

mod core;
mod destination_rule;
mod entry;
mod gateway;
mod host;
mod mesh;
mod policy;
mod problem;
mod span;
mod telemetry;
#[cfg(test)]
mod tests;
mod virtual_service;

use std::{fmt, sync::Arc};

pub use mesh::{MESH_CONFIG_KEY, MESH_CONFIG_NAME, ROOT_NAMESPACE, mesh_config, parse_duration};
pub use problem::{Cause, Problem};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    kinds::{Kind, Object, ObjectKey, Recognised, recognise},
    status::{Code, Level, Message},
};

/// An object that was taken.
#[derive(Clone, Debug)]
pub struct Admitted {
    pub key: ObjectKey,
    pub object: Object,
    /// Fields that were passed over.
    pub warnings: Vec<Message>,
}

/// A document of a kind that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    /// Set when users expect this kind of a mesh.
    pub message: Option<Message>,
}

/// An object that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// None: the document does not say what it is.
    pub key: Option<ObjectKey>,
    pub problems: Vec<Problem>,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{key} was refused: ")?,
            None => write!(f, "a document was refused: ")?,
        }
        let texts: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join("; "))
    }
}

impl std::error::Error for Rejection {}

/// What became of a document.
#[derive(Clone, Debug)]
pub enum Verdict {
    Admitted(Box<Admitted>),
    Ignored(Ignored),
    Rejected(Rejection),
}

/// The key of a document, if it has a valid one, whatever the rest is like.
pub fn key_of(document: &Value) -> Option<ObjectKey> {
    written_key(document).filter(|key| core::names(key).is_empty())
}

fn written_key(document: &Value) -> Option<ObjectKey> {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
    let Recognised::Known(kind) = recognise(text("/apiVersion")?, text("/kind")?) else {
        return None;
    };
    let namespace = if kind.is_namespaced() { text("/metadata/namespace").unwrap_or("default") } else { "" };
    Some(ObjectKey::new(kind, namespace, text("/metadata/name")?))
}

/// Judges one document.
pub fn admit(document: &Value) -> Verdict {
    let reject = |key, problem| Verdict::Rejected(Rejection { key, problems: vec![problem] });
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
    let (Some(api_version), Some(kind)) = (text("/apiVersion"), text("/kind")) else {
        let field = if text("/kind").is_none() { "kind" } else { "apiVersion" };
        return reject(None, Problem::new(field, Cause::Missing));
    };
    let kind = match recognise(api_version, kind) {
        Recognised::Known(kind) => kind,
        unknown => {
            let message = (unknown == Recognised::Unsupported).then(|| {
                let text = format!("{api_version} {kind} has no effect in this version");
                Message::new(Level::Error, Code::UnsupportedKind, "kind", text)
            });
            let (namespace, name) = (text("/metadata/namespace").unwrap_or("default"), text("/metadata/name").unwrap_or(""));
            return Verdict::Ignored(Ignored { kind: kind.into(), namespace: namespace.into(), name: name.into(), message });
        }
    };
    let Some(key) = written_key(document) else {
        return reject(None, Problem::new("metadata.name", Cause::Missing));
    };
    let mut problems = core::names(&key);
    if !problems.is_empty() {
        // A name that is not one may not become the name of a status file either.
        return Verdict::Rejected(Rejection {
            key: None,
            problems: problems.drain(..).map(|problem| problem.of(&key)).collect(),
        });
    }

    let mut document = document.clone();
    prune(&mut document);
    match typed(kind, document) {
        Err(problem) => reject(Some(key), problem),
        Ok((object, unknown)) => {
            let (refused, warned): (Vec<_>, Vec<_>) =
                unknown.into_iter().partition(|field| kind.is_policy() && !field.starts_with("metadata."));
            problems.extend(refused.into_iter().map(|field| Problem::new(field, Cause::UnknownField)));
            problems.extend(check(&key, &object));
            if !problems.is_empty() {
                return Verdict::Rejected(Rejection { key: Some(key), problems });
            }
            let warn = |field| Message::new(Level::Warning, Code::UnknownField, field, "unknown field, passed over");
            Verdict::Admitted(Box::new(Admitted { key, object, warnings: warned.into_iter().map(warn).collect() }))
        }
    }
}

fn check(key: &ObjectKey, object: &Object) -> Vec<Problem> {
    match object {
        Object::Namespace(_) | Object::ServiceAccount(_) => Vec::new(),
        Object::Node(node) => core::node(node),
        Object::ConfigMap(map) => mesh::config_map(key, map),
        Object::Pod(pod) => core::pod(pod),
        Object::Service(service) => core::service(service),
        Object::EndpointSlice(slice) => core::endpoint_slice(slice),
        Object::ServiceEntry(entry) => entry::service_entry(&entry.spec),
        Object::WorkloadEntry(entry) => entry::workload_entry("spec", &entry.spec),
        Object::AuthorizationPolicy(policy) => policy::authorization(&policy.spec),
        Object::PeerAuthentication(policy) => policy::peer_authentication(&policy.spec),
        Object::VirtualService(routes) => virtual_service::virtual_service(&key.name.namespace, &routes.spec),
        Object::DestinationRule(rule) => destination_rule::destination_rule(&key.name.namespace, &rule.spec),
        Object::Telemetry(telemetry) => telemetry::telemetry(&telemetry.spec),
        Object::Gateway(found) => gateway::gateway(&found.spec),
        Object::GatewayClass(class) => gateway::gateway_class(&class.spec),
        Object::HttpRoute(route) => gateway::http_route(&route.spec),
        Object::GrpcRoute(route) => gateway::grpc_route(&route.spec),
        Object::TcpRoute(route) => gateway::tcp_route(&route.spec),
        Object::TlsRoute(route) => gateway::tls_route(&route.spec),
        Object::ReferenceGrant(grant) => gateway::reference_grant(&grant.spec),
    }
}

/// `null` is absence, as the API server has it.
fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(prune);
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

fn typed(kind: Kind, document: Value) -> Result<(Object, Vec<String>), Problem> {
    match kind {
        Kind::Namespace => read(document, Object::Namespace),
        Kind::Node => read(document, Object::Node),
        Kind::ServiceAccount => read(document, Object::ServiceAccount),
        Kind::ConfigMap => read(document, Object::ConfigMap),
        Kind::Pod => read(document, Object::Pod),
        Kind::Service => read(document, Object::Service),
        Kind::EndpointSlice => read(document, Object::EndpointSlice),
        Kind::ServiceEntry => read(document, Object::ServiceEntry),
        Kind::WorkloadEntry => read(document, Object::WorkloadEntry),
        Kind::AuthorizationPolicy => read(document, Object::AuthorizationPolicy),
        Kind::PeerAuthentication => read(document, Object::PeerAuthentication),
        Kind::VirtualService => read(document, Object::VirtualService),
        Kind::DestinationRule => read(document, Object::DestinationRule),
        Kind::Telemetry => read(document, Object::Telemetry),
        Kind::Gateway => read(document, Object::Gateway),
        Kind::GatewayClass => read(document, Object::GatewayClass),
        Kind::HttpRoute => read(document, Object::HttpRoute),
        Kind::GrpcRoute => read(document, Object::GrpcRoute),
        Kind::TcpRoute => read(document, Object::TcpRoute),
        Kind::TlsRoute => read(document, Object::TlsRoute),
        Kind::ReferenceGrant => read(document, Object::ReferenceGrant),
    }
}

/// Reads a value and names every field that the type does not have.
fn read<T: DeserializeOwned>(document: Value, wrap: fn(Arc<T>) -> Object) -> Result<(Object, Vec<String>), Problem> {
    from_value(document).map(|(value, unknown)| (wrap(Arc::new(value)), unknown))
}

/// A value of a type, and the fields that the type does not have.
pub(crate) fn from_value<T: DeserializeOwned>(document: Value) -> Result<(T, Vec<String>), Problem> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let mut note = |path: serde_ignored::Path<'_>| unknown.push(field(&path));
    let deserializer = serde_path_to_error::Deserializer::new(document, &mut track);
    match serde_ignored::deserialize(deserializer, &mut note) {
        Ok(value) => Ok((value, unknown)),
        Err(error) => Err(Problem::new(track.path().to_string(), Cause::Type { message: error.to_string() })),
    }
}

/// As users write paths: `spec.rules[0].from`.
fn field(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", field(parent)),
        Path::Map { parent, key } => match field(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => field(parent),
    }
}
