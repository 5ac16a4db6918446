//! What the proxies of a path have used so far.

use std::fs;

use anyhow::{Context, Result};
use harness::ProcessStatus;

/// In which /proc counts CPU time; constant on Linux whatever the kernel's own clock does (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// The proxies of both nodes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proxies {
    /// Of the client's node.
    pub(super) client: ProcessStatus,
    /// Of the node that is not the client's.
    pub(super) server: ProcessStatus,
}

impl Proxies {
    /// User and system time of both, in seconds.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        Ok(cpu_seconds(self.client)? + cpu_seconds(self.server)?)
    }

    /// Resident bytes of the client's and of the server's.
    pub(super) fn resident(&self) -> Result<(f64, f64)> {
        Ok((resident(self.client)?, resident(self.server)?))
    }
}

/// User and system time in seconds (proc_pid_stat(5), fields 14 and 15).
pub(super) fn cpu_seconds(process: ProcessStatus) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).context("a proxy has ended")?;
    Ok(ticks(&stat).context("/proc/PID/stat is not understood")? / TICKS_PER_SECOND)
}

fn ticks(stat: &str) -> Option<f64> {
    // The second field, in parentheses, may contain anything.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 2..].split(' ').collect();
    Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
}

/// Bytes (VmRSS).
fn resident(process: ProcessStatus) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).context("a proxy has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a proxy has ended")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is not understood")?;
    Ok(kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::ticks;

    #[test]
    fn user_and_system_time_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 1000 1 2";
        assert_eq!(ticks(stat), Some(300.0));
        assert_eq!(ticks("7 (x) S 1"), None);
    }
}
