//! Ctrl-C, SIGTERM and the end of the terminal while a cluster comes up: what is under way ends, and whoever began it
//! cleans up as after any other error.

use std::{
    fs::File,
    io::{Read, Seek},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How often a wait looks.
const PAUSE: Duration = Duration::from_millis(50);

/// From now on the signals end no process at once: they make [`check`] fail.
pub(super) fn watch() -> Result<()> {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if WATCHED.swap(true, Relaxed) {
        return Ok(());
    }
    ctrlc::set_handler(|| INTERRUPTED.store(true, Relaxed)).context("watch for Ctrl-C")
}

/// An error when somebody wants this command to end.
pub(super) fn check() -> Result<()> {
    ensure!(!INTERRUPTED.load(Relaxed), "interrupted");
    Ok(())
}

/// What follows may take its time: signals from before are forgotten.
pub(super) fn forget() -> bool {
    INTERRUPTED.swap(false, Relaxed)
}

/// Runs a program and returns what it printed, trimmed. An interruption ends it with all that it started.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    check()?;
    let name = command.get_program().display().to_string();
    let (mut printed, mut complaints) = (tempfile::tempfile()?, tempfile::tempfile()?);
    // A group of its own: Ctrl-C reaches it through us, once.
    let child = command.stdout(printed.try_clone()?).stderr(complaints.try_clone()?).process_group(0).spawn();
    let status = end_of(&mut child.with_context(|| format!("cannot start {name}"))?)?;
    if !status.success() {
        let arguments = command.get_args().take(4).map(|word| word.display().to_string()).collect::<Vec<_>>().join(" ");
        bail!("{name} {arguments} failed: {status}\n{}", content(&mut complaints)?.trim_end());
    }
    Ok(content(&mut printed)?.trim().to_owned())
}

/// The same for a program that reads `input`.
pub(super) fn output_of(command: &mut Command, input: &[u8]) -> Result<String> {
    let mut file = tempfile::tempfile().context("make a file")?;
    std::io::Write::write_all(&mut file, input)?;
    file.rewind()?;
    output(command.stdin(Stdio::from(file)))
}

fn end_of(child: &mut Child) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if let Err(error) = check() {
            let group = Pid::from_raw(child.id().try_into().context("a process id is positive")?);
            let _ = killpg(group, Signal::SIGKILL);
            child.wait()?;
            return Err(error);
        }
        thread::sleep(PAUSE);
    }
}

fn content(file: &mut File) -> Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Asks `condition` until it is true. Its errors count as "not yet", the last one is told after `deadline`; an error of
/// `hope` ends the wait, as an interruption does.
pub(crate) fn wait_until(
    what: &str,
    deadline: Duration,
    hope: impl Fn() -> Result<()>,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let end = Instant::now() + deadline;
    loop {
        check()?;
        let answer = condition();
        if let Ok(true) = answer {
            return Ok(());
        }
        hope().with_context(|| format!("waited in vain for: {what}"))?;
        if Instant::now() >= end {
            let in_vain = format!("waited {} s in vain for: {what}", deadline.as_secs());
            return answer.map_or_else(|error| Err(error.context(in_vain.clone())), |_| bail!(in_vain.clone()));
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_what_it_printed_or_complained_of() {
        assert_eq!(output_of(Command::new("cat").arg("-"), b"text\n").unwrap(), "text");
        let error = output(Command::new("sh").args(["-c", "echo no luck >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("no luck") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_wait_ends_with_hope() {
        let gone = || bail!("the program has ended");
        let error = wait_until("an answer", Duration::from_hours(1), gone, || Ok(false)).unwrap_err();
        assert_eq!(format!("{error:#}"), "waited in vain for: an answer: the program has ended");
        let error = wait_until("an answer", Duration::ZERO, || Ok(()), || bail!("not yet")).unwrap_err();
        assert_eq!(format!("{error:#}"), "waited 0 s in vain for: an answer: not yet");
    }
}
