//! Waiting for what happens by itself.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Far beyond what anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// Asks again and again until the answer is there, and panics with what it was waiting for when that takes too long.
pub(crate) async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let latest = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < latest, "not within {} s: {what}", DEADLINE.as_secs());
        sleep(Duration::from_millis(50)).await;
    }
}
