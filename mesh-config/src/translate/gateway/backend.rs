//! Where routes lead, and whether they may.

use std::collections::BTreeMap;

use mesh_policy::model::{BackendRef, ServiceKey};

use super::{super::service::Draft as Service, Surroundings};
use crate::{
    kinds::{
        Kind, ObjectKey, Objects,
        gateway::{BackendObject, GATEWAY_GROUP, GrantFrom, GrantTo, HttpBackend, ParentRef, ReferenceGrantSpec, StreamBackend},
    },
    status::Code,
};

/// A reference that leads nowhere.
pub(super) struct Unresolved {
    pub(super) field: String,
    pub(super) reason: Reason,
    pub(super) text: String,
}

/// Reasons of the condition ResolvedRefs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    BackendNotFound,
    RefNotPermitted,
    InvalidKind,
}

impl Reason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::BackendNotFound => "BackendNotFound",
            Self::RefNotPermitted => "RefNotPermitted",
            Self::InvalidKind => "InvalidKind",
        }
    }

    pub(super) fn code(self) -> Code {
        match self {
            Self::BackendNotFound => Code::TargetNotFound,
            Self::RefNotPermitted => Code::NotPermitted,
            Self::InvalidKind => Code::UnsupportedKind,
        }
    }
}

/// All ReferenceGrants, by the namespace that grants.
pub(super) struct Grants(BTreeMap<String, Vec<ReferenceGrantSpec>>);

impl Grants {
    pub(super) fn of(objects: &Objects) -> Self {
        let mut grants: BTreeMap<String, Vec<ReferenceGrantSpec>> = BTreeMap::new();
        for (name, grant) in &objects.reference_grants {
            grants.entry(name.namespace.to_string()).or_default().push(grant.spec.clone());
        }
        Self(grants)
    }

    /// Whether a route may name a Service of another namespace.
    fn permit(&self, route: &ObjectKey, namespace: &str, service: &str) -> bool {
        let from = |from: &GrantFrom| {
            let GrantFrom { group, kind, namespace } = from;
            group == GATEWAY_GROUP && kind == route.kind.as_str() && **namespace == *route.name.namespace
        };
        let to = |to: &GrantTo| {
            let GrantTo { group, kind, name } = to;
            (group.is_empty() || group == "core") && kind == "Service" && name.as_ref().is_none_or(|name| name == service)
        };
        let grants = self.0.get(namespace).into_iter().flatten();
        grants.into_iter().any(|grant| grant.from.iter().any(from) && grant.to.iter().any(to))
    }
}

/// Resolves the backends of one route.
pub(super) struct Backends<'a> {
    pub(super) surroundings: &'a Surroundings<'a>,
    pub(super) route: &'a ObjectKey,
    pub(super) parents: &'a [ParentRef],
}

impl Backends<'_> {
    /// The backend, or nowhere; `unresolved` says why.
    pub(super) fn resolve(&self, at: &str, backend: &BackendObject, unresolved: &mut Vec<Unresolved>) -> BackendRef {
        match self.find(backend) {
            Ok((service, port)) => BackendRef::Service { service, port, subset: None },
            Err((reason, text)) => {
                let nowhere = BackendRef::Invalid { reason: text.as_str().into() };
                unresolved.push(Unresolved { field: at.to_owned(), reason, text });
                nowhere
            }
        }
    }

    fn find(&self, backend: &BackendObject) -> Result<(ServiceKey, u16), (Reason, String)> {
        let BackendObject { group, kind, name, namespace, port } = backend;
        let own = &self.route.name.namespace;
        let namespace = namespace.as_deref().unwrap_or(own);
        let service = match (group.as_str(), kind.as_str()) {
            ("" | "core", "Service") => {
                let source = ObjectKey::new(Kind::Service, namespace, name);
                // Before it is said whether there is such a Service: that is its namespace's own business.
                let may = *namespace == **own
                    || self.is_parent(namespace, name)
                    || self.surroundings.grants.permit(self.route, namespace, name);
                if !may {
                    let text = format!("no ReferenceGrant in {namespace} lets a {} of {own} name {source}", self.route.kind);
                    return Err((Reason::RefNotPermitted, text));
                }
                let found = self.surroundings.services.of(&source).next();
                found.ok_or_else(|| (Reason::BackendNotFound, format!("there is no {source}")))?
            }
            ("networking.istio.io", "Hostname") => {
                self.by_hostname(name).ok_or_else(|| (Reason::BackendNotFound, format!("no service has the name {name}")))?
            }
            _ => return Err((Reason::InvalidKind, format!("{group}/{kind} {name}: only Services are backends"))),
        };
        let port = match port {
            Some(port) => *port,
            None => match service.ports.as_slice() {
                [only] => only.number,
                _ => return Err((Reason::BackendNotFound, format!("{name} has several ports: one has to be named"))),
            },
        };
        if service.service.port(port).is_none() {
            return Err((Reason::BackendNotFound, format!("{} has no port {port}", service.source)));
        }
        Ok((service.service.key(), port))
    }

    /// Whether the client dialled this very Service: to send it there exposes nothing (conformance test MeshConsumerRoute).
    fn is_parent(&self, namespace: &str, name: &str) -> bool {
        self.parents.iter().any(|parent| {
            let ParentRef { group, kind, namespace: of_parent, name: called, section_name: _, port: _ } = parent;
            (group.is_empty() || group == "core")
                && kind == "Service"
                && called == name
                && of_parent.as_deref().unwrap_or(&self.route.name.namespace) == namespace
        })
    }

    /// Istio's kind for names that have no object of their own: hosts of ServiceEntries, of the route's namespace first,
    /// and its own Services.
    fn by_hostname(&self, hostname: &str) -> Option<&Service> {
        let named = |service: &&Service| *service.service.hostname == *hostname;
        let own = |service: &&Service| service.service.namespace == self.route.name.namespace;
        let services = || self.surroundings.services.by_key.values().filter(named);
        services().find(own).or_else(|| services().find(|service| service.source.kind == Kind::ServiceEntry))
    }
}

impl From<&HttpBackend> for BackendObject {
    fn from(backend: &HttpBackend) -> Self {
        let HttpBackend { group, kind, name, namespace, port, weight: _, filters: _ } = backend;
        Self { group: group.clone(), kind: kind.clone(), name: name.clone(), namespace: namespace.clone(), port: *port }
    }
}

impl From<&StreamBackend> for BackendObject {
    fn from(backend: &StreamBackend) -> Self {
        let StreamBackend { group, kind, name, namespace, port, weight: _ } = backend;
        Self { group: group.clone(), kind: kind.clone(), name: name.clone(), namespace: namespace.clone(), port: *port }
    }
}
