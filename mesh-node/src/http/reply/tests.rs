use http_body_util::BodyExt;

use super::*;

async fn check(reply: LocalReply, grpc: bool, expected: (u16, &[(&str, &str)], &str)) {
    let request = if grpc { vec![(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))] } else { vec![] };
    let response = reply.into_response(&Method::POST, &request.into_iter().collect());
    let (head, body) = response.into_parts();
    let text = body.collect().await.expect("whole").to_bytes();
    let mut fields: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
    fields.sort_unstable();
    assert_eq!((head.status.as_u16(), &fields[..], &text[..]), (expected.0, expected.1, expected.2.as_bytes()));
}

/// What Envoy 1.40 answered to the same (its `server`, `date` and `content-length: 0` apart).
#[tokio::test]
async fn texts_and_statuses_are_envoys() {
    let text = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure";
    let plain = |length| [("content-length", length), ("content-type", "text/plain")];
    check(LocalReply::reset(Reset::ConnectFailure, None), false, (503, &plain("98"), text)).await;
    check(LocalReply::no_healthy_upstream(), false, (503, &plain("19"), "no healthy upstream")).await;
    check(LocalReply::timeout(), false, (504, &plain("24"), "upstream request timeout")).await;
    check(LocalReply::no_route(), false, (404, &[], "")).await;
    check(LocalReply::fault(AbortWith::Http(555)), false, (555, &plain("18"), "fault filter abort")).await;
    check(LocalReply::fault(AbortWith::Grpc(5)), false, (200, &plain("18"), "fault filter abort")).await;
    check(LocalReply::denied(None), false, (403, &plain("19"), "RBAC: access denied")).await;
    let direct = DirectResponse { status: 418, body: b"tea"[..].into() };
    check(LocalReply::direct(&direct), false, (418, &plain("3"), "tea")).await;
    check(LocalReply::redirect(301, "http://a/x"), false, (301, &[("location", "http://a/x")], "")).await;
    let overflow = LocalReply::reset(Reset::Overflow, None);
    let response = overflow.clone().into_response(&Method::GET, &HeaderMap::new());
    assert_eq!(response.headers()["x-envoy-overloaded"], "true");
    assert_eq!(
        (overflow.flags, &*overflow.details),
        (ResponseFlags::UPSTREAM_OVERFLOW, "upstream_reset_before_response_started{overflow}")
    );
}

#[tokio::test]
async fn grpc_is_answered_in_its_own_form() {
    fn fields<'a>(status: &'a str, message: &'a str) -> [(&'a str, &'a str); 3] {
        [("content-type", "application/grpc"), ("grpc-message", message), ("grpc-status", status)]
    }
    check(LocalReply::no_healthy_upstream(), true, (200, &fields("14", "no healthy upstream"), "")).await;
    check(LocalReply::timeout(), true, (200, &fields("14", "upstream request timeout"), "")).await;
    check(LocalReply::denied(Some("shop/deny")), true, (200, &fields("7", "RBAC: access denied"), "")).await;
    check(LocalReply::fault(AbortWith::Grpc(5)), true, (200, &fields("5", "fault filter abort"), "")).await;
    check(LocalReply::fault(AbortWith::Http(555)), true, (200, &fields("2", "fault filter abort"), "")).await;
    check(LocalReply::no_route(), true, (200, &[("content-type", "application/grpc"), ("grpc-status", "12")], "")).await;
    let direct = DirectResponse { status: 418, body: "té%\n".as_bytes().into() };
    check(LocalReply::direct(&direct), true, (200, &fields("2", "t%C3%A9%25%0A"), "")).await;
}

#[tokio::test]
async fn head_is_told_the_length_and_sent_nothing() {
    let response = LocalReply::no_healthy_upstream().into_response(&Method::HEAD, &HeaderMap::new());
    assert_eq!((response.status().as_u16(), &response.headers()["content-length"]), (503, &HeaderValue::from_static("19")));
    assert!(response.into_body().is_done());
}

#[test]
fn details_say_what_happened_in_one_word() {
    for (reply, flags, details) in [
        (LocalReply::no_route(), "NR", "route_not_found"),
        (LocalReply::denied(Some("shop/deny")), "-", "rbac_access_denied_matched_policy[shop/deny]"),
        (LocalReply::denied(None), "-", "rbac_access_denied_matched_policy[none]"),
        (LocalReply::fault(AbortWith::Http(500)), "FI", "fault_filter_abort"),
        (
            LocalReply::reset(Reset::ConnectFailure, Some("connection refused")),
            "UF",
            "upstream_reset_before_response_started{remote_connection_failure|connection_refused}",
        ),
        (LocalReply::timeout(), "UT", "response_timeout"),
    ] {
        assert_eq!((reply.flags.to_string().as_str(), &*reply.details), (flags, details));
    }
}

#[test]
fn what_can_not_be_said_is_an_error_and_no_panic() {
    let broken = LocalReply::redirect(301, "http://a/\r\nset-cookie: b");
    assert_eq!((broken.status.as_u16(), broken.headers.len()), (500, 0));
    let status = LocalReply::direct(&DirectResponse { status: 0, body: b""[..].into() }).status;
    assert_eq!(status, 500);
}
