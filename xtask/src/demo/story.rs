//! What the mesh does for the shop, step by step; every step is checked on real traffic.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use harness::{LabStatus, wait_until};
use serde::Deserialize;

use super::flows::{self, Carried};
use crate::report;

/// How long a change may take to show in traffic. It takes milliseconds; a busy machine must not fail the story.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) const PAGE: &str = "http://page.shop:9080/";
pub(super) const STRANGER: &str = "outside/stranger";
const REVIEWS: &str = "http://reviews.shop:9080/reviews/0";

/// The shop in a running lab.
pub(super) struct Shop {
    id: String,
    /// The manifests that the controller reads.
    folder: PathBuf,
    policies: PathBuf,
}

impl Shop {
    pub(super) fn new(id: &str, folder: &Path, policies: &Path) -> Self {
        Self { id: id.to_owned(), folder: folder.to_owned(), policies: policies.to_owned() }
    }

    pub(super) fn status(&self) -> Result<LabStatus> {
        harness::status(&self.id)
    }

    /// Puts one of the sample policies into the folder, all at once.
    pub(super) fn apply(&self, policy: &str) -> Result<()> {
        let beside = self.folder.join(format!(".{policy}.new"));
        fs::copy(self.policies.join(policy), &beside).with_context(|| format!("applying {policy}"))?;
        Ok(fs::rename(&beside, self.folder.join(policy))?)
    }

    pub(super) fn withdraw(&self, policy: &str) -> Result<()> {
        fs::remove_file(self.folder.join(policy)).with_context(|| format!("taking {policy} away"))
    }

    /// For who is outside the mesh: there, nobody resolves service addresses.
    pub(super) fn page_address(&self) -> Result<String> {
        let status = self.status()?;
        let (_, page) = status.pods().find(|(name, _)| name == "shop/page").context("no pod shop/page")?;
        let address = page.v4().context("the page has no IPv4 address")?;
        Ok(format!("http://{address}:9080/"))
    }

    /// Runs the shop's own client in a pod.
    fn client(&self, pod: &str, arguments: &[&str]) -> Result<Output> {
        let argv: Vec<&str> = ["shop", "client"].iter().chain(arguments).copied().collect();
        let mut command = harness::exec(&self.id, pod, &argv)?;
        command.stdin(Stdio::null()).output().with_context(|| format!("running the client in {pod}"))
    }

    pub(super) fn start(&self, pod: &str, arguments: &[&str]) -> Result<Child> {
        let argv: Vec<&str> = ["shop"].iter().chain(arguments).copied().collect();
        let mut command = harness::exec(&self.id, pod, &argv)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().with_context(|| format!("starting shop in {pod}"))
    }

    /// One request; what became of it.
    fn ask(&self, pod: &str, url: &str) -> Result<Answer> {
        let output = self.client(pod, &["http", url, "-o", "json", "--body", "--timeout", "5"])?;
        let first = output.stdout.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(first).with_context(|| format!("{pod} asking {url}: {}", said()))
    }

    fn answers(&self, pod: &str, url: &str) -> Result<Answer> {
        let answer = self.ask(pod, url)?;
        ensure!(answer.outcome == "ok" && answer.status == Some(200), "{pod} asking {url}: {answer:?}");
        Ok(answer)
    }

    /// Waits until a request ends so, and says how long that took.
    fn until(&self, pod: &str, url: &str, wanted: End) -> Result<String> {
        let started = Instant::now();
        let mut last = None;
        wait_until(&format!("{pod} asking {url}: {}", wanted.text()), PATIENCE, || {
            let answer = self.ask(pod, url)?;
            let done = wanted.is(&answer);
            last = Some(answer);
            Ok(done)
        })
        .with_context(|| format!("last answer: {last:?}"))?;
        Ok(format!("{} after {} ms", wanted.text(), started.elapsed().as_millis()))
    }
}

/// What becomes of a request.
#[derive(Clone, Copy)]
enum End {
    Answered,
    /// Policy has an answer of its own.
    Denied,
    /// Nobody is told anything.
    Reset,
}

