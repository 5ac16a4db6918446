//! Recording packets on a node's uplink.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::status::NodeStatus;

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    path: PathBuf,
}

impl Capture {
    /// Returns when packets are being recorded.
    pub(crate) fn start(node: &NodeStatus, folder: &Path, filter: &str) -> Result<Self> {
        let path = folder.join(format!("capture-{}-{}.pcap", node.index, fastrand::u32(..)));
        let target = path.display().to_string();
        // Unbuffered, as root, whole packets.
        let mut words = vec!["tcpdump", "-i", "eth0", "-U", "-s", "0", "-Z", "root", "-w", &target];
        words.extend(Some(filter).filter(|filter| !filter.is_empty()));
        let mut command = node.place.command(&words);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().expect("the standard error is a pipe")).lines();
        let mut said = Vec::new();
        while let Some(Ok(line)) = lines.next() {
            if line.contains("listening on") {
                return Ok(Self { child, path });
            }
            said.push(line);
        }
        child.wait()?;
        bail!("tcpdump does not record: {}", said.join("; "));
    }

    /// Stops recording; the pcap file stays as long as the lab.
    pub fn finish(mut self) -> Result<PathBuf> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT).context("tcpdump has gone")?;
        let exit = self.child.wait()?;
        if !exit.success() && exit.signal() != Some(Signal::SIGINT as i32) {
            bail!("tcpdump ended with {exit}");
        }
        File::open(&self.path).with_context(|| format!("tcpdump has written nothing to {}", self.path.display()))?;
        Ok(self.path)
    }

    /// Stops recording and returns all that was recorded, pcap headers included.
    pub fn bytes(self) -> Result<Vec<u8>> {
        let path = self.finish()?;
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}
