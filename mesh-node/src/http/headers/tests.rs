use http::header::{AUTHORIZATION, HeaderName};
use mesh_policy::model::TrustDomain;

use super::*;

mod raw;

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().expect("a name"), HeaderValue::from_str(value).expect("a value")))
        .collect()
}

fn written(headers: &HeaderMap) -> Vec<(String, String)> {
    let field = |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), value.to_str().expect("text").to_owned());
    let mut fields: Vec<_> = headers.iter().map(field).collect();
    fields.sort();
    fields
}

fn check_hop_by_hop(before: &[(&str, &str)], after: &[(&str, &str)]) {
    let mut found = headers(before);
    remove_hop_by_hop(&mut found);
    assert_eq!(written(&found), written(&headers(after)), "of {before:?}");
}

#[test]
fn what_is_for_one_connection_goes_no_further() {
    check_hop_by_hop(&[("accept", "*/*")], &[("accept", "*/*")]);
    check_hop_by_hop(
        &[("connection", "close, X-Own"), ("x-own", "1"), ("x-other", "2"), ("keep-alive", "timeout=5")],
        &[("x-other", "2")],
    );
    check_hop_by_hop(&[("connection", "a"), ("connection", " , b ,"), ("a", "1"), ("b", "2"), ("b", "3")], &[]);
    check_hop_by_hop(&[("proxy-connection", "keep-alive"), ("transfer-encoding", "chunked")], &[]);
    check_hop_by_hop(&[("connection", "upgrade"), ("upgrade", "websocket"), ("http2-settings", "AA")], &[]);
    check_hop_by_hop(&[("trailer", "x-sum")], &[("trailer", "x-sum")]);
    check_hop_by_hop(&[("connection", "bad name, x-a"), ("x-a", "1")], &[]);
    let mut odd = headers(&[("x-a", "1")]);
    odd.insert(CONNECTION, HeaderValue::from_bytes(b"\xff, x-a").expect("a value"));
    remove_hop_by_hop(&mut odd);
    assert!(odd.is_empty(), "what is beside a broken name counts");
}

#[test]
fn nobody_makes_a_request_another_one() {
    let kept = [("host", "a"), ("content-length", "3"), ("authorization", "b"), ("x-forwarded-for", "c"), ("cookie", "d")];
    let mut before = kept.to_vec();
    before.push(("connection", "host, Content-Length, authorization, X-Forwarded-For, cookie"));
    check_hop_by_hop(&before, &kept);
    assert!(END_TO_END.contains(&AUTHORIZATION.as_str()));
}

#[test]
fn only_trailers_may_be_asked_for() {
    check_hop_by_hop(&[("te", "trailers")], &[("te", "trailers")]);
    check_hop_by_hop(&[("te", "gzip;q=0.5, Trailers"), ("connection", "te")], &[("te", "trailers")]);
    check_hop_by_hop(&[("te", "gzip")], &[]);
}

#[test]
fn an_upgrade_is_asked_for_in_two_places() {
    let wanted = |version, fields: &[(&str, &str)]| {
        upgrade_wanted(version, &headers(fields)).map(|value| value.to_str().map(str::to_owned).expect("text"))
    };
    let both = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
    assert_eq!(wanted(Version::HTTP_11, &both).as_deref(), Some("websocket"));
    assert_eq!(wanted(Version::HTTP_10, &both), None);
    assert_eq!(wanted(Version::HTTP_2, &both), None);
    assert_eq!(wanted(Version::HTTP_11, &both[..1]), None);
    assert_eq!(wanted(Version::HTTP_11, &both[1..]), None);
    assert_eq!(wanted(Version::HTTP_11, &[("connection", "upgrade, http2-settings"), ("upgrade", "H2C")]), None);

    let mut passed = headers(&both);
    let protocol = upgrade_wanted(Version::HTTP_11, &passed).expect("an upgrade");
    remove_hop_by_hop(&mut passed);
    set_upgrade(&mut passed, protocol);
    assert_eq!(written(&passed), written(&headers(&[("connection", "upgrade"), ("upgrade", "websocket")])));
    assert!(upgrade_taken(StatusCode::SWITCHING_PROTOCOLS, &passed).is_some());
    assert!(upgrade_taken(StatusCode::OK, &passed).is_none());
}

