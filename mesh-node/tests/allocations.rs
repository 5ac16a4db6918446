//! What the steady state of a connection allocates for its telemetry's labels: nothing.

#![allow(unsafe_code, reason = "an allocator can not be written without")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::SocketAddr,
    sync::Arc,
};

use mesh_node::telemetry::{Cluster, Direction, Flow, Party, Security, Telemetry, Transport};
use mesh_policy::model::{Exports, Identity, LoadBalancing, Service, TrustDomain};

/// Counts what each thread asks for.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no count any more.
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same, and what it gives back came from there.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn flow() -> Flow {
    let party = |name: &str| Party { workload: None, identity: Some(Identity::new(TrustDomain::default(), "shop", name)) };
    let service = Service {
        name: "reviews".into(),
        namespace: "shop".into(),
        hostname: "reviews.shop.svc.cluster.local".into(),
        addresses: Vec::new(),
        ports: Vec::new(),
        subject_alt_names: Vec::new(),
        load_balancing: LoadBalancing::default(),
        exports: Exports::Everywhere,
    };
    Flow {
        direction: Direction::Outbound,
        transport: Transport::Hbone,
        security: Security::MutualTls,
        source_address: SocketAddr::from(([10, 0, 0, 1], 4711)),
        original_destination: SocketAddr::from(([10, 96, 0, 7], 9080)),
        destination_address: Some(SocketAddr::from(([10, 0, 1, 2], 9080))),
        source: party("page"),
        destination: party("reviews"),
        service: Some(Arc::new(service)),
    }
}

#[test]
fn a_request_that_goes_the_way_of_one_before_it_allocates_no_labels() {
    let telemetry = Telemetry::new();
    let tracked = telemetry.open_requests(flow());
    let host: Arc<str> = "reviews.shop.svc.cluster.local".into();
    let cluster = || Cluster::Outbound { port: 9080, subset: None, host: host.clone() };
    let ways = || [tracked.path(tracked.flow().clone(), Cluster::None), tracked.path(tracked.flow().clone(), cluster())];
    drop(ways());
    let before = COUNT.get();
    for _ in 0..1_000 {
        drop(ways());
    }
    assert_eq!(COUNT.get() - before, 0);
}
