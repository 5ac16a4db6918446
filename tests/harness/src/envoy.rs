//! Envoy in the laboratory: the foreign end of HBONE, and what we are measured against.
//!
//! Which Envoy is the caller's choice; nothing here fetches one. Its configuration is static ([`config`]) and its admin
//! address a Unix socket, so that it takes no port that it was not told to take.

pub mod config;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Child,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    folder::write_atomically,
    http,
    place::Place,
    status::{LabStatus, ProcessStatus},
    wait::wait_while_alive,
};

/// For a start on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// A running Envoy. It ends when this is dropped, and with its lab in any case.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    process: ProcessStatus,
    admin: PathBuf,
    log: PathBuf,
}

impl Envoy {
    /// Starts `program` in `place`, which belongs to `lab`, and returns when its listeners stand.
    ///
    /// `name` is the name of its files in the lab's folder; `concurrency` its number of worker threads.
    pub fn start(
        program: &Path,
        lab: &LabStatus,
        place: &Place,
        name: &str,
        concurrency: usize,
        mut config: Value,
    ) -> Result<Self> {
        let folder = lab.state.join("envoy");
        let (admin, log) = (folder.join(format!("{name}.sock")), lab.logs.join(format!("envoy-{name}.log")));
        config["admin"] = serde_json::json!({ "address": { "pipe": { "path": &admin } } });
        let file = folder.join(format!("{name}.json"));
        write_atomically(&file, &serde_json::to_string_pretty(&config)?)?;
        let text = |path: &Path| path.display().to_string();
        let concurrency = concurrency.to_string();
        // Without hot restart there is no shared memory whose name two Envoys could dispute.
        let command =
            [&text(program), "-c", &text(&file), "--concurrency", &concurrency, "--disable-hot-restart", "-l", "warning"];
        let mut child = place.start(&command, &log, None)?;
        let ready = wait_while_alive(&format!("Envoy {name} to be ready"), DEADLINE, (&mut child, &log), || {
            Ok(http::get_unix(&admin, "/ready", Duration::from_secs(1))?.status == 200)
        });
        let process = ProcessStatus::of(child.id()).context("Envoy has just ended");
        match (ready, process) {
            (Ok(()), Ok(process)) => Ok(Self { child, process, admin, log }),
            (Err(error), _) | (_, Err(error)) => {
                // It may have ended already.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Its process.
    pub fn process(&self) -> ProcessStatus {
        self.process
    }

    /// Its counters whose names contain `filter`, one `name: value` a line.
    pub fn stats(&self, filter: &str) -> Result<String> {
        Ok(http::get_unix(&self.admin, &format!("/stats?filter={filter}"), Duration::from_secs(5))?.body)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the log of Envoy {}:\n{}", self.admin.display(), self.log());
        }
    }
}