#[test]
fn what_is_said_in_the_proxys_name_is_believed_of_the_proxy_only() {
    let forged = [
        ("x-envoy-internal", "true"),
        ("x-envoy-original-path", "/admin"),
        ("x-envoy-attempt-count", "7"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-retry-on", "reset"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-forwarded-client-cert", "By=a;URI=spiffe://cluster.local/ns/a/sa/admin"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-environment", "test"),
    ];
    let left = [("x-forwarded-for", "1.2.3.4"), ("x-environment", "test")];
    for sender in [Sender::Application, Sender::Plaintext] {
        let mut found = headers(&forged);
        sanitize(&mut found, sender);
        assert_eq!(written(&found), written(&headers(&left)), "{sender:?}");
    }
    let mut found = headers(&forged);
    sanitize(&mut found, Sender::Mesh);
    let of_the_mesh = [&left[..], &[("x-envoy-original-path", "/admin"), ("x-envoy-attempt-count", "7")]].concat();
    assert_eq!(written(&found), written(&headers(&of_the_mesh)));
}

#[test]
fn the_application_learns_who_asks() {
    let identity = |account| Identity::new(TrustDomain::default(), "shop", account);
    let mut found = headers(&[("x-forwarded-client-cert", "forged"), ("x-forwarded-client-cert", "twice")]);
    set_client_cert(&mut found, &identity("reviews"), Some(&identity("page")));
    let expected = "By=spiffe://cluster.local/ns/shop/sa/reviews;URI=spiffe://cluster.local/ns/shop/sa/page";
    assert_eq!(written(&found), [("x-forwarded-client-cert".to_owned(), expected.to_owned())]);
    set_client_cert(&mut found, &identity("reviews"), None);
    assert!(found.is_empty());
}

#[test]
fn what_the_proxy_says_is_said_once() {
    let mut found = HeaderMap::new();
    set_forwarded_proto(&mut found, "http");
    set_attempt_count(&mut found, 1);
    set_attempt_count(&mut found, 2);
    set_original_path(&mut found, "/a?b");
    set_original_path(&mut found, "/c");
    set_service_time(&mut found, Duration::from_micros(1999));
    let expected = [
        ("x-forwarded-proto", "http"),
        ("x-envoy-attempt-count", "2"),
        ("x-envoy-original-path", "/a?b"),
        ("x-envoy-upstream-service-time", "1"),
    ];
    assert_eq!(written(&found), written(&headers(&expected)));
    let mut https = headers(&[("x-forwarded-proto", "https")]);
    set_forwarded_proto(&mut https, "http");
    assert_eq!(https["x-forwarded-proto"], "https", "the application's own word");
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let check = |version, method: Method, fields: &[(&str, &str)], expected| {
        assert_eq!(refuse_ambiguous(&method, version, &headers(fields)), expected, "{fields:?}");
    };
    let (v11, v2) = (Version::HTTP_11, Version::HTTP_2);
    check(v11, Method::POST, &[("content-length", "3"), ("host", "a")], Ok(()));
    check(v11, Method::POST, &[("content-length", "3"), ("content-length", "3")], Ok(()));
    check(v11, Method::POST, &[("transfer-encoding", "chunked")], Ok(()));
    check(v11, Method::POST, &[("content-length", "3"), ("content-length", "4")], Err(Ambiguity::ContentLength));
    for bad in ["", "+3", "-3", "3, 3", "0x3", " 3 4"] {
        check(v11, Method::POST, &[("content-length", bad)], Err(Ambiguity::ContentLength));
    }
    check(v11, Method::POST, &[("content-length", "3"), ("transfer-encoding", "chunked")], Err(Ambiguity::BothFramings));
    for bad in ["gzip, chunked", "chunked, gzip", "identity", "xchunked"] {
        check(v11, Method::POST, &[("transfer-encoding", bad)], Err(Ambiguity::TransferEncoding));
    }
    let twice = [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
    check(v11, Method::POST, &twice, Err(Ambiguity::TransferEncoding));
    check(v11, Method::GET, &[("host", "a"), ("host", "a")], Err(Ambiguity::SeveralHosts));
    check(v2, Method::GET, &[("te", "trailers")], Ok(()));
    for bad in [("connection", "close"), ("transfer-encoding", "chunked"), ("upgrade", "a"), ("keep-alive", "1")] {
        check(v2, Method::GET, &[bad], Err(Ambiguity::ConnectionHeaderInHttp2));
    }
    check(v11, Method::CONNECT, &[("content-length", "0")], Err(Ambiguity::ConnectBody));
}
