//! What the mesh does for the shop, step by step; every step is checked on real traffic.

mod chance;
mod connections;
mod requests;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

pub(super) use self::requests::traced_visit;
use self::{
    connections::{
        address_is_kept, between_nodes_is_tls, ledger_answers, open_connection_is_closed, page_answers, page_answers_v6,
        page_has_reviews, policies_withdrawn, policy_denies, stranger_is_answered, strict_refuses,
    },
    requests::{
        abort_is_injected, canary_gets_a_tenth, delay_is_injected, everything_is_as_before, failing_endpoint_is_ejected,
        failing_endpoint_is_hidden, header_chooses_version, one_path_is_denied, requests_are_mirrored, shop_is_traced,
        slow_answer_is_not_waited_for,
    },
};
use super::shop::Shop;
use crate::report;

struct Step {
    what: &'static str,
    /// Returns what was seen.
    check: fn(&Shop) -> Result<String>,
}

const STEPS: &[Step] = &[
    Step { what: "the page answers, with details, reviews and ratings behind it", check: page_answers },
    Step { what: "the same over IPv6", check: page_answers_v6 },
    Step { what: "a TCP service that is not HTTP", check: ledger_answers },
    Step { what: "between nodes everything is mutual TLS", check: between_nodes_is_tls },
    Step { what: "the server sees the client's own address", check: address_is_kept },
    Step { what: "a stranger outside the mesh is let in (PERMISSIVE)", check: stranger_is_answered },
    Step { what: "STRICT applied: the stranger is refused", check: strict_refuses },
    Step { what: "... and the mesh goes on", check: page_answers },
    Step { what: "policy applied: only the page may ask reviews", check: policy_denies },
    Step { what: "... the page still may", check: page_has_reviews },
    Step { what: "policy applied: an open connection that it denies is closed", check: open_connection_is_closed },
    Step { what: "policies taken away: all is answered again", check: policies_withdrawn },
    Step { what: "canary: 90 % of requests to v1, 10 % to v3", check: canary_gets_a_tenth },
    Step { what: "a header chooses the version, through the page too", check: header_chooses_version },
    Step { what: "a trace through the shop", check: shop_is_traced },
    Step { what: "fault: ratings abort for one user", check: abort_is_injected },
    Step { what: "fault: ratings delay for one user", check: delay_is_injected },
    Step { what: "retries hide a failing endpoint", check: failing_endpoint_is_hidden },
    Step { what: "outlier detection ejects it instead", check: failing_endpoint_is_ejected },
    Step { what: "a timeout ends a slow request", check: slow_answer_is_not_waited_for },
    Step { what: "a mirror gets a copy of every request", check: requests_are_mirrored },
    Step { what: "policy applied: one path is denied, however it is written", check: one_path_is_denied },
    Step { what: "all taken away: everything is as before", check: everything_is_as_before },
];

/// Tells the story, checks each step, prints the closing table.
pub(super) fn once(shop: &Shop) -> Result<()> {
    let mut rows = Vec::new();
    for step in STEPS {
        let started = Instant::now();
        let seen = (step.check)(shop);
        let took = started.elapsed();
        match &seen {
            Ok(seen) => report::note(format_args!("ok    {}: {seen}", step.what)),
            Err(error) => report::note(format_args!("FAIL  {}: {error:#}", step.what)),
        }
        rows.push((step.what, seen, took));
    }
    print_table(&rows);
    let failed = rows.iter().filter(|(_, seen, _)| seen.is_err()).count();
    ensure!(failed == 0, "{failed} of {} steps failed", rows.len());
    Ok(())
}

fn print_table(rows: &[(&str, Result<String>, Duration)]) {
    let width = rows.iter().map(|(what, ..)| what.len()).max().unwrap_or(0);
    println!("\n{:<width$}  RESULT  {:>8}  SEEN", "STEP", "TIME");
    for (what, seen, took) in rows {
        let (result, seen) = match seen {
            Ok(seen) => ("ok", seen.clone()),
            Err(error) => ("FAILED", error.to_string()),
        };
        println!("{what:<width$}  {result:<6}  {:>5} ms  {seen}", took.as_millis());
    }
}
