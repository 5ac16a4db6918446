use mesh_policy::model::{
    Header, TrustDomain,
    header::{Name, Value},
};

use super::*;

fn header((name, value): &(&str, &str)) -> Header {
    Header { name: Name(name.parse().expect("a name")), value: Value(value.parse().expect("a value")) }
}

fn ops(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderOps {
    HeaderOps {
        set: set.iter().map(header).collect(),
        add: add.iter().map(header).collect(),
        remove: remove.iter().map(|name| Name(name.parse().expect("a name"))).collect(),
    }
}

fn values<'a>(request: &'a HeaderMap, client: &'a Identity) -> Substitutions<'a> {
    Substitutions {
        request,
        method: &Method::GET,
        path_and_query: "/a?b=c",
        authority: "shop:80",
        version: Version::HTTP_11,
        remote: ([10, 0, 0, 1], 4711).into(),
        local: ([10, 96, 0, 1], 80).into(),
        client: Some(client),
        upstream: Some(([10, 0, 0, 2], 9080).into()),
        response_code: None,
        route: "",
    }
}

fn applied(ops: &HeaderOps, before: &[(&str, &str)]) -> (Vec<(String, String)>, Option<HeaderValue>) {
    let mut headers = HeaderMap::new();
    for (name, value) in before {
        headers.append(name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"));
    }
    let (request, client) = (headers.clone(), Identity::new(TrustDomain::default(), "shop", "page"));
    let authority = apply(ops, &mut headers, &values(&request, &client));
    let written = |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), value.to_str().expect("text").to_owned());
    let mut fields: Vec<_> = headers.iter().map(written).collect();
    fields.sort();
    (fields, authority)
}

fn fields(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn headers_are_removed_then_set_then_added() {
    let before = [("x-a", "1"), ("x-a", "2"), ("x-b", "3"), ("x-c", "4")];
    let all = ops(&[("x-a", "new")], &[("x-a", "more"), ("x-c", "again")], &["x-b", "x-c", "x-none"]);
    assert_eq!(applied(&all, &before).0, fields(&[("x-a", "more"), ("x-a", "new"), ("x-c", "again")]));
    assert_eq!(applied(&HeaderOps::default(), &before[2..]).0, fields(&before[2..]));
}

#[test]
fn host_means_the_authority() {
    for (set, add) in [(&[("Host", "other.shop")][..], &[][..]), (&[][..], &[("host", "other.shop")][..])] {
        let (found, authority) = applied(&ops(set, add, &["host"]), &[("host", "shop")]);
        assert_eq!((found, authority), (fields(&[("host", "shop")]), Some(HeaderValue::from_static("other.shop"))));
    }
}

#[test]
fn framing_is_nobodys_to_change() {
    let before = [("content-length", "3"), ("te", "trailers")];
    let all = ops(
        &[("content-length", "5"), ("transfer-encoding", "chunked"), ("connection", "close")],
        &[("upgrade", "x")],
        &["content-length", "te"],
    );
    assert_eq!(applied(&all, &before), (fields(&before), None));
}

fn check(value: &str, expected: Option<&str>) {
    let (found, _) = applied(&ops(&[("x-out", value)], &[], &[]), &[("x-user", "anna"), ("x-empty", "")]);
    let found = found.iter().find(|(name, _)| name == "x-out").map(|(_, value)| value.as_str());
    assert_eq!(found, expected, "{value:?}");
}

#[test]
fn commands_stand_for_what_is_known_of_the_request() {
    check("plain", Some("plain"));
    check("%REQ(x-user)%", Some("anna"));
    check("<%REQ(X-User)%>", Some("<anna>"));
    check("%REQ(x-user):2%", Some("an"));
    check("%REQ(x-none)%", Some("-"));
    check("%REQ(x-none?x-user)%", Some("anna"));
    check("%REQ(x-none?:path)%", Some("/a?b=c"));
    check("%REQ(:METHOD)% %REQ(:authority)% %REQ(host)%", Some("GET shop:80 shop:80"));
    check("%DOWNSTREAM_REMOTE_ADDRESS%", Some("10.0.0.1:4711"));
    check("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%|%DOWNSTREAM_REMOTE_PORT%", Some("10.0.0.1|4711"));
    check("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%:%DOWNSTREAM_LOCAL_PORT%", Some("10.96.0.1:80"));
    check("%DOWNSTREAM_PEER_URI_SAN%", Some("spiffe://cluster.local/ns/shop/sa/page"));
    check("%UPSTREAM_HOST% %PROTOCOL%", Some("10.0.0.2:9080 HTTP/1.1"));
    check("%RESPONSE_CODE%%ROUTE_NAME%", Some("--"));
    check("100%% %%REQ(x-user)%%", Some("100% %REQ(x-user)%"));
}

#[test]
fn what_is_no_command_stays_as_it_is() {
    for literal in ["50%", "%UNKNOWN%", "%REQ(x-user%", "%REQ(no name)%", "%REQ(:none)%", "%REQ(x-user):x%", "a%b", "%"] {
        check(literal, Some(literal));
    }
    check("%UNKNOWN% %REQ(x-user)%", Some("%UNKNOWN% anna"));
    check("%REQ(x-empty)%", None);
    check("", None);
    check(&"%REQ(:path)%".repeat(2000), None);
}
