//! Many watches to one stream of news: what comes together is told together.

use std::{collections::HashSet, mem, time::Duration};

use mesh_config::kinds::{Kind, ObjectKey};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{follow::Delivery, kinds::BUILT_IN};
use crate::source::{Changed, News};

/// News wait until nothing has come for so long …
const QUIET: Duration = Duration::from_millis(20);
/// … but no longer than this: a change waits at most so long …
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// … and no more than this are held.
const MOST: usize = 5_000;

/// Collects until the parts are gone, or nobody listens.
pub(super) async fn gather(mut deliveries: mpsc::Receiver<Delivery>, news: mpsc::Sender<News>) {
    let mut expected = Expected::default();
    while let Some(first) = deliveries.recv().await {
        let latest = Instant::now() + LONGEST_WAIT;
        let mut batch = Batch::default();
        batch.take(first, &mut expected);
        while batch.changes.len() < MOST {
            let quiet = (Instant::now() + QUIET).min(latest);
            match timeout_at(quiet, deliveries.recv()).await {
                Ok(Some(delivery)) => batch.take(delivery, &mut expected),
                Ok(None) | Err(_) => break,
            }
            if Instant::now() >= latest {
                break;
            }
        }
        for told in batch.into_news(&mut expected) {
            if news.send(told).await.is_err() {
                return;
            }
        }
    }
}

/// What has to be listed before anything counts.
#[derive(Debug)]
pub(super) struct Expected {
    unlisted: HashSet<Kind>,
    /// Whether the custom kinds are known.
    available: bool,
    told: bool,
}

impl Default for Expected {
    fn default() -> Self {
        Self { unlisted: BUILT_IN.iter().map(|watch| watch.kind).collect(), available: false, told: false }
    }
}

impl Expected {
    /// Once, when everything was listed.
    fn complete(&mut self) -> bool {
        let complete = self.available && self.unlisted.is_empty() && !self.told;
        self.told |= complete;
        complete
    }
}

#[derive(Debug, Default)]
pub(super) struct Batch {
    changes: Vec<Changed>,
    ownership: Option<News>,
}

impl Batch {
    pub(super) fn take(&mut self, delivery: Delivery, expected: &mut Expected) {
        match delivery {
            Delivery::Present { found } => self.changes.push(Changed::Present(found)),
            Delivery::Gone { kind, name } => self.changes.push(Changed::Gone(ObjectKey { kind, name })),
            Delivery::Listed { kind, names } => {
                expected.unlisted.remove(&kind);
                self.changes.push(Changed::Only { kind, names });
            }
            Delivery::Available(kinds) => {
                expected.available = true;
                expected.unlisted.extend(kinds);
            }
            Delivery::Withdrawn(kind) => {
                expected.unlisted.remove(&kind);
                self.changes.push(Changed::Only { kind, names: HashSet::new() });
            }
            Delivery::Ownership(ownership) => self.ownership = Some(News::Ownership(ownership)),
        }
    }

    pub(super) fn into_news(mut self, expected: &mut Expected) -> Vec<News> {
        let mut news: Vec<News> = self.ownership.take().into_iter().collect();
        if !self.changes.is_empty() {
            news.push(News::Changes(mem::take(&mut self.changes)));
        }
        if expected.complete() {
            news.push(News::Complete);
        }
        news
    }
}
