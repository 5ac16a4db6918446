use mesh_policy::explain::Backend;
use serde_json::Value;

use super::*;
use crate::samples::{folder, shop, shop_with};

fn call(from: &str, to: &str, path: &str, headers: &[(&str, &str)]) -> Call {
    let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Call { from: from.into(), to: to.into(), port: None, method: "GET".into(), path: path.into(), headers }
}

/// Tasks whose checks are about status, version and shares of requests, which need no running mesh to be foretold.
const FORETOLD: [&str; 7] = [
    "request-routing",
    "authorization-deny",
    "authorization-http",
    "traffic-shifting",
    "mirroring",
    "fault-injection-abort",
    "rewrite-and-headers",
];

#[test]
fn explain_agrees_with_the_checks_of_the_tasks() {
    for task in FORETOLD {
        let snapshot = shop_with(task).snapshot;
        let text = std::fs::read_to_string(folder(&format!("tasks/{task}/check.yaml"))).expect("a check");
        let check: Value = serde_saphyr::from_str(&text).expect("a check");
        let asking = check["expect"].as_array().expect("a list").iter().filter(|one| one.get("http").is_some());
        for one in asking {
            let answer = of_check(&snapshot, one);
            let what = format!("{task}: {}: {}", one["what"], answer.outcome.summary);
            agrees(&answer, one, &what);
        }
    }
}

fn of_check(snapshot: &Snapshot, one: &Value) -> Answer {
    let url = one["http"]["url"].as_str().and_then(|url| url.strip_prefix("http://")).expect("a URL");
    let (named, path) = url.split_at(url.find('/').expect("a path"));
    let (host, port) = named.split_once(':').expect("a port");
    let headers = one["http"]["headers"].as_object().into_iter().flatten();
    let headers: Vec<_> = headers.map(|(name, value)| (name.as_str(), value.as_str().expect("text"))).collect();
    let call = Call { port: port.parse().ok(), ..call(one["from"].as_str().expect("a client"), host, path, &headers) };
    call.put(snapshot).expect("both ends are there")
}

fn agrees(answer: &Answer, one: &Value, what: &str) {
    let expected = &one["answer"];
    let status = answer.outcome.status.unwrap_or(200);
    assert_eq!(Some(u64::from(status)), expected["status"].as_u64(), "{what}");
    assert_eq!(answer.outcome.kind == Kind::Denied, expected["body"] == "RBAC: access denied", "{what}");
    if let Some(version) = expected["json"].get("/served_by/version") {
        assert!(share(answer, version.as_str().expect("text")) > 99.9, "{what}");
    }
    if let Some(path) = expected["json"].get("/path") {
        assert_eq!(answer.explanation.backends[0].path.as_deref(), path.as_str(), "{what}");
    }
    if let Some(location) = expected["headers"].get("location") {
        let found = answer.outcome.location.as_deref().expect("a location");
        assert!(found.ends_with(location.as_str().expect("text")), "{what}");
    }
    for (version, bounds) in one["shares"]["percent"].as_object().into_iter().flatten() {
        let (low, high) = (bounds[0].as_f64().expect("a number"), bounds[1].as_f64().expect("a number"));
        let share = share(answer, version);
        assert!((low..=high).contains(&share), "{what}: {share} % to {version}");
    }
}

/// Of all requests, those that endpoints of a version get.
fn share(answer: &Answer, version: &str) -> f64 {
    let part = |backend: &Backend| {
        let picked = || backend.endpoints.iter().filter(|endpoint| endpoint.tier.is_some());
        let of_version = picked().filter(|endpoint| endpoint.workload.ends_with(&format!("-{version}"))).count();
        backend.percent * of_version as f64 / picked().count().max(1) as f64
    };
    answer.explanation.backends.iter().map(part).sum()
}

fn text(task: &str, call: &Call) -> String {
    call.put(&shop_with(task).snapshot).expect("both ends are there").text()
}

#[test]
fn the_text_tells_why_a_rule_is_followed() {
    let path = "/reviews/0";
    insta::assert_snapshot!(
        "request_routing_jason",
        text("request-routing", &call("shop/client", "reviews.shop", path, &[("end-user", "jason")]))
    );
    insta::assert_snapshot!("request_routing", text("request-routing", &call("shop/client", "shop/reviews", path, &[])));
    insta::assert_snapshot!("traffic_shifting", text("traffic-shifting", &call("shop/client", "reviews", path, &[])));
}

