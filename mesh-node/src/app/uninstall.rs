//! Taking the node's part of the mesh away: nothing of it is left on the host.

use std::{fs, io, path::Path};

use anyhow::{Context, Result};
use tokio::{
    io::AsyncWriteExt,
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing::info;

use super::kernel::open_kernel;
use crate::{config::Config, enrol::cni::Installer};

/// What a node makes in its runtime directory.
const RUNTIME: [&str; 6] = ["pods", "enrol.sock", "admin.sock", "handover.sock", "cni.log", "cni.log.old"];

pub(super) async fn run(config: &Config, plugin: Option<Installer>) -> Result<()> {
    // First, so that no pod that starts waits for a node that is gone.
    if let Some(plugin) = plugin {
        for change in plugin.uninstall().context("the CNI plugin")? {
            info!(?change, "CNI plugin taken away");
        }
    }
    open_kernel(config)?.uninstall().context("releasing the captures")?;
    for name in RUNTIME {
        remove(&config.runtime_dir.join(name))?;
    }
    remove(&config.state_dir())?;
    // Kept where it is a mount, or has what others put there.
    let _ = fs::remove_dir(&config.runtime_dir);
    info!("every capture of this instance is released");
    if config.stay { stay(config).await } else { Ok(()) }
}

/// Answers whoever asks for readiness, until it is told to end.
async fn stay(config: &Config) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let listener = TcpListener::bind(config.ready).await.with_context(|| format!("listening on {}", config.ready))?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            accepted = listener.accept() => {
                let Ok((mut stream, _)) = accepted else { continue };
                let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 12\r\nconnection: close\r\n\r\nuninstalled\n";
                tokio::spawn(async move { stream.write_all(answer.as_bytes()).await });
            }
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A mount point: what was in it is gone.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        other => other.with_context(|| format!("removing {}", path.display())),
    }
}
