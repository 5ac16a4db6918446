//! Each file of `cases/` is a set of objects; its translation is a snapshot. What must hold for all policies is a property.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use mesh_policy::model::{
    Authorization, Clause, Exports, HttpRule, HttpSettings, Match, Model, RequestMatch, Routes, Rule, StringMatch, Subset,
    Telemetry, TrafficPolicy, TrafficRule, TunnelProtocol, VirtualAddress, WorkloadUid,
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Redirection, Settings, Translation, translate};
use crate::{
    document::{Format, Limits, documents},
    kinds::Objects,
    status::{Condition, Conditions, ParentStatus},
    validate::{Verdict, admit},
};

mod never_open;
mod precedence;

fn objects(text: &str) -> Objects {
    let mut objects = Objects::default();
    for document in documents(text.as_bytes(), Format::Yaml, Limits::default()).unwrap() {
        match admit(&document) {
            Verdict::Admitted(admitted) => objects.insert(admitted.key.name, admitted.object),
            Verdict::Ignored(ignored) => panic!("{ignored:?}"),
            Verdict::Rejected(rejection) => panic!("{rejection}"),
        }
    }
    objects
}

fn translated(text: &str) -> Translation {
    let captured = ["captured", "host"].map(|pod| WorkloadUid(format!("Kubernetes//Pod/shop/{pod}").into()));
    translate(&objects(text), &Settings::default(), &BTreeSet::from(captured))
}

fn case_files() -> Vec<(String, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/translate/cases");
    let paths = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path)).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn cases() {
    for (name, path) in case_files() {
        let text = std::fs::read_to_string(path).unwrap();
        insta::assert_snapshot!(name, print(&translated(&text)));
    }
}

#[test]
fn the_order_of_objects_makes_no_difference() {
    for (case, path) in case_files() {
        let text = std::fs::read_to_string(path).unwrap();
        let reversed: Vec<&str> = text.split("\n---\n").collect::<Vec<_>>().into_iter().rev().collect();
        assert_eq!(print(&translated(&text)), print(&translated(&reversed.join("\n---\n"))), "{case}");
    }
}

