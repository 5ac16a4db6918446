//! What is taken, what is refused, and that the disk gives back what was received.

use mesh_policy::model::{Mesh, TrustDomain, WorkloadUid};
use mesh_proto::{mesh, workload};
use prost::Message;
use prost_types::Any;

use super::*;
use crate::state::disk::{self, StateFile};

fn resource(type_url: &str, name: &str, body: &impl Message) -> xds::Resource {
    let any = Any { type_url: type_url.into(), value: body.encode_to_vec() };
    xds::Resource { name: name.into(), version: "1".into(), resource: Some(any), ..xds::Resource::default() }
}

fn pod(name: &str, address: [u8; 4]) -> xds::Resource {
    let uid = format!("Kubernetes//Pod/shop/{name}");
    let workload = workload::Workload {
        uid: uid.clone(),
        name: name.into(),
        namespace: "shop".into(),
        addresses: vec![address.to_vec().into()],
        trust_domain: "cluster.local".into(),
        service_account: "default".into(),
        ..workload::Workload::default()
    };
    let address = workload::Address { r#type: Some(workload::address::Type::Workload(workload)) };
    resource(type_url::ADDRESS, &uid, &address)
}

fn uid(name: &str) -> WorkloadUid {
    WorkloadUid(format!("Kubernetes//Pod/shop/{name}").into())
}

#[test]
fn a_refused_resource_leaves_the_last_good_one_in_force() {
    let mut resources = Resources::default();
    resources.upsert(type_url::ADDRESS, pod("page", [10, 0, 0, 1])).expect("valid");
    let mut broken = pod("page", [10, 0, 0, 2]);
    let mut wrong =
        workload::Workload { uid: uid("page").to_string(), addresses: vec![vec![1, 2, 3].into()], ..Default::default() };
    wrong.namespace = "shop".into();
    let address = workload::Address { r#type: Some(workload::address::Type::Workload(wrong)) };
    broken.resource = Some(Any { type_url: type_url::ADDRESS.into(), value: address.encode_to_vec() });
    let rejected = resources.upsert(type_url::ADDRESS, broken).expect_err("three bytes are no address");
    assert!(rejected.to_string().contains("address"), "{rejected}");
    let snapshot = resources.snapshot();
    assert_eq!(
        snapshot.workload(&uid("page")).expect("still there").addresses,
        ["10.0.0.1".parse::<std::net::IpAddr>().expect("ip")]
    );
}

#[test]
fn bytes_that_are_no_message_and_types_that_nobody_knows_are_refused() {
    let mut resources = Resources::default();
    let mut garbage = pod("page", [10, 0, 0, 1]);
    garbage.resource = Some(Any { type_url: type_url::ADDRESS.into(), value: vec![0xff; 9] });
    assert!(resources.upsert(type_url::ADDRESS, garbage).is_err());
    assert!(resources.upsert("type.googleapis.com/other", pod("page", [10, 0, 0, 1])).is_err(), "its body is of another type");
    assert!(resources.upsert(type_url::ADDRESS, xds::Resource { name: "x".into(), ..Default::default() }).is_err(), "no body");
    assert_eq!(resources.snapshot().workloads().count(), 0);
}

#[test]
fn a_resource_under_the_name_of_another_is_refused() {
    let mut resources = Resources::default();
    resources.upsert(type_url::ADDRESS, pod("page", [10, 0, 0, 1])).expect("valid");
    let alias = xds::Resource { name: "alias".into(), ..pod("page", [10, 0, 0, 2]) };
    assert!(resources.upsert(type_url::ADDRESS, alias).is_err());
    resources.remove(type_url::ADDRESS, "alias");
    let page = resources.snapshot().workload(&uid("page")).expect("still there").clone();
    assert_eq!(page.addresses, ["10.0.0.1".parse::<std::net::IpAddr>().expect("ip")]);
}

#[test]
fn a_removed_resource_is_gone_and_an_unknown_name_harmless() {
    let mut resources = Resources::default();
    resources.upsert(type_url::ADDRESS, pod("page", [10, 0, 0, 1])).expect("valid");
    resources.remove(type_url::ADDRESS, "nobody");
    resources.remove(type_url::AUTHORIZATION, &uid("page").to_string());
    assert_eq!(resources.snapshot().workloads().count(), 1);
    resources.remove(type_url::ADDRESS, &uid("page").to_string());
    assert_eq!(resources.snapshot().workloads().count(), 0);
    assert_eq!(resources.versions(type_url::ADDRESS).count(), 0);
}

#[test]
fn the_disk_gives_back_what_was_received() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = StateFile::new(dir.path());
    let mut resources = Resources::default();
    assert!(file.load(&mut resources).expect("nothing there is fine").is_empty());
    for (name, last) in [("page", 1), ("reviews", 2)] {
        resources.upsert(type_url::ADDRESS, pod(name, [10, 0, 0, last])).expect("valid");
    }
    let mesh = Mesh { trust_domain: TrustDomain::new("td.example").expect("a trust domain"), ..Mesh::default() };
    resources.upsert(type_url::MESH, resource(type_url::MESH, "mesh", &mesh::Mesh::from(&mesh))).expect("valid");
    file.save(&disk::encode(&resources)).expect("saved");

    let mut restored = Resources::default();
    assert!(file.load(&mut restored).expect("loaded").is_empty(), "nothing is refused");
    assert_eq!(disk::encode(&restored), disk::encode(&resources));
    assert_eq!(restored.snapshot().mesh().trust_domain.as_str(), "td.example");

    // A crash in the middle of another program's write: damaged, said so, nothing half taken.
    let bytes = disk::encode(&resources);
    file.save(&bytes[..bytes.len() - 3]).expect("saved");
    let mut damaged = Resources::default();
    assert!(file.load(&mut damaged).is_err());
    assert_eq!(damaged.snapshot().workloads().count(), 0);
}
