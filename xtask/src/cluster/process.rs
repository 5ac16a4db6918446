//! Programs of a cluster that outlive the command that starts them, recorded so that no other process is ever taken for one.

use std::{
    fs::{self, OpenOptions},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use harness::in_netns;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::cgroup;

/// A process that is not another's of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// In clock ticks since the machine started (proc_pid_stat(5), field 22).
    started: u64,
}

impl Process {
    pub(super) fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} has ended"))?;
        let Some((_, started)) = state_and_start(&stat) else { bail!("/proc/{pid}/stat is not understood") };
        Ok(Self { pid, started })
    }

    pub(super) fn this() -> Result<Self> {
        Self::of(std::process::id())
    }

    /// Whether it runs; one that nobody waited for does not. One whose first thread has ended lives on with the others, and so do
    /// its sockets.
    pub(crate) fn alive(self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let has_ended = |state: char| matches!(state, 'Z' | 'X') && self.threads() <= 1;
        state_and_start(&stat).is_some_and(|(state, started)| started == self.started && !has_ended(state))
    }

    fn threads(self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.pid)).map_or(0, Iterator::count)
    }

    /// Kills it and waits for its end; one that has ended is no error.
    pub(super) fn kill(self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while self.alive() {
            let _ = kill(Pid::from_raw(self.pid.try_into()?), Signal::SIGKILL);
            if Instant::now() > end {
                bail!("process {} does not die", self.pid);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// What it has of the machine's memory, in bytes; zero when it has ended.
    pub(super) fn memory(self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

/// The name in parentheses may hold anything, parentheses too.
fn state_and_start(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Starts a program in the network namespace at `netns` and in the control group `group`, its output appended to `log`.
/// Signals from the terminal do not reach it.
pub(super) fn start(command: &mut Command, netns: &Path, group: &str, log: &Path) -> Result<Process> {
    let name = command.get_program().display().to_string();
    let file = OpenOptions::new().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0).current_dir("/");
    let child = in_netns(netns, || command.spawn())?.with_context(|| format!("cannot start {name}"))?;
    let process = Process::of(child.id()).with_context(|| format!("{name} ended at once:\n{}", tail(log, 20)))?;
    cgroup::join(group, child.id())?;
    Ok(process)
}

/// The last lines of a log, each cut to what a reader wants to see of it.
pub(super) fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    let last = all[all.len().saturating_sub(lines)..].iter();
    last.map(|line| line.chars().take(300).collect::<String>()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let this = Process::this().unwrap();
        assert!(this.alive() && this.memory() > 0);
        assert!(!Process { started: this.started + 1, ..this }.alive());
        let stat = "7 (a ) Z (b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 1";
        assert_eq!(state_and_start(stat), Some(('S', 4711)));
    }
}
