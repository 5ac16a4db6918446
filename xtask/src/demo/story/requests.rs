//! What the mesh does for requests: manifests of `samples/tasks` come, change what happens, and go.
//!
//! A manifest is known to be in force when so many requests fare as it says that they could not have by chance; only then is
//! anything counted.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use harness::{task::Applied, wait_until};

use super::{
    super::{
        flows,
        shop::{Answer, CLIENT, PAGE, REVIEWS, Request, Shop, eventually, tally},
        trace::{Parent, Trace},
    },
    chance,
};
use crate::report;

/// The visitor whom routes and faults are for.
const USER: &str = "jason";
/// So many answers are not alike by chance: of three versions not one is left out (3 · 10⁻¹¹), of two endpoints neither (10⁻¹⁸).
const ALIKE: u32 = 60;
const MANY: u32 = 1000;

const RATINGS: &str = "http://ratings.shop:9080/ratings/0";
const UNSTEADY: &str = "http://unsteady.shop:9080/ratings/0";
const DETAILS: &str = "http://details.shop:9080/details/0";
const WHOAMI: &str = "http://details.shop:9080/whoami";

pub(super) fn canary_gets_a_tenth(shop: &Shop) -> Result<String> {
    let _manifests = shop.apply_task("traffic-shifting")?;
    let only_two = |found: &BTreeMap<String, u32>| found.keys().all(|version| version == "v1" || version == "v3");
    eventually("requests to keep away from v2", || {
        let found = versions(shop, None, ALIKE)?;
        ensure!(only_two(&found), "{found:?}");
        Ok(())
    })?;
    let found = versions(shop, None, MANY)?;
    let (v3, bounds) = (found.get("v3").copied().unwrap_or(0), chance::bounds(MANY, 0.1));
    let chance = format!("{} to {} by chance", bounds.start(), bounds.end());
    ensure!(only_two(&found) && bounds.contains(&v3), "of {MANY} requests {found:?}; to v3 were to go {chance}");
    Ok(format!("v3 answered {v3} of {MANY} ({chance}), v2 none"))
}

pub(super) fn header_chooses_version(shop: &Shop) -> Result<String> {
    let _manifests = shop.apply_task("request-routing")?;
    eventually("the header to choose", || {
        for (user, version) in [(Some(USER), "v2"), (None, "v1")] {
            let found = versions(shop, user, ALIKE)?;
            ensure!(found.keys().eq([version]), "{user:?} got {found:?}");
        }
        Ok(())
    })?;
    let page = shop.ask_once(&Request { user: Some(USER), ..Request::new(CLIENT, PAGE) })?;
    let version = page.at("/reviews/served_by/version");
    ensure!(version == "v2", "the page has reviews of {version:?}");
    Ok(format!("{USER} got v2 in {ALIKE} of {ALIKE}, others v1; through the page v2"))
}

pub(super) fn shop_is_traced(shop: &Shop) -> Result<String> {
    let (parent, trace) = traced_visit(shop)?;
    trace.picture().iter().for_each(report::note);
    Ok(format!("{} spans of {} services in trace {}", trace.spans.len(), SERVICES.len(), parent.trace()))
}

/// Whom a visit to the page leads to, from the visitor to the last.
const SERVICES: [&str; 5] = ["client.shop", "page.shop", "details.shop", "reviews.shop", "ratings.shop"];

