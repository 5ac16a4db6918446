//! Objects to the model, and what each object is told about itself.
//!
//! Pure and total: the same objects give the same model, whatever order they came in, and an object that cannot be
//! followed to the letter says so in its messages. Objects that break a rule never get here ([`crate::validate`]).

mod authorization;
mod balancing;
mod endpoint;
mod exports;
pub(crate) mod gateway;
mod hosts;
mod labels;
mod mesh;
pub(crate) mod network;
mod peer;
mod prefixes;
mod protocol;
mod retry;
mod rule;
mod selector;
mod service;
mod telemetry;
#[cfg(test)]
mod tests;
mod traffic;
mod virtual_service;
mod workload;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_policy::model::{Document, Model, WorkloadUid};

pub(crate) use self::rule::{is_path_template, requested_header};
use crate::{
    kinds::{ObjectKey, Objects},
    status::{Conditions, Message},
};

/// What the objects do not say.
#[derive(Clone, Debug)]
pub struct Settings {
    /// First part of every workload's uid.
    pub cluster: Arc<str>,
    /// Ending of the hostnames of Kubernetes Services.
    pub dns_domain: Arc<str>,
    pub redirection: Redirection,
}

/// What the annotation of captured pods (`ambient.istio.io/redirection`) says beside the reports of nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redirection {
    /// Another mesh's proxies wrote it: it counts on nodes of which no capture was reported.
    #[default]
    OfOthers,
    /// Reports are kept in it: whoever asks has read it.
    Reported,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cluster: "Kubernetes".into(), dns_domain: "cluster.local".into(), redirection: Redirection::default() }
    }
}

impl Settings {
    /// `<cluster>//Pod/<namespace>/<name>`.
    pub fn pod_uid(&self, namespace: &str, name: &str) -> WorkloadUid {
        WorkloadUid(format!("{}//Pod/{namespace}/{name}", self.cluster).into())
    }
}

/// The model, and the messages for each object that has any.
#[derive(Clone, Debug, Default)]
pub struct Translation {
    pub model: Model,
    pub messages: BTreeMap<ObjectKey, Vec<Message>>,
    /// What the Gateway API wants to be told of its objects.
    pub conditions: BTreeMap<ObjectKey, Conditions>,
    /// Where mesh-wide policies live.
    pub root_namespace: Arc<str>,
}

/// Translates all objects. `captured` holds the workloads whose node reports that their capture stands: only these
/// are reached by HBONE.
pub fn translate(objects: &Objects, settings: &Settings, captured: &BTreeSet<WorkloadUid>) -> Translation {
    let mut report = Report::default();
    let from_mesh = mesh::settings(objects, &mut report);
    let mut mesh = from_mesh.mesh.clone();
    let root_namespace = from_mesh.root.clone();
    let services = service::services(objects, settings, &mut report);
    let mut drafts = workload::drafts(objects, settings, &mesh.trust_domain, captured, &services, &mut report);
    endpoint::join(objects, settings, &mesh.trust_domain, &services, &mut drafts);
    workload::settle_addresses(&mut drafts, &mut report);

    let gateway::Attached { routes, mut conditions } = gateway::routes(objects, &services, &from_mesh.http.retry, &mut report);
    let hosts = hosts::Hosts::new(&services, settings);
    let traffic = traffic::rules(objects, &from_mesh, &hosts, &services, &drafts, &mut report);
    let sources = virtual_service::Sources { objects, mesh: &from_mesh, hosts: &hosts, traffic: &traffic };
    let virtual_services = virtual_service::routes(sources, &routes, &mut report);
    let routes = gateway::merge(virtual_services, routes, &mut report);
    let telemetry = telemetry::Surroundings {
        objects,
        root: &root_namespace,
        providers: &from_mesh.telemetry,
        hosts: &hosts,
        services: &services,
        drafts: &drafts,
    };
    let telemetry = telemetry::telemetry(&telemetry, &mut report);
    labels::fill(&mut drafts, &routes, &traffic, telemetry::labels(&telemetry));
    let waypoints = gateway::Waypoints::of(objects, &mut conditions, &mut report);

    let context = authorization::Surroundings { mesh: &mesh, root: &root_namespace, services: &services, waypoints: &waypoints };
    let mut policies = authorization::policies(objects, &context, &mut drafts, &mut report);
    policies.extend(peer::policies(objects, &root_namespace, &mut drafts, &mut report));
    mesh.prefixes = prefixes::aggregated(objects, &services, &drafts);

    let mut model = Model { mesh, ..Model::default() };
    for service in services.into_services() {
        model.upsert_service(service);
    }
    for draft in drafts {
        let mut workload = draft.workload;
        workload.policies.sort();
        workload.policies.dedup();
        model.upsert_workload(workload);
    }
    for policy in policies {
        model.upsert_policy(policy);
    }
    for routes in routes.into_values() {
        model.upsert_document(Document::Routes(Box::new(routes)));
    }
    for rule in traffic.into_values() {
        model.upsert_document(Document::Traffic(Box::new(rule)));
    }
    for telemetry in telemetry.into_values() {
        model.upsert_document(Document::Telemetry(Box::new(telemetry)));
    }
    model.http = Arc::new(from_mesh.http);
    Translation { model, messages: report.into_messages(), conditions, root_namespace }
}

/// Collects what objects are told.
#[derive(Default)]
struct Report(BTreeMap<ObjectKey, Vec<Message>>);

impl Report {
    fn tell(&mut self, key: ObjectKey, message: Message) {
        self.0.entry(key).or_default().push(message);
    }

    fn into_messages(mut self) -> BTreeMap<ObjectKey, Vec<Message>> {
        for messages in self.0.values_mut() {
            messages.sort();
            messages.dedup();
        }
        self.0
    }
}
