use super::*;
use crate::{
    commands::test::{judge, table},
    samples::shop_with,
};

const MET: &str = "
- what: jason sees v2
  from: shop/client
  to: reviews.shop
  path: /reviews/0
  headers: {end-user: jason}
  expect:
    outcome: routed
    route: VirtualService shop/reviews spec.http[0]
    backends: {'reviews@v2': 100}
    timeout: none
- what: others see v1
  from: shop/client
  to: shop/reviews
  port: 9080
  expect: {route: VirtualService shop/reviews, backends: {'shop/reviews:9080@v1': 1}}
- what: details has no rules
  from: shop/page
  to: details
  expect: {route: none, outcome: routed, backends: {details.shop.svc.cluster.local: 1}}
";

const MISSED: &str = "
- what: the wrong version
  from: shop/client
  to: reviews.shop
  expect: {route: 'VirtualService shop/review', backends: {'reviews@v2': 1}}
- what: much else
  from: shop/client
  to: reviews.shop
  expect: {outcome: denied, status: 403, location: /x, timeout: 1.5s, denied-by: shop/p}
- what: nobody there
  from: shop/client
  to: shop/revews
  expect: {outcome: routed}
";

#[test]
fn expectations_are_met_or_say_why_not() {
    let snapshot = shop_with("request-routing").snapshot;
    let judged = |text: &str| -> Vec<_> { read(text).expect("expectations").iter().map(|one| judge(one, &snapshot)).collect() };
    insta::assert_snapshot!(
        "met_or_not",
        format!("{}{}", table(&judged(MET)).render(false), table(&judged(MISSED)).render(false))
    );
}

#[test]
fn weights_are_those_of_the_rule() {
    let text = "[{what: w, from: shop/client, to: reviews.shop, expect: {backends: {reviews-v1: 90, reviews-v3: 10}}}]";
    let snapshot = shop_with("traffic-shifting").snapshot;
    let differences = |text: &str| {
        let one = read(text).expect("expectations").remove(0);
        one.differences(&one.answer(&snapshot).expect("both ends are there"))
    };
    assert_eq!(differences(text), Vec::<String>::new());
    let other = differences(&text.replace("90", "80"));
    let told = "backends are {shop/reviews-v1:9080: 90, shop/reviews-v3:9080: 10}, not {reviews-v1: 80, reviews-v3: 10}";
    assert_eq!(other, [told]);
}

#[test]
fn what_is_not_understood_is_named() {
    let check = |text: &str, named: &str| {
        let error = format!("{:#}", read(text).expect_err("not understood"));
        assert!(error.contains(named), "{error}");
    };
    check("[{what: w, from: a/b, to: c/d, expects: {}}]", "expects");
    check("[{what: w, from: a/b, to: c/d, expect: {denied_by: x}}]", "denied_by");
    check("[{what: w, from: a/b, to: c/d, expect: {outcome: lost}}]", "lost");
    check("[{what: w, from: a/b, to: c/d, expect: {timeout: 1 fortnight}}]", "fortnight");
    check("[{what: w, from: a/b, expect: {}}]", "to");
    check("[]", "no expectation");
}
