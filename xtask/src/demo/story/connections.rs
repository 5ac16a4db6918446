//! What the mesh does for connections: identity, encryption, and who may talk to whom.

use std::{
    io::{BufRead, BufReader},
    process::Child,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use harness::wait_until;
use serde::Deserialize;

use super::super::{
    flows::{self, Carried},
    shop::{Answer, CLIENT, End, PAGE, PATIENCE, REVIEWS, STRANGER, Shop},
};

/// A line that `shop client hold` prints; one with an outcome is of a connection that has ended.
#[derive(Debug, Deserialize)]
struct Event {
    outcome: Option<String>,
}

pub(super) fn page_answers(shop: &Shop) -> Result<String> {
    // The pods are ready; that word may still be on its way to the nodes.
    shop.until(CLIENT, PAGE, End::Answered)?;
    let answer = shop.answers(CLIENT, PAGE)?;
    let body: serde_json::Value = serde_json::from_str(answer.body.as_deref().unwrap_or_default()).context("the page's JSON")?;
    for part in ["details", "reviews"] {
        ensure!(body.get(part).is_some_and(|part| !part.is_null()), "the page has no {part}: {body}");
    }
    Ok("200, with details and reviews".into())
}

pub(super) fn page_answers_v6(shop: &Shop) -> Result<String> {
    shop.answers(CLIENT, "http://[fd96::10]:9080/")?;
    Ok("200 from [fd96::10]".into())
}

pub(super) fn ledger_answers(shop: &Shop) -> Result<String> {
    let output = shop.client(CLIENT, &["tcp", "ledger.shop:9000", "-o", "json", "--body"])?;
    let line: Answer = serde_json::from_slice(output.stdout.split(|byte| *byte == b'\n').next().unwrap_or_default())?;
    ensure!(line.outcome == "ok", "{line:?}");
    Ok(line.body.unwrap_or_default().trim().chars().take(60).collect())
}

pub(super) fn between_nodes_is_tls(shop: &Shop) -> Result<String> {
    let edges = flows::read(&shop.status()?)?;
    // From outside come the kubelet's probes.
    let of_mesh = |ends: &flows::Ends| ends.source != flows::OUTSIDE;
    let count = |carried| {
        let carried_so = edges.iter().filter(|(ends, _)| ends.carried == carried && of_mesh(ends));
        carried_so.map(|(_, edge)| edge.opened).sum::<u64>()
    };
    let (tls, plain) = (count(Carried::MutualTls), count(Carried::Plaintext));
    ensure!(tls > 0, "no connection under mutual TLS");
    ensure!(plain == 0, "{plain} connections between pods of the mesh in plaintext");
    Ok(format!("{tls} connections under mutual TLS, {} stayed on a node, 0 in plaintext", count(Carried::SameNode)))
}

pub(super) fn address_is_kept(shop: &Shop) -> Result<String> {
    let answer = shop.answers(CLIENT, "http://ratings.shop:9080/whoami")?;
    let status = shop.status()?;
    let (_, client) = status.pods().find(|(name, _)| name == CLIENT).context("no pod shop/client")?;
    let body = answer.body.unwrap_or_default();
    let seen: serde_json::Value = serde_json::from_str(&body).with_context(|| format!("ratings answered {body:?}"))?;
    let address = seen["peer_ip"].as_str().unwrap_or_default();
    ensure!(client.addresses.iter().any(|own| own.to_string() == address), "ratings saw {address}, not the client's address");
    Ok(format!("ratings on the other node saw {address}"))
}

pub(super) fn stranger_is_answered(shop: &Shop) -> Result<String> {
    shop.until(STRANGER, &shop.page_address()?, End::Answered)
}

pub(super) fn strict_refuses(shop: &Shop) -> Result<String> {
    shop.apply("strict.yaml")?;
    shop.until(STRANGER, &shop.page_address()?, End::Reset)
}

pub(super) fn policy_denies(shop: &Shop) -> Result<String> {
    shop.apply("page-to-reviews.yaml")?;
    shop.until(CLIENT, REVIEWS, End::Denied)
}

pub(super) fn page_has_reviews(shop: &Shop) -> Result<String> {
    page_answers(shop)
}

pub(super) fn open_connection_is_closed(shop: &Shop) -> Result<String> {
    let mut held = shop.start(CLIENT, &["client", "hold", "ledger.shop:9000"])?;
    let outcome = close_by_policy(shop, &mut held);
    let _ = held.kill();
    let _ = held.wait();
    outcome
}

/// The connection says nothing and waits; then the policy comes.
fn close_by_policy(shop: &Shop, held: &mut Child) -> Result<String> {
    let output = held.stdout.take().context("no output")?;
    let open = || -> Result<bool> {
        let edges = flows::read(&shop.status()?)?;
        Ok(edges.iter().any(|(ends, edge)| ends.source == "client" && ends.destination == "ledger" && edge.opened > 1))
    };
    wait_until("the connection to stand", PATIENCE, open)?;
    let started = Instant::now();
    shop.apply("no-client-at-ledger.yaml")?;
    for line in BufReader::new(output).lines() {
        let event: Event = serde_json::from_str(&line?).context("an event of `shop client hold`")?;
        if let Some(outcome) = event.outcome {
            ensure!(outcome == "reset", "the open connection ended otherwise: {outcome}");
            return Ok(format!("reset {} ms after the policy", started.elapsed().as_millis()));
        }
    }
    bail!("the client ended without a word")
}

pub(super) fn policies_withdrawn(shop: &Shop) -> Result<String> {
    for policy in ["strict.yaml", "page-to-reviews.yaml", "no-client-at-ledger.yaml"] {
        shop.withdraw(policy)?;
    }
    shop.until(STRANGER, &shop.page_address()?, End::Answered)?;
    shop.until(CLIENT, REVIEWS, End::Answered)
}