impl End {
    fn is(self, answer: &Answer) -> bool {
        match self {
            Self::Answered => answer.status == Some(200),
            Self::Denied => answer.status == Some(403) && answer.body.as_deref() == Some("RBAC: access denied"),
            Self::Reset => answer.outcome == "reset",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Denied => "403",
            Self::Reset => "reset",
        }
    }
}

/// A line that `shop client -o json` prints.
#[derive(Debug, Deserialize)]
struct Answer {
    outcome: String,
    status: Option<u16>,
    body: Option<String>,
}

/// A line that `shop client hold` prints; one with an outcome is of a connection that has ended.
#[derive(Debug, Deserialize)]
struct Event {
    outcome: Option<String>,
}

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

fn page_answers(shop: &Shop) -> Result<String> {
    // The pods are ready; that word may still be on its way to the nodes.
    shop.until("shop/client", PAGE, End::Answered)?;
    let answer = shop.answers("shop/client", PAGE)?;
    let body: serde_json::Value = serde_json::from_str(answer.body.as_deref().unwrap_or_default()).context("the page's JSON")?;
    for part in ["details", "reviews"] {
        ensure!(body.get(part).is_some_and(|part| !part.is_null()), "the page has no {part}: {body}");
    }
    Ok("200, with details and reviews".into())
}

fn page_answers_v6(shop: &Shop) -> Result<String> {
    shop.answers("shop/client", "http://[fd96::10]:9080/")?;
    Ok("200 from [fd96::10]".into())
}

fn ledger_answers(shop: &Shop) -> Result<String> {
    let output = shop.client("shop/client", &["tcp", "ledger.shop:9000", "-o", "json", "--body"])?;
    let line: Answer = serde_json::from_slice(output.stdout.split(|byte| *byte == b'\n').next().unwrap_or_default())?;
    ensure!(line.outcome == "ok", "{line:?}");
    Ok(line.body.unwrap_or_default().trim().chars().take(60).collect())
}

fn between_nodes_is_tls(shop: &Shop) -> Result<String> {
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

fn address_is_kept(shop: &Shop) -> Result<String> {
    let answer = shop.answers("shop/client", "http://ratings.shop:9080/whoami")?;
    let status = shop.status()?;
    let (_, client) = status.pods().find(|(name, _)| name == "shop/client").context("no pod shop/client")?;
    let body = answer.body.unwrap_or_default();
    let seen: serde_json::Value = serde_json::from_str(&body).with_context(|| format!("ratings answered {body:?}"))?;
    let address = seen["peer_ip"].as_str().unwrap_or_default();
    ensure!(client.addresses.iter().any(|own| own.to_string() == address), "ratings saw {address}, not the client's address");
    Ok(format!("ratings on the other node saw {address}"))
}

fn stranger_is_answered(shop: &Shop) -> Result<String> {
    shop.until(STRANGER, &shop.page_address()?, End::Answered)
}

fn strict_refuses(shop: &Shop) -> Result<String> {
    shop.apply("strict.yaml")?;
    shop.until(STRANGER, &shop.page_address()?, End::Reset)
}

fn policy_denies(shop: &Shop) -> Result<String> {
    shop.apply("page-to-reviews.yaml")?;
    shop.until("shop/client", REVIEWS, End::Denied)
}

fn page_has_reviews(shop: &Shop) -> Result<String> {
    page_answers(shop)
}

fn open_connection_is_closed(shop: &Shop) -> Result<String> {
    let mut held = shop.start("shop/client", &["client", "hold", "ledger.shop:9000"])?;
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

fn policies_withdrawn(shop: &Shop) -> Result<String> {
    for policy in ["strict.yaml", "page-to-reviews.yaml", "no-client-at-ledger.yaml"] {
        shop.withdraw(policy)?;
    }
    shop.until(STRANGER, &shop.page_address()?, End::Answered)?;
    shop.until("shop/client", REVIEWS, End::Answered)
}
