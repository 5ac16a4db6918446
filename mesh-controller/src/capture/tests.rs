//! Reports that become annotations: on their way, arrived, given up.

use std::{collections::BTreeSet, sync::Arc};

use mesh_config::{
    enrolment::Ownership,
    kinds::{Kind, Name, ObjectKey, Objects},
    translate::Settings,
    validate::{Verdict, admit},
};
use mesh_policy::model::WorkloadUid;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Annotations, Captures, Mark, Marks, Surroundings, Taken};

/// Pods, and what is known of their captures.
struct Cluster {
    objects: Objects,
    settings: Settings,
    captures: Captures,
    marks: watch::Receiver<Marks>,
}

const ENABLED: &str = "enabled";

impl Cluster {
    fn new() -> Self {
        let (sender, marks) = watch::channel(Arc::default());
        let captures = Captures::Annotations(Annotations::new(sender, Name::new("keelson-system", "keelson-controller")));
        Self { objects: Objects::default(), settings: Settings::default(), captures, marks }
    }

    fn set(&mut self, name: &str, node: &str, annotation: Option<&str>, mode: &str) {
        let annotations: Value = annotation.map_or(json!({}), |value| json!({ "ambient.istio.io/redirection": value }));
        let document = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": "shop", "name": name, "uid": format!("uid-of-{name}"), "annotations": annotations,
                "labels": { "istio.io/dataplane-mode": mode },
            },
            "spec": { "nodeName": node, "containers": [] },
        });
        let Verdict::Admitted(admitted) = admit(&document) else { panic!("{document}") };
        self.objects.insert(admitted.key.name, admitted.object);
    }

    fn remove(&mut self, name: &str) {
        self.objects.remove(&ObjectKey::new(Kind::Pod, "shop", name));
    }

    fn report(&mut self, node: &str, name: &str, captured: bool) -> Taken {
        let surroundings = Surroundings { objects: &self.objects, settings: &self.settings, ownership: Ownership::default() };
        self.captures.set(node, &format!("Kubernetes//Pod/shop/{name}"), captured, surroundings)
    }

    fn sync(&mut self, node: &str, names: &[&str]) -> bool {
        let surroundings = Surroundings { objects: &self.objects, settings: &self.settings, ownership: Ownership::default() };
        let uids = names.iter().map(|name| format!("Kubernetes//Pod/shop/{name}")).collect();
        self.captures.replace(node, uids, surroundings)
    }

    fn settle(&mut self) -> bool {
        self.captures.settle(&self.objects)
    }

    fn captured(&self) -> Vec<String> {
        let standing: BTreeSet<WorkloadUid> = self.captures.standing(&self.objects, &self.settings);
        standing.iter().map(|uid| uid.0.rsplit_once('/').unwrap().1.to_owned()).collect()
    }

    /// What is to be written: pod, its uid, whether captured.
    fn marks(&self) -> Vec<(String, bool)> {
        let marks = self.marks.borrow();
        let check = |(name, mark): (&Name, &Mark)| {
            assert_eq!(mark.pod_uid, format!("uid-of-{}", name.name));
            (name.name.to_string(), mark.captured)
        };
        marks.iter().map(check).collect()
    }
}

#[test]
fn a_report_counts_at_once_and_is_written_to_the_pod() {
    let mut cluster = Cluster::new();
    cluster.set("a", "n1", None, "keelson");
    let taken = cluster.report("n1", "a", true);
    assert!(taken.changed);
    assert_eq!((cluster.captured(), cluster.marks()), (vec!["a".to_owned()], vec![("a".to_owned(), true)]));
    assert!(cluster.settle(), "it is on its way");
    let mut known = taken.told.unwrap();
    assert!(known.try_recv().is_err());

    cluster.set("a", "n1", Some(ENABLED), "keelson");
    assert!(!cluster.settle());
    assert_eq!(known.try_recv(), Ok(true));
    assert_eq!((cluster.captured(), cluster.marks()), (vec!["a".to_owned()], vec![]));
    assert!(!cluster.report("n1", "a", true).changed, "it says so already");

    let taken = cluster.report("n1", "a", false);
    assert!(taken.changed);
    assert_eq!((cluster.captured(), cluster.marks()), (vec![], vec![("a".to_owned(), false)]));
    cluster.set("a", "n1", None, "keelson");
    cluster.settle();
    assert_eq!(taken.told.unwrap().try_recv(), Ok(true));
}

#[test]
fn the_annotation_alone_counts_whoever_wrote_it() {
    let mut cluster = Cluster::new();
    cluster.set("a", "n1", Some(ENABLED), "keelson");
    cluster.set("b", "n1", Some("disabled"), "keelson");
    assert_eq!(cluster.captured(), ["a"]);
}

