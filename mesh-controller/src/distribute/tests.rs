use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mesh_policy::model::{
    Action, Authorization, Health, Locality, Model, NetworkMode, PolicyKey, Scope, TrustDomain, TunnelProtocol, Workload,
    WorkloadKind, WorkloadUid,
};
use mesh_proto::xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status};
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::telemetry::Telemetry;

fn workload(number: u8, revision: u8) -> Workload {
    Workload {
        uid: WorkloadUid(format!("w{number}").into()),
        name: format!("w{number}").as_str().into(),
        namespace: "shop".into(),
        addresses: vec![[10, 0, 0, number].into()],
        hostname: "".into(),
        network: "".into(),
        network_mode: NetworkMode::Standard,
        tunnel: TunnelProtocol::None,
        trust_domain: TrustDomain::default(),
        service_account: "a".into(),
        node: "".into(),
        cluster: "".into(),
        canonical_name: "".into(),
        canonical_revision: revision.to_string().as_str().into(),
        kind: WorkloadKind::Pod,
        workload_name: "".into(),
        policies: Vec::new(),
        health: Health::Healthy,
        locality: Locality::default(),
        capacity: 1,
        labels: BTreeMap::new(),
        services: BTreeMap::new(),
    }
}

fn policy(number: u8) -> Authorization {
    let key = PolicyKey { namespace: "shop".into(), name: format!("p{number}").into() };
    Authorization { key, scope: Scope::Namespace, action: Action::Allow, dry_run: false, rules: Vec::new() }
}

fn model(workloads: &[(u8, u8)], policies: &[u8]) -> Model {
    let mut model = Model::default();
    for (number, revision) in workloads {
        model.upsert_workload(workload(*number, *revision));
    }
    for number in policies {
        model.upsert_policy(policy(*number));
    }
    model
}

fn first(model: Model) -> Published {
    Published::default().next(model).unwrap()
}