/// Visits the page as somebody who traces, until the visit led to all services and all of its spans have arrived.
pub(in super::super) fn traced_visit(shop: &Shop) -> Result<(Parent, Trace)> {
    // Nodes send spans after a second, and drop what the collector does not take: the first may be lost.
    const ARRIVAL: Duration = Duration::from_secs(8);
    eventually("a trace through the shop", || {
        shop.collect(|collector| {
            let parent = Parent::new()?;
            let page = shop.ask_once(&Request { trace: Some(parent.header()), ..Request::new(CLIENT, PAGE) })?;
            let version = page.at("/reviews/served_by/version");
            ensure!(version == "v2" || version == "v3", "reviews {version:?} ask nobody");
            let mut whole = None;
            wait_until("all spans of a visit", ARRIVAL, || {
                let trace = collector.trace(&parent)?;
                let has = |service: &str, kind: &str| trace.spans.iter().any(|span| span.service == service && span.kind == kind);
                for service in SERVICES {
                    // Who is asked has a span of kind server; the visitor is asked by nobody.
                    let kind = if service == SERVICES[0] { "client" } else { "server" };
                    ensure!(has(service, kind), "no span of {service} yet: {trace:?}");
                }
                whole = Some(trace);
                Ok(true)
            })?;
            Ok((parent, whole.context("the wait ends when there is a trace")?))
        })
    })
}

pub(super) fn abort_is_injected(shop: &Shop) -> Result<String> {
    let _manifests = shop.apply_task("fault-injection-abort")?;
    eventually("the fault", || {
        let aborted = shop.ask_once(&Request { user: Some(USER), ..Request::new(CLIENT, RATINGS) })?;
        let fault = aborted.body.as_deref() == Some("fault filter abort");
        ensure!(aborted.status == Some(500) && fault, "{USER} got {aborted:?}");
        Ok(())
    })?;
    shop.answers(CLIENT, RATINGS)?;
    Ok(format!("{USER} got 500 `fault filter abort`, another user 200"))
}

pub(super) fn delay_is_injected(shop: &Shop) -> Result<String> {
    const DELAY: u64 = 2_000_000;
    let _manifests = shop.apply_task("fault-injection-delay")?;
    eventually("the delay", || {
        let delayed = shop.ask_once(&Request { user: Some(USER), ..Request::new(CLIENT, RATINGS) })?;
        ensure!(delayed.status == Some(200) && delayed.latency_us >= DELAY, "{USER} got {delayed:?}");
        let other = shop.answers(CLIENT, RATINGS)?;
        ensure!(other.latency_us < DELAY, "another user waited too: {other:?}");
        Ok(format!("{USER} waited {} ms, another user {} ms", delayed.latency_us / 1000, other.latency_us / 1000))
    })
}

pub(super) fn failing_endpoint_is_hidden(shop: &Shop) -> Result<String> {
    let _setup = unsteady(shop, "retries")?;
    let _manifests = shop.apply_task("retries")?;
    let hidden = eventually("retries", || {
        let before = failures(shop)?;
        all_answered(&shop.ask(&Request { times: ALIKE, ..Request::new(CLIENT, UNSTEADY) })?)?;
        Ok(failures(shop)? - before)
    })?;
    ensure!(hidden > 0, "the failing endpoint was not even asked");
    Ok(format!("{ALIKE} of {ALIKE} got 200, while an endpoint failed {hidden} times"))
}

pub(super) fn failing_endpoint_is_ejected(shop: &Shop) -> Result<String> {
    // Its failures show again: nobody tries again now.
    let _setup = unsteady(shop, "outlier-detection")?;
    let _manifests = shop.apply_task("outlier-detection")?;
    eventually("the ejection", || all_answered(&shop.ask(&Request { times: ALIKE, ..Request::new(CLIENT, UNSTEADY) })?))?;
    Ok(format!("{ALIKE} of {ALIKE} got 200 of the other endpoint, without a retry"))
}

/// Two endpoints behind one service, one of which answers everything with 500.
fn unsteady(shop: &Shop, task: &str) -> Result<Applied> {
    let setup = shop.set_up_task(task)?;
    eventually("an endpoint that fails", || {
        let answers = shop.ask(&Request { times: ALIKE, ..Request::new(CLIENT, UNSTEADY) })?;
        let found = tally(&answers, |answer| format!("{:?}", answer.status));
        ensure!(found.keys().eq(["Some(200)", "Some(500)"]), "{found:?}");
        Ok(())
    })?;
    Ok(setup)
}

