//! Who gets a place when there are fewer than are wanted.

use std::pin::Pin;

use futures_util::{future::join_all, poll};
use tokio::sync::oneshot;

use super::*;

/// What the test says about each dial, in the order in which they begin: whether it succeeds.
#[derive(Default)]
struct Dials {
    orders: Mutex<VecDeque<oneshot::Sender<bool>>>,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

impl Dials {
    /// Waits for the next dial and says what becomes of it.
    async fn end_next(&self, succeeds: bool) {
        let mut next = None;
        until("a dial", || {
            next = self.orders.lock().expect("lock").pop_front();
            next.is_some()
        })
        .await;
        next.expect("just found").send(succeeds).expect("a dial that waits");
    }
}

impl Dial for Arc<Dials> {
    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let (order, heard) = oneshot::channel();
        self.orders.lock().expect("lock").push_back(order);
        self.most.fetch_max(self.under_way.fetch_add(1, Relaxed) + 1, Relaxed);
        let succeeds = heard.await;
        self.under_way.fetch_sub(1, Relaxed);
        if succeeds == Ok(true) { TcpStream::connect(address).await } else { Err(io::ErrorKind::ConnectionRefused.into()) }
    }
}

/// A pod that dials when the test says so, and a node for it.
struct Scene {
    ca: TestCa,
    node: Node,
    dials: Arc<Dials>,
    pool: Pool<Arc<Dials>>,
    tls: Arc<TlsIdentity>,
}

type Opening<'a> = Pin<Box<dyn Future<Output = Result<H2Stream, HboneError>> + 'a>>;

impl Scene {
    /// With so many places in each tunnel.
    async fn with_places(client_streams: usize) -> Self {
        Self::with(Settings { client_streams, ..Settings::default() }).await
    }

    async fn with(settings: Settings) -> Self {
        let ca = TestCa::new();
        let node = Node::start(ca.tls("stock"), Settings::default()).await;
        let dials = Arc::new(Dials::default());
        let pool = Pool::new(Arc::clone(&dials), settings, Budget::new(Budget::DEFAULT));
        let tls = ca.tls("page");
        Self { ca, node, dials, pool, tls }
    }

    /// Asks for a stream and gets in line.
    async fn wait(&self) -> Opening<'_> {
        self.wait_with(self.tls.clone()).await
    }

    async fn wait_with(&self, tls: Arc<TlsIdentity>) -> Opening<'_> {
        let key = Pod::key(self.node.address);
        let mut opening: Opening<'_> = Box::pin(async move { self.pool.open(&key, &tls, &request("10.0.0.2:80")).await });
        assert!(poll!(opening.as_mut()).is_pending());
        opening
    }

    fn streams(&self) -> Vec<usize> {
        self.pool.snapshot().iter().map(|tunnel| tunnel.streams).collect()
    }
}

async fn stream(opening: Opening<'_>) -> H2Stream {
    within("a stream", opening).await.expect("a stream")
}

#[tokio::test]
async fn a_burst_begins_a_bounded_number_of_handshakes_and_all_are_served() {
    let scene = Scene::with_places(1).await;
    let mut openings = Vec::new();
    for _ in 0..40 {
        openings.push(scene.wait().await);
    }
    let dials = scene.dials.clone();
    let dialling = tokio::spawn(async move {
        for _ in 0..40 {
            dials.end_next(true).await;
        }
    });
    let streams = join_all(openings.into_iter().map(stream)).await;
    within("the dials", dialling).await.expect("task");
    assert_eq!((scene.streams(), scene.node.tunnels()), (vec![1; 40], 40));
    assert_eq!(scene.dials.most.load(Relaxed), 8);
    drop(streams);
}

#[tokio::test]
async fn few_who_wait_begin_no_more_handshakes_than_they_need() {
    let scene = Scene::with_places(10).await;
    let mut openings = Vec::new();
    for _ in 0..11 {
        openings.push(scene.wait().await);
    }
    scene.dials.end_next(true).await;
    scene.dials.end_next(true).await;
    let _streams = join_all(openings.into_iter().map(stream)).await;
    assert_eq!(scene.dials.most.load(Relaxed), 2);
    assert_eq!(scene.streams(), [10, 1]);
}

