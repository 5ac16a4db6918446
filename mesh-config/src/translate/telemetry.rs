//! Telemetry objects to what is told of each workload's traffic.
//!
//! As in Istio three levels come together: the root namespace's object, the namespace's, and the one that selects the workload; of
//! several at one level the oldest counts. They are merged here ([`merge`]), so that a node finds one answer for each workload.

mod merge;
mod providers;
mod remarks;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_policy::model::{self, Applies, Half, TelemetryKey, TraceTo};

use self::merge::{Levels, Mode};
pub(super) use self::providers::{Providers, Written};
use super::{
    Report,
    hosts::Hosts,
    selector::matches,
    service::{Services, created},
    workload::Draft,
};
use crate::{
    kinds::{Kind, Name, ObjectKey, Objects, Telemetry, TelemetrySpec},
    status::{Code, Level, Message},
};

/// What Telemetry objects are read with.
pub(super) struct Surroundings<'a> {
    pub(super) objects: &'a Objects,
    pub(super) root: &'a str,
    pub(super) providers: &'a Providers,
    pub(super) hosts: &'a Hosts<'a>,
    pub(super) services: &'a Services,
    pub(super) drafts: &'a [Draft],
}

type Found<'a> = (&'a Name, &'a Telemetry);

pub(super) fn telemetry(surroundings: &Surroundings<'_>, report: &mut Report) -> BTreeMap<TelemetryKey, model::Telemetry> {
    let mut by_age: Vec<Found<'_>> = surroundings.objects.telemetries.iter().map(|(name, object)| (name, &**object)).collect();
    by_age.sort_by_key(|(name, object)| (created(&object.metadata), *name));
    for (name, object) in &by_age {
        for message in remarks::remarks(&object.spec, surroundings.providers) {
            report.tell(key(name), message);
        }
    }
    let (narrow, wide): (Vec<Found<'_>>, Vec<Found<'_>>) = by_age.into_iter().partition(|(_, object)| object.spec.is_narrow());
    let mut of_namespace: BTreeMap<&str, Found<'_>> = BTreeMap::new();
    for found in wide {
        let first = *of_namespace.entry(&found.0.namespace).or_insert(found);
        if first.0 != found.0 {
            let text = format!("{} is for the whole namespace too, and older", key(first.0));
            report.tell(key(found.0), Message::new(Level::Error, Code::Conflict, "spec.selector", text));
        }
    }
    let of_mesh = of_namespace.get(surroundings.root).copied();
    let mut out = BTreeMap::new();
    let mut put = |key: TelemetryKey, applies: Applies, order: u32, levels: &[Found<'_>]| {
        let made = surroundings.merged(key, applies, order, levels);
        out.insert(made.key.clone(), made);
    };
    put(TelemetryKey::Mesh, Applies::All, 0, of_mesh.as_slice());
    for (namespace, found) in of_namespace.iter().filter(|(namespace, _)| **namespace != surroundings.root) {
        let levels: Vec<Found<'_>> = of_mesh.into_iter().chain([*found]).collect();
        put(TelemetryKey::Namespace((*namespace).into()), Applies::All, 0, &levels);
    }
    for (order, found) in narrow.iter().enumerate() {
        let Some(applies) = surroundings.applies(*found, report) else { continue };
        let (name, _) = found;
        let of_namespace = of_namespace.get(&*name.namespace).copied().filter(|_| &*name.namespace != surroundings.root);
        let levels: Vec<Found<'_>> = of_mesh.into_iter().chain(of_namespace).chain([*found]).collect();
        let key = TelemetryKey::Object { namespace: name.namespace.clone(), name: name.name.clone() };
        put(key, applies, u32::try_from(order).unwrap_or(u32::MAX), &levels);
    }
    surroundings.tell_overlaps(&narrow, report);
    // Nothing said is nothing to be told.
    out.retain(|key, made| *key != TelemetryKey::Mesh || !made.is_usual());
    out
}

