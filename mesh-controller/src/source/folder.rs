//! Watches a folder and sends every new state of it.
//!
//! The kernel's notices wake the scan at once, a quiet time of 30 ms lets a burst of writes become one state, and a scan
//! every two seconds catches what no notice tells: links into other folders, remote file systems, a watch that was
//! lost. A folder that vanishes changes nothing until it is back.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mesh_config::document::Limits;
use notify::{RecursiveMode, Watcher};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinError,
    time::{Instant, timeout_at},
};
use tracing::{error, info, warn};

use super::{
    news::News,
    scan::{Scanner, Sources},
};
use crate::telemetry::Telemetry;

const QUIET: Duration = Duration::from_millis(30);
const LONGEST_WAIT: Duration = Duration::from_millis(120);
const RESCAN: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("the folder {path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the scan of the folder ended")]
    Scan(#[source] JoinError),
}

/// A folder of YAML and JSON.
pub struct Folder {
    scanner: Scanner,
    telemetry: Arc<Telemetry>,
}

impl Folder {
    /// Reads the folder once. Starting without one would tell every node that nothing exists.
    pub fn open(path: &Path, state: &Path, telemetry: Arc<Telemetry>) -> Result<(Self, Sources), FolderError> {
        let failed = |source| FolderError::Read { path: path.to_path_buf(), source };
        let path = path.canonicalize().map_err(failed)?;
        let mut scanner = Scanner::new(path, state, Limits::default());
        let sources = scanner.scan().map_err(failed)?.unwrap_or_default();
        Ok((Self { scanner, telemetry }, sources))
    }

    /// The folder, without links in its name.
    pub fn root(&self) -> &Path {
        self.scanner.root()
    }

    /// Sends every further state until the receiver is gone.
    pub async fn watch(mut self, news: mpsc::Sender<News>) -> Result<(), FolderError> {
        let root = self.scanner.root().to_path_buf();
        let woken = Arc::new(Notify::new());
        let mut watcher = start_watcher(&root, &woken);
        let mut readable = true;
        loop {
            let next_scan = Instant::now() + RESCAN;
            if timeout_at(next_scan, woken.notified()).await.is_ok() {
                settle(&woken).await;
            }
            let (scanner, result) = tokio::task::spawn_blocking(move || {
                let result = self.scanner.scan();
                (self.scanner, result)
            })
            .await
            .map_err(FolderError::Scan)?;
            self.scanner = scanner;
            match result {
                Ok(sources) => {
                    if !readable {
                        info!(folder = %root.display(), "the folder is back");
                        // The old watch was on the old folder.
                        watcher = None;
                    }
                    readable = true;
                    watcher = watcher.or_else(|| start_watcher(&root, &woken));
                    if let Some(sources) = sources
                        && news.send(News::State(sources)).await.is_err()
                    {
                        return Ok(());
                    }
                }
                Err(error) if readable => {
                    readable = false;
                    error!(folder = %root.display(), %error, "the folder is gone: its last state stays in force");
                }
                Err(_) => {}
            }
            self.telemetry.metrics.source_readable.set(i64::from(readable));
        }
    }
}

/// Waits until nothing has happened for a while, but not for ever.
async fn settle(woken: &Notify) {
    let latest = Instant::now() + LONGEST_WAIT;
    loop {
        let quiet = (Instant::now() + QUIET).min(latest);
        if timeout_at(quiet, woken.notified()).await.is_err() || Instant::now() >= latest {
            return;
        }
    }
}

fn start_watcher(root: &Path, woken: &Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let own = root.join(".status/keelson");
    let woken = woken.clone();
    let handler = move |event: notify::Result<notify::Event>| {
        // What we write ourselves is no news, and neither is reading.
        let news = event.is_ok_and(|event| {
            let own = !event.paths.is_empty() && event.paths.iter().all(|path| path.starts_with(&own));
            !matches!(event.kind, notify::EventKind::Access(_)) && !own
        });
        if news {
            woken.notify_one();
        }
    };
    let started = notify::recommended_watcher(handler).and_then(|mut watcher| {
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    started.inspect_err(|error| warn!(folder = %root.display(), %error, "no notices of changes: looking every two seconds")).ok()
}
