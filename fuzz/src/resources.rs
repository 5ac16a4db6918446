//! A node's state: what the discovery stream brought, judged and kept on disk. The input is a state file.

use mesh_node::state::{Resources, disk};
use mesh_policy::model::{Authorization, Mesh, Service, Workload};
use mesh_proto::xds::DeltaDiscoveryResponse;
use prost::Message;

/// A refused resource changes nothing, a restart changes nothing, and with the last resource everything is gone.
pub(crate) fn check(input: &[u8]) {
    let Some(messages) = messages(input) else {
        assert!(disk::replay(input, &mut Resources::default()).is_err());
        return;
    };
    let mut live = Resources::default();
    for message in messages {
        for resource in message.resources {
            let before = (disk::encode(&live), view(&live));
            if live.upsert(&message.type_url, resource).is_err() {
                assert_eq!((disk::encode(&live), view(&live)), before);
            }
        }
    }
    let mut loaded = Resources::default();
    disk::replay(input, &mut loaded).expect("it was decoded above");
    assert_eq!(view(&loaded), view(&live));

    let file = disk::encode(&live);
    let mut restarted = Resources::default();
    let refused = disk::replay(&file, &mut restarted).expect("a file of ours can be read");
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(disk::encode(&restarted), file);
    assert_eq!(view(&restarted), view(&live));

    let names: Vec<(String, String)> = (live.received())
        .flat_map(|(kind, resources)| resources.map(move |resource| (kind.to_owned(), resource.name.clone())).collect::<Vec<_>>())
        .collect();
    for (kind, name) in names {
        live.remove(&kind, &name);
    }
    assert_eq!(view(&live), view(&Resources::default()));
}

fn messages(mut input: &[u8]) -> Option<Vec<DeltaDiscoveryResponse>> {
    let mut messages = Vec::new();
    while !input.is_empty() {
        messages.push(DeltaDiscoveryResponse::decode_length_delimited(&mut input).ok()?);
    }
    Some(messages)
}

type View = (Vec<Workload>, Vec<Service>, Vec<Authorization>, Mesh);

fn view(resources: &Resources) -> View {
    let snapshot = resources.snapshot();
    (
        snapshot.workloads().map(|found| (**found).clone()).collect(),
        snapshot.services().map(|found| (**found).clone()).collect(),
        snapshot.policies().map(|found| (**found).clone()).collect(),
        snapshot.mesh().clone(),
    )
}
