//! Recording packets on a node's uplink.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::{Ipv4Addr, UdpSocket},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    address::{self, Family},
    netns::in_netns,
    status::NodeStatus,
    wait::wait_until,
};

/// Where a capture's last packet goes: discard (RFC 863).
const LAST_PORT: u16 = 9;

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    path: PathBuf,
    /// The node's namespace.
    node: PathBuf,
}

impl Capture {
    /// Returns when packets are being recorded.
    pub(crate) fn start(node: &NodeStatus, folder: &Path, filter: &str) -> Result<Self> {
        let path = folder.join(format!("capture-{}-{}.pcap", node.index, fastrand::u32(..)));
        let target = path.display().to_string();
        let filter = match filter {
            "" => String::new(),
            filter => format!("({filter}) or (udp dst port {LAST_PORT})"),
        };
        // Unbuffered, as root, whole packets, with 16 MiB to lose none of a burst.
        let mut words =
            vec!["tcpdump", "-i", "eth0", "-B", "16384", "-U", "--immediate-mode", "-s", "0", "-Z", "root", "-w", &target];
        words.extend(Some(filter.as_str()).filter(|filter| !filter.is_empty()));
        let mut command = node.place.command(&words);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().expect("the standard error is a pipe")).lines();
        let mut said = Vec::new();
        while let Some(Ok(line)) = lines.next() {
            if line.contains("listening on") {
                return Ok(Self { child, path, node: node.place.netns.clone() });
            }
            said.push(line);
        }
        child.wait()?;
        bail!("tcpdump does not record: {}", said.join("; "));
    }

    /// Stops recording; the pcap file stays as long as the lab. Every packet that passed before this call is in it, and a
    /// last one that says so (UDP port 9).
    pub fn finish(mut self) -> Result<PathBuf> {
        // tcpdump drops what it has not read yet when it is told to end, so it has to see one more packet of ours first.
        let last = format!("end of capture {:016x}", fastrand::u64(..));
        in_netns(&self.node, || -> Result<()> {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.send_to(last.as_bytes(), (address::gateway(Family::V4), LAST_PORT))?;
            Ok(())
        })??;
        wait_until("tcpdump to catch up", Duration::from_secs(20), || {
            Ok(fs::read(&self.path)?.windows(last.len()).any(|window| window == last.as_bytes()))
        })?;
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