#[test]
fn a_node_speaks_for_its_own_pods() {
    let mut cluster = Cluster::new();
    cluster.set("a", "n1", None, "keelson");
    cluster.set("b", "n1", Some(ENABLED), "keelson");
    let taken = cluster.report("n2", "a", true);
    assert!(!taken.changed);
    assert_eq!(taken.told.unwrap().try_recv(), Ok(false));
    assert!(!cluster.report("n2", "b", false).changed);
    assert!(!cluster.sync("n2", &["a"]));
    cluster.settle();
    assert_eq!((cluster.captured(), cluster.marks()), (vec!["b".to_owned()], vec![]));
    for bad in ["elsewhere//Pod/shop/a", "Kubernetes//Pod/shop", "Kubernetes//Pod/shop/a/b", ""] {
        let surroundings =
            Surroundings { objects: &cluster.objects, settings: &cluster.settings, ownership: Ownership::default() };
        assert!(!cluster.captures.set("n1", bad, true, surroundings).changed, "{bad}");
    }
    assert!(!cluster.settle());
}

#[test]
fn a_report_may_come_before_its_pod_and_after_it() {
    let mut cluster = Cluster::new();
    let taken = cluster.report("n1", "late", true);
    assert!(!taken.changed && cluster.marks().is_empty());
    cluster.set("late", "n1", None, "keelson");
    assert!(cluster.settle());
    assert_eq!((cluster.captured(), cluster.marks()), (vec!["late".to_owned()], vec![("late".to_owned(), true)]));

    cluster.remove("late");
    let taken = cluster.report("n1", "late", false);
    assert_eq!(taken.told.unwrap().try_recv(), Ok(true), "there is nothing left to be withdrawn");
    assert!(!cluster.settle());
}

#[test]
fn a_newer_report_takes_the_place_of_an_older() {
    let mut cluster = Cluster::new();
    cluster.set("a", "n1", None, "keelson");
    let first = cluster.report("n1", "a", true);
    let again = cluster.report("n1", "a", true);
    let withdrawn = cluster.report("n1", "a", false);
    assert_eq!([first, again].map(|taken| taken.told.unwrap().try_recv()), [Ok(false), Ok(false)]);
    assert_eq!(withdrawn.told.unwrap().try_recv(), Ok(true), "the pod says so already");
    assert_eq!(cluster.marks(), vec![]);
}

#[test]
fn a_node_says_all_that_it_has() {
    let mut cluster = Cluster::new();
    cluster.set("a", "n1", Some(ENABLED), "keelson");
    cluster.set("b", "n1", None, "keelson");
    cluster.set("c", "n2", Some(ENABLED), "keelson");
    // Captured by istio-cni, which is beside us.
    cluster.set("d", "n1", Some(ENABLED), "ambient");
    assert!(!cluster.sync("n1", &["a"]));
    assert!(cluster.sync("n1", &["b"]));
    assert_eq!(cluster.captured(), ["b", "c", "d"]);
    assert_eq!(cluster.marks(), [("a".to_owned(), false), ("b".to_owned(), true)]);
    assert!(cluster.sync("n1", &[]), "what was on its way is taken back");
    assert_eq!(cluster.captured(), ["c", "d"]);
}

#[test]
fn other_replicas_are_counted_by_their_service() {
    let mut cluster = Cluster::new();
    cluster.set("a", "n1", Some(ENABLED), "keelson");
    let slice = |name: &str, service: &str, endpoints: Value| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
            "metadata": { "namespace": "keelson-system", "name": name, "labels": { "kubernetes.io/service-name": service } },
        })
    };
    let endpoint = |pod: &str, address: &str, serving: bool| {
        json!({
            "addresses": [address], "conditions": { "ready": serving, "serving": serving },
            "targetRef": { "kind": "Pod", "namespace": "keelson-system", "name": pod },
        })
    };
    let (own, ours) = (endpoint("c-1", "10.0.0.1", true), "keelson-controller");
    let cases = [
        (vec![], false),
        (vec![slice("v4", ours, json!([own]))], false),
        (vec![slice("v4", ours, json!([own])), slice("v6", ours, json!([endpoint("c-1", "fd00::1", true)]))], false),
        (vec![slice("v4", ours, json!([own, endpoint("c-2", "10.0.0.2", true)]))], true),
        (vec![slice("v4", ours, json!([own, endpoint("c-2", "10.0.0.2", false)]))], false),
        (vec![slice("v4", "another", json!([own, endpoint("c-2", "10.0.0.2", true)]))], false),
    ];
    for (slices, expected) in cases {
        cluster.objects.endpoint_slices.clear();
        for document in &slices {
            let Verdict::Admitted(admitted) = admit(document) else { panic!("{document}") };
            cluster.objects.insert(admitted.key.name, admitted.object);
        }
        assert_eq!(cluster.report("n1", "a", true).others_serve, expected, "{slices:?}");
    }
}