/// Short enough to be read, complete enough to notice any difference.
fn print(translation: &Translation) -> String {
    let Translation {
        model: Model { workloads, services, policies, routes, traffic, http, telemetry, mesh },
        messages,
        conditions,
        root_namespace,
    } = translation;
    let mut out = String::new();
    let line = &mut out;
    writeln!(line, "mesh {mesh:?} root={root_namespace}").unwrap();
    if **http != HttpSettings::default() {
        writeln!(line, "http enabled={} {}", http.enabled, said(http)).unwrap();
    }
    for service in services.values() {
        let addresses: Vec<String> =
            service.addresses.iter().map(|VirtualAddress { network, range }| format!("{network}/{range}")).collect();
        writeln!(line, "\nservice {} ({}) {}", service.key(), service.name, addresses.join(" ")).unwrap();
        for port in &service.ports {
            writeln!(line, "  {} -> {} {:?}", port.service_port, port.target_port, port.protocol).unwrap();
        }
        writeln!(line, "  {:?}", service.load_balancing).unwrap();
        if let Exports::To(namespaces) = &service.exports {
            writeln!(line, "  exported to {namespaces:?}").unwrap();
        }
        if !service.subject_alt_names.is_empty() {
            writeln!(line, "  sans {:?}", service.subject_alt_names).unwrap();
        }
    }
    for w in workloads.values() {
        let addresses: Vec<String> = w.addresses.iter().map(ToString::to_string).collect();
        writeln!(line, "\nworkload {} [{}] {}", w.uid, addresses.join(" "), w.hostname).unwrap();
        writeln!(line, "  {} node={:?} {:?} {:?} {:?}", w.identity(), w.node, w.tunnel, w.network_mode, w.health).unwrap();
        let (kind, owner, name, revision) = (w.kind, &w.workload_name, &w.canonical_name, &w.canonical_revision);
        writeln!(line, "  {kind:?} {owner} canonical={name}/{revision} capacity={} {:?}", w.capacity, w.locality).unwrap();
        if !w.labels.is_empty() {
            writeln!(line, "  labels {:?}", w.labels).unwrap();
        }
        for (service, ports) in &w.services {
            let ports: Vec<String> = ports.iter().map(|port| format!("{}->{}", port.service_port, port.target_port)).collect();
            writeln!(line, "  behind {service} {}", ports.join(" ")).unwrap();
        }
        for policy in &w.policies {
            writeln!(line, "  policy {policy}").unwrap();
        }
    }
    for policy in policies.values() {
        let Authorization { key, scope, action, dry_run, rules } = &**policy;
        let dry = if *dry_run { " dry-run" } else { "" };
        writeln!(line, "\npolicy {key} {scope:?} {action:?}{dry}").unwrap();
        for Rule { clauses } in rules {
            let clauses: Vec<String> = clauses.iter().map(clause).collect();
            writeln!(line, "  rule {}", if clauses.is_empty() { "always".into() } else { clauses.join("\n   and ") }).unwrap();
        }
    }
    for routes in routes.values() {
        let Routes { key, http, tls, tcp } = &**routes;
        writeln!(line, "\nroutes {key}").unwrap();
        for HttpRule { name, origin, matches, action } in http {
            let name = if name.is_empty() { String::new() } else { format!(" ({name})") };
            writeln!(line, "  http {origin}{name}").unwrap();
            for one in matches {
                writeln!(line, "    if {}", said(one)).unwrap();
            }
            writeln!(line, "    do {}", said(action)).unwrap();
        }
        for rule in tls {
            writeln!(line, "  tls {}\n    {}", rule.origin, said(rule)).unwrap();
        }
        for rule in tcp {
            writeln!(line, "  tcp {}\n    {}", rule.origin, said(rule)).unwrap();
        }
    }
    for rule in traffic.values() {
        let TrafficRule { key, origin, policy, ports, subsets } = &**rule;
        writeln!(line, "\ntraffic {key} by {origin}").unwrap();
        line.push_str(&levels("  ", policy, ports));
        for (name, Subset { labels, policy, ports }) in subsets {
            writeln!(line, "  subset {name} {labels:?}").unwrap();
            line.push_str(&levels("    ", policy, ports));
        }
    }
    for told in telemetry.values() {
        let Telemetry { key, order, applies, origins, client, server } = &**told;
        writeln!(line, "\ntelemetry {key} #{order} {applies:?} by {}", origins.join(", ")).unwrap();
        for (name, half) in [("client", client), ("server", server)] {
            writeln!(
                line,
                "  {name} metrics {}\n    logs {}\n    tracing {}",
                said(&half.metrics),
                said(&half.logs),
                said(&half.tracing)
            )
            .unwrap();
        }
    }
    for (key, Conditions { own, parents }) in conditions {
        writeln!(line, "\nconditions of {key}").unwrap();
        line.push_str(&list(own));
        for ParentStatus { parent_ref, controller_name: _, conditions } in parents {
            writeln!(line, "  {}", serde_json::to_string(parent_ref).unwrap()).unwrap();
            line.push_str(&list(conditions));
        }
    }
    for (key, messages) in messages {
        writeln!(line, "\nto {key}").unwrap();
        for message in messages {
            writeln!(line, "  {:?} {:?} {}: {}", message.level, message.code, message.field, message.text).unwrap();
        }
    }
    out
}

fn levels(indent: &str, policy: &TrafficPolicy, ports: &BTreeMap<u16, Arc<TrafficPolicy>>) -> String {
    let mut out = format!("{indent}{}\n", said(policy));
    for (port, policy) in ports {
        out += &format!("{indent}port {port} {}\n", said(&**policy));
    }
    out
}

