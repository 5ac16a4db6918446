//! A program of ours that runs beside the cluster.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A child that is killed when it is dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) log: PathBuf,
}

impl Program {
    /// Starts one of the workspace's programs; its log goes to `log`.
    pub(crate) fn start(name: &str, arguments: &[String], log: &Path) -> Result<Self> {
        let this = std::env::current_exe().context("find this test")?;
        // target/debug/deps/test-… beside target/debug/program.
        let folder = this.parent().and_then(Path::parent).context("a test is in target/<profile>/deps")?;
        let file = File::create(log).with_context(|| format!("make {}", log.display()))?;
        let mut command = Command::new(folder.join(name));
        command.args(arguments).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("start {name}: `cargo build --bins` first"))?;
        Ok(Self { child, log: log.to_path_buf() })
    }

    /// Asks it to end, and waits.
    pub(crate) fn terminate(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a process id")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("signal the program")?;
        self.child.wait().context("wait for the program")?;
        Ok(())
    }

    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body.
pub(crate) async fn http_get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let (head, body) = text.split_once("\r\n\r\n").context("a head and a body")?;
    Ok((head.get(9..12).context("a status")?.parse()?, body.to_owned()))
}
