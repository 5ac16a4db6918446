//! Waiting on a condition, never for a time.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Asks `condition` until it is true, with a pause that grows from 2 to 100 ms.
///
/// An error of the condition counts as "not yet"; the last one is told when `deadline` has passed.
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(2);
    loop {
        let answer = condition();
        if let Ok(true) = answer {
            return Ok(());
        }
        if Instant::now() >= end {
            return match answer {
                Err(error) => Err(error).with_context(|| format!("waited {deadline:?} in vain for: {what}")),
                Ok(_) => bail!("waited {deadline:?} in vain for: {what}"),
            };
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn it_asks_until_true_and_tells_the_last_error() {
        let mut left = 3;
        wait_until("zero", Duration::from_secs(10), || {
            left -= 1;
            Ok(left == 0)
        })
        .unwrap();
        let error = wait_until("never", Duration::ZERO, || Err(anyhow!("nobody there"))).unwrap_err();
        assert_eq!(format!("{error:#}"), "waited 0ns in vain for: never: nobody there");
    }
}
