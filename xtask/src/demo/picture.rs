//! The live picture: who calls whom, how, and what is refused, while policies and routes come and go.

use std::{
    collections::BTreeMap,
    io::{Write, stdout},
    process::Child,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use harness::task::Applied;

use super::{
    flows::{self, Edge, Ends},
    shop::{CLIENT, PAGE, REVIEWS, STRANGER, Shop},
    story::traced_visit,
};

const REDRAW: Duration = Duration::from_millis(500);
const ACT: Duration = Duration::from_secs(8);

/// One act: what is in force while it lasts, and who asks besides.
#[derive(Clone, Copy)]
struct Act {
    title: &'static str,
    /// Of `samples/shop/policies`.
    policies: &'static [&'static str],
    /// Of `samples/tasks`: the manifests of one, and the pods that one needs.
    task: Option<&'static str>,
    setup: Option<&'static str>,
    /// What the client asks as well.
    ask: Option<Ask>,
    /// Whether a visit is traced and drawn.
    trace: bool,
}

#[derive(Clone, Copy)]
struct Ask {
    url: &'static str,
    user: Option<&'static str>,
}

const PLAIN: Act = Act { title: "", policies: &[], task: None, setup: None, ask: None, trace: false };
const JASON_AT_RATINGS: Option<Ask> = Some(Ask { url: "http://ratings.shop:9080/ratings/0", user: Some("jason") });
const AT_UNSTEADY: Option<Ask> = Some(Ask { url: "http://unsteady.shop:9080/ratings/0", user: None });

const ACTS: &[Act] = &[
    Act { title: "no policy: everybody may, between nodes by mutual TLS", ..PLAIN },
    Act { title: "PeerAuthentication STRICT: the stranger outside the mesh is refused", policies: &["strict.yaml"], ..PLAIN },
    Act {
        title: "AuthorizationPolicy: reviews answer the page alone, the client is refused",
        policies: &["strict.yaml", "page-to-reviews.yaml"],
        ..PLAIN
    },
    Act {
        title: "HTTPRoute: nine of ten requests to reviews-v1, one to v3, none to v2",
        task: Some("traffic-shifting"),
        ..PLAIN
    },
    Act {
        title: "VirtualService: jason gets reviews-v2, everybody else v1",
        task: Some("request-routing"),
        ask: Some(Ask { url: REVIEWS, user: Some("jason") }),
        ..PLAIN
    },
    Act { title: "OTLP: one visit and all that it led to", trace: true, ..PLAIN },
    Act {
        title: "VirtualService: jason's requests to ratings are aborted with 500",
        task: Some("fault-injection-abort"),
        ask: JASON_AT_RATINGS,
        ..PLAIN
    },
    Act {
        title: "VirtualService: jason's requests to ratings are delayed by two seconds",
        task: Some("fault-injection-delay"),
        ask: JASON_AT_RATINGS,
        ..PLAIN
    },
    Act { title: "one of two endpoints fails", setup: Some("retries"), ask: AT_UNSTEADY, ..PLAIN },
    Act {
        title: "VirtualService: retries hide the endpoint that fails",
        setup: Some("retries"),
        task: Some("retries"),
        ask: AT_UNSTEADY,
        ..PLAIN
    },
    Act {
        title: "DestinationRule: outlier detection ejects the endpoint that fails",
        setup: Some("retries"),
        task: Some("outlier-detection"),
        ask: AT_UNSTEADY,
        ..PLAIN
    },
    Act {
        title: "VirtualService: what takes ratings longer than half a second is answered with 504",
        task: Some("request-timeouts"),
        ask: Some(Ask { url: "http://ratings.shop:9080/delay/1500", user: None }),
        ..PLAIN
    },
    Act { title: "VirtualService: reviews-v1 answers, v2 gets a copy of every request", task: Some("mirroring"), ..PLAIN },
    Act {
        title: "AuthorizationPolicy: details deny one path",
        task: Some("authorization-deny"),
        ask: Some(Ask { url: "http://details.shop:9080/whoami", user: None }),
        ..PLAIN
    },
];