fn subscribe(kind: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.url().into(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn answer(response: &DeltaDiscoveryResponse, refusal: Option<&str>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: refusal.map(|message| Status { code: 3, message: message.into(), details: Vec::new() }),
        ..DeltaDiscoveryRequest::default()
    }
}

/// A stream with every type subscribed and everything so far acknowledged.
fn caught_up(published: &Published) -> Stream {
    let mut stream = Stream::default();
    for kind in ResourceType::ALL {
        stream.request(subscribe(kind, &["*"]), published);
    }
    drain(&mut stream, published);
    stream
}

/// Every response that is due, each acknowledged at once: type, names sent, names removed.
fn drain(stream: &mut Stream, published: &Published) -> Vec<(ResourceType, Vec<String>, Vec<String>)> {
    let mut seen = Vec::new();
    while let Some((kind, response)) = stream.response(published) {
        stream.request(answer(&response, None), published);
        let names = response.resources.into_iter().map(|resource| resource.name).collect();
        seen.push((kind, names, response.removed_resources));
    }
    seen
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn a_new_node_is_told_everything_policies_first() {
    let published = first(model(&[(1, 0), (2, 0)], &[1]));
    let mut stream = Stream::default();
    // Whatever the order of its questions.
    for kind in [ResourceType::Address, ResourceType::Authorization, ResourceType::Mesh] {
        stream.request(subscribe(kind, &["*"]), &published);
    }
    assert_eq!(
        drain(&mut stream, &published),
        [
            (ResourceType::Mesh, texts(&["mesh"]), vec![]),
            (ResourceType::Authorization, texts(&["shop/p1"]), vec![]),
            (ResourceType::Address, texts(&["w1", "w2"]), vec![]),
        ]
    );
    assert_eq!(stream.progress().acknowledged, published.generation);
}

#[test]
fn the_first_response_of_a_type_comes_even_when_it_is_empty() {
    let published = first(model(&[], &[]));
    let mut stream = Stream::default();
    stream.request(subscribe(ResourceType::Address, &[]), &published);
    assert_eq!(drain(&mut stream, &published), [(ResourceType::Address, vec![], vec![])]);
    assert_eq!(Stream::default().response(&published), None, "nothing was asked for");
    assert_eq!(caught_up(&Published::default()).response(&Published::default()), None, "nothing is published yet");
}

#[test]
fn only_what_changed_is_sent_and_policies_outlive_their_workloads() {
    let before = first(model(&[(1, 0), (2, 0), (3, 0)], &[1, 2]));
    let mut stream = caught_up(&before);
    let after = before.next(model(&[(1, 0), (2, 1), (4, 0)], &[2, 3])).unwrap();
    assert_eq!(
        drain(&mut stream, &after),
        [
            (ResourceType::Authorization, texts(&["shop/p3"]), vec![]),
            (ResourceType::Address, texts(&["w2", "w4"]), texts(&["w3"])),
            (ResourceType::Authorization, vec![], texts(&["shop/p1"])),
        ]
    );
    assert!(after.next(model(&[(1, 0), (2, 1), (4, 0)], &[2, 3])).is_none(), "the same objects are the same publication");
}

#[test]
fn what_is_not_answered_is_not_followed_by_more_and_the_newest_state_wins() {
    let one = first(model(&[(1, 0)], &[]));
    let mut stream = caught_up(&one);
    let two = one.next(model(&[(1, 1)], &[])).unwrap();
    let (_, unanswered) = stream.response(&two).unwrap();
    assert_eq!(stream.response(&two), None);
    let three = two.next(model(&[(1, 2)], &[])).unwrap();
    let four = three.next(model(&[(1, 3)], &[9])).unwrap();
    let (kind, policies) = stream.response(&four).unwrap();
    assert_eq!(kind, ResourceType::Authorization, "a type that is free goes on");
    assert_eq!(stream.response(&four), None);
    assert_eq!(stream.progress().acknowledged, one.generation);
    stream.request(answer(&unanswered, None), &four);
    assert_eq!(stream.progress().acknowledged, two.generation, "however far the state has gone since");
    stream.request(answer(&policies, None), &four);
    let (_, newest) = stream.response(&four).unwrap();
    assert_eq!(newest.resources[0].version, *four.find(ResourceType::Address, "w1").unwrap().version);
    stream.request(answer(&newest, None), &four);
    assert_eq!(stream.response(&four), None, "nothing in between is sent");
    assert_eq!(stream.progress().acknowledged, four.generation);
}

#[test]
fn a_state_that_brings_nothing_of_a_type_is_held_with_the_answer_that_is_due() {
    let one = first(model(&[(1, 0)], &[]));
    let mut stream = caught_up(&one);
    let two = one.next(model(&[(1, 1)], &[])).unwrap();
    let (_, workloads) = stream.response(&two).unwrap();
    let three = two.next(model(&[(1, 1)], &[9])).unwrap();
    let (_, policies) = stream.response(&three).unwrap();
    assert_eq!(stream.response(&three), None);
    stream.request(answer(&policies, None), &three);
    stream.request(answer(&workloads, None), &three);
    assert_eq!(stream.progress().acknowledged, three.generation);
}

#[test]
fn a_refused_response_is_not_repeated_and_is_not_held() {
    let one = first(model(&[(1, 0), (2, 0)], &[]));
    let mut stream = caught_up(&one);
    let two = one.next(model(&[(1, 1), (2, 0)], &[])).unwrap();
    let (_, response) = stream.response(&two).unwrap();
    let refused = stream.request(answer(&response, Some("no")), &two);
    assert_eq!(refused, Answer::Refused { kind: ResourceType::Address, message: "no".into() });
    assert_eq!(stream.response(&two), None);
    assert_eq!(stream.progress().refused, BTreeSet::from(["w1".into()]));
    let three = two.next(model(&[(1, 2), (2, 0)], &[])).unwrap();
    assert_eq!(drain(&mut stream, &three), [(ResourceType::Address, texts(&["w1"]), vec![])]);
    assert_eq!(stream.progress().refused, BTreeSet::new());
}

#[test]
fn an_answer_to_another_response_counts_for_nothing() {
    let published = first(model(&[(1, 0)], &[]));
    let mut stream = Stream::default();
    stream.request(subscribe(ResourceType::Address, &["*"]), &published);
    let (_, response) = stream.response(&published).unwrap();
    let stale = DeltaDiscoveryRequest { response_nonce: "99".into(), ..answer(&response, None) };
    assert_eq!(stream.request(stale, &published), Answer::Stale);
    assert_eq!(stream.request(answer(&response, None), &published), Answer::Acknowledged(ResourceType::Address));
    assert_eq!(stream.request(answer(&response, None), &published), Answer::Stale);
    assert_eq!(stream.request(DeltaDiscoveryRequest::default(), &published), Answer::UnknownType);
}

#[test]
fn a_node_that_comes_back_is_told_the_difference() {
    let published = first(model(&[(1, 0), (2, 0)], &[]));
    let version = |name: &str| published.find(ResourceType::Address, name).unwrap().version.to_string();
    let mut stream = Stream::default();
    let held = [("w1", version("w1")), ("w2", "older".into()), ("w9", "any".into())];
    let request = DeltaDiscoveryRequest {
        initial_resource_versions: held.map(|(name, version)| (name.to_owned(), version)).into(),
        ..subscribe(ResourceType::Address, &["*"])
    };
    stream.request(request, &published);
    assert_eq!(drain(&mut stream, &published), [(ResourceType::Address, texts(&["w2"]), texts(&["w9"]))]);
}

#[test]
fn single_names_and_addresses_can_be_asked_for() {
    let one = first(model(&[(1, 0), (2, 0)], &[]));
    let mut stream = Stream::default();
    stream.request(subscribe(ResourceType::Address, &["/10.0.0.1", "w7"]), &one);
    let (_, response) = stream.response(&one).unwrap();
    assert_eq!(
        (response.resources[0].name.as_str(), response.resources[0].aliases.as_slice()),
        ("w1", ["/10.0.0.1".to_owned()].as_slice())
    );
    assert_eq!(response.removed_resources, ["w7"], "what is not there is told at once");
    stream.request(answer(&response, None), &one);
    assert_eq!(stream.response(&one), None);

    let two = one.next(model(&[(1, 1), (2, 1), (7, 0)], &[])).unwrap();
    assert_eq!(drain(&mut stream, &two), [(ResourceType::Address, texts(&["w1", "w7"]), vec![])], "w2 was not asked for");
    let again = subscribe(ResourceType::Address, &["/10.0.0.1"]);
    stream.request(again, &two);
    assert_eq!(drain(&mut stream, &two), [(ResourceType::Address, texts(&["w1"]), vec![])], "asked again, sent again");
    let unsubscribe =
        DeltaDiscoveryRequest { resource_names_unsubscribe: texts(&["w7"]), ..subscribe(ResourceType::Address, &[]) };
    stream.request(unsubscribe, &two);
    let three = two.next(model(&[(1, 1), (7, 1)], &[])).unwrap();
    assert_eq!(drain(&mut stream, &three), []);
}

#[test]
fn a_large_first_state_comes_in_parts() {
    let mut model = Model::default();
    for number in 0..9_000_u32 {
        let mut found = workload(0, 0);
        found.uid = WorkloadUid(number.to_string().into());
        model.upsert_workload(found);
    }
    let published = first(model);
    let mut stream = Stream::default();
    stream.request(subscribe(ResourceType::Address, &["*"]), &published);
    let (_, response) = stream.response(&published).unwrap();
    stream.request(answer(&response, None), &published);
    assert_eq!(stream.progress().acknowledged, 0, "there is more to come");
    let parts: Vec<usize> = drain(&mut stream, &published).iter().map(|(_, names, _)| names.len()).collect();
    assert_eq!((response.resources.len(), parts), (4_000, vec![4_000, 1_000]));
    assert_eq!(stream.progress().acknowledged, published.generation);
}

/// One step of a node's life.
#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<(u8, u8)>, Vec<u8>),
    Take,
    Answer(bool),
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let workloads = proptest::collection::btree_map(0_u8..5, 0_u8..3, 0..5).prop_map(|map| map.into_iter().collect());
    let policies = proptest::collection::btree_set(0_u8..3, 0..3).prop_map(|set| set.into_iter().collect());
    prop_oneof![
        (workloads, policies).prop_map(|(workloads, policies)| Step::Publish(workloads, policies)),
        Just(Step::Take),
        any::<bool>().prop_map(Step::Answer),
        Just(Step::Reconnect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// Whatever happens on the way, a node that answers in the end holds exactly what is published. (It takes every
    /// response, and refuses none here: what it keeps then is its own affair.)
    #[test]
    fn differences_add_up_to_the_full_state(steps in proptest::collection::vec(step(), 1..40)) {
        let mut published = first(model(&[], &[]));
        let mut stream = Stream::default();
        let mut held: BTreeMap<ResourceType, BTreeMap<String, String>> = BTreeMap::new();
        let mut open: Vec<DeltaDiscoveryResponse> = Vec::new();
        let connect = |held: &BTreeMap<ResourceType, BTreeMap<String, String>>, published: &Published| {
            let mut stream = Stream::default();
            for kind in ResourceType::ALL {
                let versions = held.get(&kind).cloned().unwrap_or_default();
                let request = DeltaDiscoveryRequest { initial_resource_versions: versions, ..subscribe(kind, &["*"]) };
                stream.request(request, published);
            }
            stream
        };
        let take = |held: &mut BTreeMap<ResourceType, BTreeMap<String, String>>, kind, response: &DeltaDiscoveryResponse| {
            let of_type: &mut BTreeMap<String, String> = held.entry(kind).or_default();
            for name in &response.removed_resources {
                of_type.remove(name);
            }
            of_type.extend(response.resources.iter().map(|resource| (resource.name.clone(), resource.version.clone())));
        };
        for step in steps.into_iter().chain([Step::Reconnect]) {
            match step {
                Step::Publish(workloads, policies) => {
                    if let Some(next) = published.next(model(&workloads, &policies)) {
                        published = next;
                    }
                }
                Step::Take => {
                    if let Some((kind, response)) = stream.response(&published) {
                        take(&mut held, kind, &response);
                        open.push(response);
                    }
                }
                Step::Answer(newest) => {
                    let response = if newest { open.pop() } else { (!open.is_empty()).then(|| open.remove(0)) };
                    if let Some(response) = response {
                        stream.request(answer(&response, None), &published);
                    }
                }
                Step::Reconnect => {
                    stream = connect(&held, &published);
                    open.clear();
                }
            }
        }
        while let Some((kind, response)) = stream.response(&published) {
            take(&mut held, kind, &response);
            stream.request(answer(&response, None), &published);
        }
        for kind in ResourceType::ALL {
            let expected: BTreeMap<String, String> =
                published.of_type(kind).map(|entry| (entry.name.to_string(), entry.version.to_string())).collect();
            prop_assert_eq!(held.get(&kind).cloned().unwrap_or_default(), expected);
        }
        prop_assert_eq!(stream.progress().acknowledged, published.generation);
    }
}

#[tokio::test]
async fn an_acknowledgement_is_waited_for_from_every_connected_node() {
    let nodes = Nodes::new(Arc::new(Telemetry::new()));
    let far = Instant::now() + Duration::from_secs(20);
    assert!(nodes.acknowledged(5, "w", far).await.is_empty(), "nobody is connected");

    let (one, two) = (nodes.connect("one"), nodes.connect("two"));
    one.progress.send_replace(Progress { acknowledged: 7, refused: BTreeSet::new() });
    let waiting = tokio::spawn({
        let nodes = nodes.clone();
        async move { nodes.acknowledged(5, "w", far).await }
    });
    two.progress.send_replace(Progress { acknowledged: 4, refused: BTreeSet::new() });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    two.progress.send_replace(Progress { acknowledged: 5, refused: BTreeSet::from(["other".into()]) });
    assert!(waiting.await.unwrap().is_empty());

    let soon = || Instant::now() + Duration::from_millis(1);
    assert_eq!(nodes.acknowledged(6, "w", soon()).await, ["two"]);
    two.progress.send_replace(Progress { acknowledged: 9, refused: BTreeSet::from(["w".into()]) });
    assert_eq!(nodes.acknowledged(6, "w", soon()).await, ["two"], "what is refused is not held");
    // A newer stream of the same node counts in place of the older, which may be half open.
    let again = nodes.connect("two");
    assert_eq!(nodes.acknowledged(6, "w", soon()).await, ["two"]);
    again.progress.send_replace(Progress { acknowledged: 9, refused: BTreeSet::new() });
    assert!(nodes.acknowledged(6, "w", soon()).await.is_empty());
    drop((two, again));
    assert_eq!(nodes.names(), BTreeSet::from(["one".to_owned()]));
}

#[test]
fn every_type_is_sent_whole() {
    for kind in ResourceType::ALL {
        assert!(stream::ORDER.contains(&(kind, stream::Part::All)), "{kind:?} is never sent");
    }
}
