//! The live picture: who calls whom, how, and what is refused, while policies come and go.

use std::{
    collections::BTreeMap,
    io::{Write, stdout},
    process::Child,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    flows::{self, Edge, Ends},
    story::{PAGE, STRANGER, Shop},
};

const REDRAW: Duration = Duration::from_millis(500);
const ACT: Duration = Duration::from_secs(10);

/// One act: what happens at its beginning, and what to look at.
struct Act {
    title: &'static str,
    begin: fn(&Shop) -> Result<()>,
}

const ACTS: &[Act] = &[
    Act { title: "no policy: everybody may, between nodes by mutual TLS", begin: |_| Ok(()) },
    Act { title: "PeerAuthentication STRICT: the stranger outside the mesh is refused", begin: |shop| shop.apply("strict.yaml") },
    Act {
        title: "AuthorizationPolicy: reviews answer the page alone, the client is refused",
        begin: |shop| shop.apply("page-to-reviews.yaml"),
    },
    Act {
        title: "both taken away",
        begin: |shop| {
            shop.withdraw("strict.yaml")?;
            shop.withdraw("page-to-reviews.yaml")
        },
    },
];

/// Runs traffic and draws until Ctrl-C.
pub(super) fn live(shop: &Shop) -> Result<()> {
    let _traffic = Traffic::start(shop)?;
    for act in ACTS.iter().cycle() {
        (act.begin)(shop)?;
        let until = Instant::now() + ACT;
        let mut before = flows::read(&shop.status()?)?;
        while Instant::now() < until {
            thread::sleep(REDRAW);
            let now = flows::read(&shop.status()?)?;
            draw(act.title, &before, &now)?;
            before = now;
        }
    }
    Ok(())
}

/// Programs that ask all the time; they end with the picture, or with the lab.
struct Traffic(Vec<Child>);

impl Traffic {
    fn start(shop: &Shop) -> Result<Self> {
        let forever = "1000000";
        let ask = |pod: &str, url: &str, rate: &str| {
            shop.start(pod, &["client", "http", url, "-n", forever, "--rate", rate, "--timeout", "2", "-o", "json"])
        };
        let mut children = vec![
            ask("shop/client", PAGE, "20")?,
            ask("shop/client", "http://reviews.shop:9080/reviews/0", "5")?,
            ask(STRANGER, &shop.page_address()?, "5")?,
        ];
        for child in &mut children {
            // Nobody reads what they say, and a full pipe would stop them.
            if let Some(mut said) = child.stdout.take() {
                thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
            }
        }
        Ok(Self(children))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn draw(title: &str, before: &BTreeMap<Ends, Edge>, now: &BTreeMap<Ends, Edge>) -> Result<()> {
    let mut screen = format!("\x1b[H\x1b[2J\x1b[1mKeelson demo\x1b[0m   {title}\n\n");
    screen += &format!("{:<16} {:<16} {:<11} {:>9} {:>8} {:>12}\n", "FROM", "TO", "CARRIED", "OPENED/s", "REFUSED", "BYTES");
    for (ends, edge) in now {
        let past = before.get(ends).cloned().unwrap_or_default();
        let rate = |now: u64, past: u64| now.saturating_sub(past) as f64 / REDRAW.as_secs_f64();
        let refusing = edge.refused > past.refused;
        let colour = if refusing {
            "\x1b[31m"
        } else if edge.opened > past.opened {
            "\x1b[32m"
        } else {
            "\x1b[2m"
        };
        screen += &format!(
            "{colour}{:<16} {:<16} {:<11} {:>9.0} {:>8} {:>12}\x1b[0m\n",
            ends.source,
            ends.destination,
            ends.carried.text(),
            rate(edge.opened, past.opened),
            edge.refused,
            edge.bytes
        );
    }
    screen += "\nCtrl-C ends it and leaves nothing behind.\n";
    let mut out = stdout().lock();
    out.write_all(screen.as_bytes())?;
    Ok(out.flush()?)
}