/// Runs traffic and draws until Ctrl-C.
pub(super) fn live(shop: &Shop) -> Result<()> {
    let _visitors = [
        Visitor::start(shop, CLIENT, PAGE, None, "20")?,
        Visitor::start(shop, CLIENT, REVIEWS, None, "20")?,
        Visitor::start(shop, STRANGER, &shop.page_address()?, None, "5")?,
    ];
    let mut pods: Option<(&str, Applied)> = None;
    for act in ACTS.iter().cycle() {
        let Act { title, policies, task, setup, ask, trace } = act;
        // Pods stay from one act to the next that needs the same.
        if pods.as_ref().map(|(name, _)| *name) != *setup {
            pods = None;
            if let Some(name) = *setup {
                pods = Some((name, shop.set_up_task(name)?));
            }
        }
        for policy in *policies {
            shop.apply(policy)?;
        }
        let manifests = task.map(|task| shop.apply_task(task)).transpose()?;
        let visitor = ask.map(|Ask { url, user }| Visitor::start(shop, CLIENT, url, user, "10")).transpose()?;
        let below = if *trace { traced_visit(shop)?.1.picture() } else { Vec::new() };
        watch(shop, title, &below)?;
        drop((visitor, manifests));
        for policy in *policies {
            shop.withdraw(policy)?;
        }
    }
    Ok(())
}

/// Draws for the length of an act.
fn watch(shop: &Shop, title: &str, below: &[String]) -> Result<()> {
    let until = Instant::now() + ACT;
    let mut before = flows::read(&shop.status()?)?;
    while Instant::now() < until {
        thread::sleep(REDRAW);
        let now = flows::read(&shop.status()?)?;
        draw(title, &before, &now, below)?;
        before = now;
    }
    Ok(())
}

/// A program that asks all the time; it ends with this, or with the lab.
struct Visitor(Child);

impl Visitor {
    fn start(shop: &Shop, pod: &str, url: &str, user: Option<&str>, rate: &str) -> Result<Self> {
        let mut arguments =
            vec!["client", "http", url, "-n", "1000000", "-c", "4", "--rate", rate, "--timeout", "3", "-o", "json"];
        let user = user.map(|user| format!("end-user: {user}"));
        if let Some(header) = &user {
            arguments.extend(["-H", header.as_str()]);
        }
        let mut child = shop.start(pod, &arguments)?;
        // Nobody reads what it says, and a full pipe would stop it.
        if let Some(mut said) = child.stdout.take() {
            thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        }
        Ok(Self(child))
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn draw(title: &str, before: &BTreeMap<Ends, Edge>, now: &BTreeMap<Ends, Edge>, below: &[String]) -> Result<()> {
    let mut screen = format!("\x1b[H\x1b[2J\x1b[1mKeelson demo\x1b[0m   {title}\n\n");
    screen += &format!(
        "{:<16} {:<16} {:<11} {:>9} {:>8} {:>9} {:>8} {:>12}\n",
        "FROM", "TO", "CARRIED", "OPENED/s", "MS EACH", "FAILED/s", "REFUSED", "BYTES"
    );
    for (ends, edge) in now {
        let past = before.get(ends).cloned().unwrap_or_default();
        let since = |now: u64, past: u64| now.saturating_sub(past) as f64;
        let rate = |now: u64, past: u64| since(now, past) / REDRAW.as_secs_f64();
        let timed = since(edge.timed, past.timed);
        let each =
            if timed > 0.0 { format!("{:.0}", since(edge.milliseconds, past.milliseconds) / timed) } else { String::new() };
        let bad = edge.refused > past.refused || edge.failed > past.failed;
        let colour = if bad {
            "\x1b[31m"
        } else if edge.opened > past.opened {
            "\x1b[32m"
        } else {
            "\x1b[2m"
        };
        screen += &format!(
            "{colour}{:<16} {:<16} {:<11} {:>9.0} {each:>8} {:>9.0} {:>8} {:>12}\x1b[0m\n",
            ends.source,
            ends.destination,
            ends.carried.text(),
            rate(edge.opened, past.opened),
            rate(edge.failed, past.failed),
            edge.refused,
            edge.bytes
        );
    }
    if !below.is_empty() {
        screen += &format!("\n{}\n", below.join("\n"));
    }
    screen += "\nCtrl-C ends it and leaves nothing behind.\n";
    let mut out = stdout().lock();
    out.write_all(screen.as_bytes())?;
    Ok(out.flush()?)
}
