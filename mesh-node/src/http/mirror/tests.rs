use http::Method;
use http_body_util::BodyExt;

use super::*;

fn head() -> request::Parts {
    let request = Request::post("/a?b").header("host", "reviews:9080").header("x-a", "1").header("connection", "x-a");
    request.header("transfer-encoding", "chunked").body(()).expect("a request").into_parts().0
}

#[tokio::test]
async fn the_copy_is_whole_and_framed_anew() {
    let mirrors = Mirrors::new();
    let replay = Replay::new(Body::full("body"));
    let copy = mirrors.pod(1).prepare(&head(), &replay).expect("a place");
    replay.attempt().expect("an attempt").collect().await.expect("whole");
    let (mut copy, _permit) = copy.await.expect("a copy");
    set_shadow_host(copy.headers_mut(), "reviews:9080");
    assert_eq!((copy.method(), copy.uri().to_string().as_str()), (&Method::POST, "/a?b"));
    let mut fields: Vec<_> = copy.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
    fields.sort_unstable();
    assert_eq!(fields, [("content-length", "4"), ("host", "reviews-shadow:9080")]);
    assert_eq!(copy.into_body().collect().await.expect("whole").to_bytes(), "body");
    assert_eq!(mirrors.counts.sent.load(Relaxed), 1);
}

#[tokio::test]
async fn a_long_or_broken_body_is_not_mirrored() {
    let mirrors = Mirrors::new();
    let pod = mirrors.pod(1);
    let replay = Replay::with_limit(Body::full("too long"), 4);
    let copy = pod.prepare(&head(), &replay).expect("a place");
    replay.attempt().expect("an attempt").collect().await.expect("whole");
    assert!(copy.await.is_none());
    let never_read = Replay::new(Body::full("body"));
    let copy = pod.prepare(&head(), &never_read).expect("the place is free again");
    drop(never_read);
    assert!(copy.await.is_none());
    assert_eq!((mirrors.counts.no_body.load(Relaxed), mirrors.counts.sent.load(Relaxed)), (2, 0));
}

#[tokio::test]
async fn places_are_bounded_for_pod_and_node() {
    let mirrors = Mirrors::with_limit(3);
    let (one, other) = (mirrors.pod(2), mirrors.pod(2));
    let replay = Replay::new(Body::empty());
    let held: Vec<_> = (0..2).map(|_| one.prepare(&head(), &replay).expect("a place")).collect();
    assert!(one.prepare(&head(), &replay).is_none(), "the pod's limit");
    let last = other.prepare(&head(), &replay).expect("a place");
    assert!(other.prepare(&head(), &replay).is_none(), "the node's limit");
    assert_eq!(mirrors.counts.busy.load(Relaxed), 2);
    drop(held);
    let (_, permit) = last.await.expect("a copy");
    drop(permit);
    assert_eq!((mirrors.open.load(Relaxed), one.open.load(Relaxed), other.open.load(Relaxed)), (0, 0, 0));
}

#[test]
fn the_shadow_goes_behind_the_host() {
    for (authority, expected) in [
        ("reviews", "reviews-shadow"),
        ("reviews:9080", "reviews-shadow:9080"),
        ("10.0.0.1:80", "10.0.0.1-shadow:80"),
        ("[::1]:80", "[::1]-shadow:80"),
        ("[::1]", "[::1]-shadow"),
    ] {
        assert_eq!(shadow_authority(authority), expected);
    }
}
