//! Runs the smoke test, here or under a kernel of its own, and reads what came of it.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// What the smoke test prints at its end; `tests/kernel-smoke` prints the same.
const PASSED: &str = "kernel-smoke passed: ";
const FAILED: &str = "kernel-smoke failed: ";

/// For one boot and test under emulation, which takes 15 to 45 seconds.
const DEADLINE: Duration = Duration::from_secs(90);

/// What a run of the smoke test came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It worked.
    Passed { summary: String },
    /// It ran, and something does not work on this kernel.
    Failed { log: String },
    /// It ended or hung before the test said anything.
    NoAnswer { log: String },
}

/// On this machine's kernel, in namespaces that the test makes for itself.
pub(super) fn on_host(smoke: &Path) -> Result<Outcome> {
    watch(&mut Command::new(smoke))
}

/// Boots `kernel` in the emulator. Hardware virtualisation is not used: it is not to be had everywhere, and a boot takes seconds.
pub(super) fn under_emulation(kernel: &Path, initramfs: &Path) -> Result<Outcome> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-accel",
        "tcg",
        "-cpu",
        "max,-cx16",
        "-m",
        "1024",
        "-nodefaults",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-no-reboot",
    ])
    .args(["-append", "console=ttyS0 panic=-1 quiet"])
    .arg("-kernel")
    .arg(kernel)
    .arg("-initrd")
    .arg(initramfs);
    watch(&mut qemu)
}

/// Runs to the end or to the deadline, and ends what still runs then.
fn watch(command: &mut Command) -> Result<Outcome> {
    let name = command.get_program().display().to_string();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = Running(command.spawn().with_context(|| format!("cannot start {name}"))?);
    let output = running.0.stdout.take().context("the output is piped")?;
    let (send, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if send.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
        }
    });

    let deadline = Instant::now() + DEADLINE;
    let mut log = Vec::new();
    while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        log.push(line);
    }
    drop((lines, running));
    reader.join().ok();
    Ok(outcome(&log))
}

fn outcome(log: &[String]) -> Outcome {
    let after = |marker: &str| log.iter().find_map(|line| Some(line.split_once(marker)?.1.to_owned()));
    if let Some(summary) = after(PASSED) {
        return Outcome::Passed { summary };
    }
    let tail = log[log.len().saturating_sub(40)..].join("\n");
    if after(FAILED).is_some() { Outcome::Failed { log: tail } } else { Outcome::NoAnswer { log: tail } }
}

/// A process that does not outlive us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only when the process has ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_failed_test_from_a_failed_boot() {
        let log = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        for (lines, expected) in [
            (log(&["booting", "kernel-smoke passed: Linux 6.1"]), Outcome::Passed { summary: "Linux 6.1".to_owned() }),
            (log(&["x", "kernel-smoke failed: y"]), Outcome::Failed { log: "x\nkernel-smoke failed: y".to_owned() }),
            (log(&["Kernel panic"]), Outcome::NoAnswer { log: "Kernel panic".to_owned() }),
            (log(&[]), Outcome::NoAnswer { log: String::new() }),
        ] {
            assert_eq!(outcome(&lines), expected);
        }
    }

    #[test]
    fn a_program_that_ends_without_a_word_is_no_answer() {
        assert_eq!(watch(&mut Command::new("true")).unwrap(), Outcome::NoAnswer { log: String::new() });
    }
}