/// Labels by which nodes must know workloads.
pub(super) fn labels(made: &BTreeMap<TelemetryKey, model::Telemetry>) -> impl Iterator<Item = &Arc<str>> {
    made.values()
        .filter_map(|telemetry| match &telemetry.applies {
            Applies::Labelled(labels) => Some(labels.keys()),
            Applies::All | Applies::Services(_) => None,
        })
        .flatten()
}

fn key(name: &Name) -> ObjectKey {
    ObjectKey { kind: Kind::Telemetry, name: name.clone() }
}

impl Surroundings<'_> {
    fn merged(&self, key: TelemetryKey, applies: Applies, order: u32, found: &[Found<'_>]) -> model::Telemetry {
        let specs: Vec<&TelemetrySpec> = found.iter().map(|(_, object)| &object.spec).collect();
        let levels = Levels { specs: &specs, providers: self.providers };
        let half = |mode| {
            let mut half: Half = levels.half(mode);
            self.find_collector(&mut half);
            half
        };
        let (client, server) = (half(Mode::Client), half(Mode::Server));
        let origins = found.iter().map(|(name, _)| format!("{}/{}", name.namespace, name.name).into()).collect();
        model::Telemetry { key, order, applies, origins, client, server }
    }

    /// A collector in the mesh is reached at its pods: nothing on a node translates the addresses of services.
    fn find_collector(&self, half: &mut Half) {
        if let TraceTo::Collector(collector) = &mut half.tracing.to {
            let found = self.hosts.destination(&collector.host, self.root);
            collector.service = found.map(|draft| draft.service.key());
        }
    }

    /// Whom a narrow object is for; None: nobody.
    fn applies(&self, (name, object): Found<'_>, report: &mut Report) -> Option<Applies> {
        let spec = &object.spec;
        if let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.match_labels.is_empty()) {
            let labels = selector.match_labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into()));
            return Some(Applies::Labelled(labels.collect()));
        }
        let mut services = BTreeSet::new();
        for (field, target) in spec.targets() {
            let mut tell = |code, text: String| report.tell(key(name), Message::new(Level::Error, code, field.clone(), text));
            let kind = match (target.group.as_str(), target.kind.as_str()) {
                ("" | "core", "Service") => Kind::Service,
                ("networking.istio.io", "ServiceEntry") => Kind::ServiceEntry,
                (_, kind) => {
                    tell(Code::NotHonoured, format!("telemetry is not attached to a {kind}: there is no such proxy here"));
                    continue;
                }
            };
            let source = ObjectKey::new(kind, &name.namespace, &target.name);
            let before = services.len();
            services.extend(self.services.of(&source).map(|draft| draft.service.key()));
            if services.len() == before {
                tell(Code::TargetNotFound, format!("there is no {source}"));
            }
        }
        (!services.is_empty()).then_some(Applies::Services(services))
    }

    /// Two objects for one workload: the younger is told (IST0159).
    fn tell_overlaps(&self, narrow: &[Found<'_>], report: &mut Report) {
        let mut told: BTreeSet<(&Name, &Name)> = BTreeSet::new();
        for draft in self.drafts {
            let selects = |(name, object): &&Found<'_>| {
                let selector = object.spec.selector.as_ref().filter(|selector| !selector.match_labels.is_empty());
                *name.namespace == *draft.workload.namespace
                    && selector.is_some_and(|selector| matches(&selector.match_labels, &draft.labels))
            };
            let mut selecting = narrow.iter().filter(selects);
            let Some((first, _)) = selecting.next() else { continue };
            for (name, _) in selecting {
                if told.insert((first, name)) {
                    let text = format!("{} selects {} too, and is older", key(first), draft.workload.name);
                    report.tell(key(name), Message::new(Level::Error, Code::Conflict, "spec.selector", text));
                }
            }
        }
    }
}