fn list(conditions: &[Condition]) -> String {
    conditions.iter().fold(String::new(), |mut out, condition| {
        let Condition { r#type, status, reason, message, observed_generation } = condition;
        let generation = observed_generation.map(|number| format!(" @{number}")).unwrap_or_default();
        writeln!(out, "    {type}={status} {reason}{generation}: {message}").unwrap();
        out
    })
}

/// A part of the model as JSON, without what is not said.
fn said(part: &impl Serialize) -> Value {
    fn prune(value: Value) -> Option<Value> {
        match value {
            Value::Null | Value::Bool(false) => None,
            Value::String(text) if text.is_empty() => None,
            Value::Array(items) => {
                let items: Vec<Value> = items.into_iter().filter_map(prune).collect();
                (!items.is_empty()).then_some(Value::Array(items))
            }
            Value::Object(fields) => {
                let kept = fields.into_iter().filter(|(name, _)| name != "origin");
                let kept: Map<String, Value> = kept.filter_map(|(name, value)| Some((name, prune(value)?))).collect();
                // Durations, which serde writes in two parts.
                if let (Some(seconds), Some(nanos), 2) = (kept.get("secs"), kept.get("nanos"), kept.len()) {
                    let nanos = nanos.as_u64().unwrap();
                    return (seconds.as_u64() != Some(0) || nanos != 0)
                        .then(|| format!("{seconds}.{:03}s", nanos / 1_000_000).into());
                }
                (!kept.is_empty()).then_some(Value::Object(kept))
            }
            other => Some(other),
        }
    }
    prune(serde_json::to_value(part).unwrap()).unwrap_or_default()
}

fn clause(clause: &Clause) -> String {
    let matches: Vec<String> = clause.matches.iter().map(attributes).collect();
    if matches.is_empty() { "always".into() } else { matches.join("\n    or ") }
}

fn attributes(found: &Match) -> String {
    let texts = |values: &[StringMatch]| values.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>();
    let accounts = |values: &[mesh_policy::model::ServiceAccountMatch]| {
        values.iter().map(|account| format!("{}/{}", account.namespace, account.name)).collect::<Vec<_>>()
    };
    let nets = |values: &[mesh_policy::model::IpMatch]| values.iter().map(|net| net.0.to_string()).collect::<Vec<_>>();
    let ports = |values: &[u16]| values.iter().map(ToString::to_string).collect::<Vec<_>>();
    let fields = [
        ("principals", texts(&found.principals)),
        ("!principals", texts(&found.not_principals)),
        ("namespaces", texts(&found.namespaces)),
        ("!namespaces", texts(&found.not_namespaces)),
        ("accounts", accounts(&found.service_accounts)),
        ("!accounts", accounts(&found.not_service_accounts)),
        ("from", nets(&found.source_ips)),
        ("!from", nets(&found.not_source_ips)),
        ("to", nets(&found.destination_ips)),
        ("!to", nets(&found.not_destination_ips)),
        ("ports", ports(&found.destination_ports)),
        ("!ports", ports(&found.not_destination_ports)),
    ];
    let fields: Vec<String> = fields
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| format!("{name}={}", values.join("|")))
        .chain((found.request != RequestMatch::default()).then(|| said(&found.request).to_string()))
        .collect();
    if fields.is_empty() { "never".into() } else { fields.join(" ") }
}

#[test]
fn an_annotation_that_was_read_counts_no_second_time() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop, annotations: {ambient.istio.io/redirection: enabled}}\n\
               spec: {nodeName: n1, containers: []}\nstatus: {podIP: 10.0.0.1}\n";
    let tunnel = |redirection| {
        let settings = Settings { redirection, ..Settings::default() };
        let translation = translate(&objects(pod), &settings, &BTreeSet::new());
        translation.model.workloads.values().next().unwrap().tunnel
    };
    assert_eq!(tunnel(Redirection::OfOthers), TunnelProtocol::Hbone);
    assert_eq!(tunnel(Redirection::Reported), TunnelProtocol::None, "the node has just withdrawn it");
}