#[tokio::test]
async fn places_go_to_those_who_have_waited_longest() {
    let scene = Scene::with_places(2).await;
    let (first, second, mut third, mut fourth) = (scene.wait().await, scene.wait().await, scene.wait().await, scene.wait().await);
    scene.dials.end_next(true).await;
    let (first, _second) = (stream(first).await, stream(second).await);
    assert!(poll!(third.as_mut()).is_pending() && poll!(fourth.as_mut()).is_pending());
    drop(first);
    // Ahead of somebody who comes when the place is there already, and of somebody who waits behind.
    let mut fifth = scene.wait().await;
    let third = stream(third).await;
    assert!(poll!(fourth.as_mut()).is_pending() && poll!(fifth.as_mut()).is_pending());
    drop(third);
    let _fourth = stream(fourth).await;
    assert!(poll!(fifth.as_mut()).is_pending());
    // The second handshake was for those who have been served otherwise by now.
    scene.dials.end_next(true).await;
    let _fifth = stream(fifth).await;
    assert_eq!(scene.streams(), [2, 1]);
}

#[tokio::test]
async fn the_place_of_one_who_gives_up_goes_to_the_next() {
    let scene = Scene::with_places(1).await;
    let first = scene.wait().await;
    scene.dials.end_next(true).await;
    let first = stream(first).await;
    let (early, late, next) = (scene.wait().await, scene.wait().await, scene.wait().await);
    drop(early);
    drop(first);
    // It was served, and does not know yet.
    drop(late);
    let next = stream(next).await;
    assert_eq!(scene.streams(), [1]);
    // Nobody waits any more: the place is free.
    drop(next);
    assert_eq!(scene.streams(), [0]);
    assert_eq!(scene.node.tunnels(), 1);
}

#[tokio::test]
async fn a_failed_handshake_fails_its_share_of_those_who_wait() {
    let scene = Scene::with_places(2).await;
    let mut openings = Vec::new();
    for _ in 0..6 {
        openings.push(scene.wait().await);
    }
    let rest = openings.split_off(2);
    scene.dials.end_next(false).await;
    for failed in openings {
        assert!(matches!(within("a failure", failed).await, Err(HboneError::Dial { .. })));
    }
    scene.dials.end_next(true).await;
    scene.dials.end_next(true).await;
    let _streams = join_all(rest.into_iter().map(stream)).await;
    assert_eq!(scene.streams(), [2, 2]);
}

#[tokio::test]
async fn with_the_last_handshake_all_fail() {
    let scene = Scene::with_places(2).await;
    let mut openings = Vec::new();
    for _ in 0..5 {
        openings.push(scene.wait().await);
    }
    for _ in 0..3 {
        scene.dials.end_next(false).await;
    }
    let results = within("the failures", join_all(openings)).await;
    assert!(results.iter().all(|result| matches!(result, Err(HboneError::Dial { .. }))));
    // The next one is not spoilt.
    let next = scene.wait().await;
    scene.dials.end_next(true).await;
    stream(next).await;
}

#[tokio::test]
async fn a_handshake_that_is_given_up_fails_those_who_wait() {
    let settings = Settings { spawner: Spawner::new(drop), ..Settings::default() };
    let scene = Scene::with(settings).await;
    let key = Pod::key(scene.node.address);
    let error = within("a failure", scene.pool.open(&key, &scene.tls, &request("10.0.0.2:80"))).await.expect_err("no task");
    assert!(matches!(error, HboneError::Closed { .. }), "{error:?}");
    assert_eq!(scene.pool.snapshot(), []);
}

#[tokio::test]
async fn who_waits_when_a_certificate_is_renewed_gets_a_tunnel_of_the_new_one() {
    let scene = Scene::with_places(2).await;
    let before = scene.wait().await;
    let after = scene.wait_with(scene.ca.tls("page")).await;
    scene.dials.end_next(true).await;
    scene.dials.end_next(true).await;
    let _streams = (stream(before).await, stream(after).await);
    assert_eq!((scene.streams(), scene.node.tunnels()), (vec![2], 2));
}

#[tokio::test]
async fn a_pool_that_is_dropped_ends_its_handshakes_with_its_tunnels() {
    let mut scene = Scene::with_places(1).await;
    drop(scene.wait().await);
    until("a dial", || scene.dials.under_way.load(Relaxed) == 1).await;
    drop(scene.pool);
    scene.dials.end_next(true).await;
    assert_closed(within("the end", scene.node.ended.recv()).await.as_ref());
    // Nothing holds what the pool dialled with.
    until("the pool's end", || Arc::strong_count(&scene.dials) == 1).await;
}