#[test]
fn the_text_names_the_policy_that_denies() {
    insta::assert_snapshot!(
        "authorization_deny",
        text("authorization-deny", &call("shop/client", "details.shop", "/%77hoami", &[]))
    );
}

#[test]
fn the_text_has_all_that_is_done_to_a_request() {
    insta::assert_snapshot!(
        "rewrite_and_headers",
        text("rewrite-and-headers", &call("shop/client", "details.shop", "/api/v1/whoami", &[]))
    );
    insta::assert_snapshot!("mirroring", text("mirroring", &call("shop/client", "reviews.shop", "/reviews/0", &[])));
    insta::assert_snapshot!("outlier_detection", text("outlier-detection", &call("shop/page", "unsteady", "/", &[])));
    insta::assert_snapshot!("circuit_breaking", text("circuit-breaking", &call("shop/client", "ratings.shop", "/", &[])));
}

#[test]
fn what_is_not_http_is_a_connection() {
    insta::assert_snapshot!("tcp", text("tcp-traffic-shifting", &call("shop/client", "shop/ledger", "/", &[])));
}

#[test]
fn a_client_that_is_not_captured_has_no_routes() {
    let snapshot = shop_with("request-routing").snapshot;
    let answer = call("outside/stranger", "reviews.shop", "/reviews/0", &[]).put(&snapshot).expect("both ends are there");
    insta::assert_snapshot!("not_captured", answer.text());
}

#[test]
fn the_first_line_says_what_the_client_gets() {
    let snapshot = shop().snapshot;
    let summary = |to: &str, port: Option<u16>, headers: &[(&str, &str)]| {
        let answer = Call { port, ..call("shop/client", to, "/", headers) }.put(&snapshot).expect("both ends are there");
        (answer.outcome.kind, answer.outcome.summary)
    };
    assert_eq!(
        summary("page", None, &[("host", "elsewhere.com")]),
        (Kind::Routed, "200-class: routed to shop/page:9080".into()),
        "a service's address is that service, whatever the host says"
    );
    assert_eq!(
        summary("page.shop.svc.cluster.local", Some(81), &[]),
        (Kind::Refused, "connection refused: NO_SERVICE_PORT".into())
    );
    assert_eq!(summary("192.0.2.1", None, &[]), (Kind::Passthrough, "passed on to 192.0.2.1:80 as it is".into()));
    assert_eq!(summary("shop/echo", None, &[]), (Kind::Routed, "connected to shop/echo:9001".into()));
    assert_eq!(summary("shop/reviews-v2", None, &[]), (Kind::Routed, "200-class: routed to shop/reviews-v2".into()));
    assert_eq!(summary("10.96.0.10", None, &[]).0, Kind::Routed);
}

#[test]
fn names_that_nothing_has_are_answered_with_those_that_there_are() {
    let snapshot = shop().snapshot;
    let error = |from: &str, to: &str, path: &str| call(from, to, path, &[]).put(&snapshot).expect_err("not there").to_string();
    assert!(error("shop/nobody", "page", "/").contains("shop has client, details, "), "{}", error("shop/nobody", "page", "/"));
    assert!(error("bank/page", "page", "/").contains("the namespace bank has none at all"));
    assert!(error("shop/client", "page.bank", "/").contains("no service is called page.bank"));
    assert!(error("192.0.2.1", "page", "/").contains("no workload has the address"));
    assert!(error("shop/client", "page", "/%zz%00").contains("the node answers 400"));
}

#[test]
fn json_has_the_outcome_beside_the_explanation() {
    let snapshot = shop_with("authorization-deny").snapshot;
    let answer = call("shop/client", "details.shop", "/whoami", &[]).put(&snapshot).expect("both ends are there");
    let json = serde_json::to_value(answer).expect("it is data");
    assert_eq!(
        (&json["outcome"], &json["status"], &json["denied_by"]),
        (&"denied".into(), &403.into(), &"shop/no-whoami".into())
    );
    assert_eq!(json["explanation"]["http"], true);
}