/// How often the failing endpoint has failed so far.
fn failures(shop: &Shop) -> Result<u64> {
    let labels = [("reporter", "destination"), ("destination_workload", "unsteady-bad"), ("response_code", "500")];
    flows::total(&shop.status()?, "istio_requests_total", &labels)
}

fn all_answered(answers: &[Answer]) -> Result<()> {
    let other = answers.iter().find(|answer| answer.status != Some(200));
    other.map_or(Ok(()), |other| bail!("{other:?}"))
}

pub(super) fn slow_answer_is_not_waited_for(shop: &Shop) -> Result<String> {
    let _manifests = shop.apply_task("request-timeouts")?;
    let slow = eventually("the timeout", || {
        let slow = shop.ask_once(&Request::new(CLIENT, "http://ratings.shop:9080/delay/1500"))?;
        let told = slow.body.as_deref() == Some("upstream request timeout");
        ensure!(slow.status == Some(504) && told, "{slow:?}");
        Ok(slow)
    })?;
    shop.answers(CLIENT, RATINGS)?;
    Ok(format!("504 after {} ms of 1500; a fast answer came", slow.latency_us / 1000))
}

pub(super) fn requests_are_mirrored(shop: &Shop) -> Result<String> {
    const COPIES: u32 = 20;
    let _manifests = shop.apply_task("mirroring")?;
    eventually("copies", || {
        let before = copies(shop)?;
        let found = versions(shop, None, COPIES)?;
        ensure!(found.keys().eq(["v1"]), "answered by {found:?}");
        // Nobody waits for them.
        wait_until("all copies", Duration::from_secs(5), || Ok(copies(shop)? - before >= u64::from(COPIES)))?;
        Ok(format!("v1 answered {COPIES} requests, v2 got {} copies", copies(shop)? - before))
    })
}

/// How many requests of the client v2 has been asked so far.
fn copies(shop: &Shop) -> Result<u64> {
    let labels = [("reporter", "destination"), ("destination_workload", "reviews-v2"), ("source_workload", "client")];
    flows::total(&shop.status()?, "istio_requests_total", &labels)
}

pub(super) fn one_path_is_denied(shop: &Shop) -> Result<String> {
    let _manifests = shop.apply_task("authorization-deny")?;
    eventually("the path to be denied", || {
        for url in [WHOAMI, "http://details.shop:9080/%77hoami"] {
            let denied = shop.ask_once(&Request::new(CLIENT, url))?;
            let told = denied.body.as_deref() == Some("RBAC: access denied");
            ensure!(denied.status == Some(403) && told, "{url}: {denied:?}");
        }
        Ok(())
    })?;
    shop.answers(CLIENT, DETAILS)?;
    Ok("403 for /whoami and /%77hoami, 200 for /details/0".into())
}

pub(super) fn everything_is_as_before(shop: &Shop) -> Result<String> {
    let (there, at_first) = shop.files()?;
    ensure!(there == at_first, "in the folder are {there:?}, not {at_first:?}");
    eventually("everything as before", || {
        shop.answers(CLIENT, WHOAMI)?;
        let found = versions(shop, None, ALIKE)?;
        ensure!(found.keys().eq(["v1", "v2", "v3"]), "{found:?}");
        let status = shop.status()?;
        let guests: Vec<String> = status.pods().map(|(name, _)| name).filter(|name| name.contains("unsteady")).collect();
        ensure!(guests.is_empty(), "there still are {guests:?}");
        Ok(())
    })?;
    Ok(format!("all versions answer, {} files in the folder as at first", there.len()))
}

/// How many requests to reviews each version has answered, all of them with 200.
fn versions(shop: &Shop, user: Option<&str>, times: u32) -> Result<BTreeMap<String, u32>> {
    let answers = shop.ask(&Request { user, times, ..Request::new(CLIENT, REVIEWS) })?;
    all_answered(&answers)?;
    Ok(tally(&answers, |answer| answer.at("/served_by/version")))
}
