//! Waiting on a condition, never for a time.

use std::{
    fs,
    path::Path,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Asks `condition` until it is true, with a pause that grows from 2 to 100 ms.
///
/// An error of the condition counts as "not yet"; the last one is told when `deadline` has passed.
pub fn wait_until(what: &str, deadline: Duration, condition: impl FnMut() -> Result<bool>) -> Result<()> {
    wait(what, deadline, || Ok(()), condition)
}

/// The same for what only `child` can bring about: fails as soon as that has ended, with the end of its log.
pub(crate) fn wait_while_alive(
    what: &str,
    deadline: Duration,
    (child, log): (&mut Child, &Path),
    condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let alive = || match child.try_wait()? {
        Some(exit) => bail!("waited in vain for: {what}: the program ended with {exit}:\n{}", tail(log)),
        None => Ok(()),
    };
    wait(what, deadline, alive, condition)
}

/// Unlike an error of `condition`, one of `hope` ends the wait.
fn wait(
    what: &str,
    deadline: Duration,
    mut hope: impl FnMut() -> Result<()>,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(2);
    loop {
        hope()?;
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

/// The end of a log, for an error that may outlive the file.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

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

    #[test]
    fn it_does_not_wait_for_a_program_that_has_ended() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut child =
            Command::new("sh").args(["-c", "echo no such option; exit 3"]).stdout(log.reopen().unwrap()).spawn().unwrap();
        let never = Duration::from_hours(1);
        let error = wait_while_alive("an answer", never, (&mut child, log.path()), || bail!("not yet")).unwrap_err();
        assert_eq!(error.to_string(), "waited in vain for: an answer: the program ended with exit status: 3:\nno such option");
    }
}
