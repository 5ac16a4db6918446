//! A lab that outlives the command that started it.
//!
//! The command starts itself again as the lab's owner and reads, one JSON object a line, how that gets on. Until the lab is
//! up the owner belongs to the command's process group, so Ctrl-C ends both; then it begins a session of its own and stays
//! until SIGTERM. It handles no signal: its guard cleans up after any end.

use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader, Write, stdout},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::{dup2_stderr, dup2_stdout, setsid};
use serde::{Deserialize, Serialize};

use crate::{Lab, LabOptions};

/// What the owner tells the command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum News {
    Step(String),
    Up(String),
    /// The error and its causes.
    Failed(Vec<String>),
}

/// The command's side: runs `owner`, whose main function has to call [`supervise`], and returns the lab's id when it is up.
pub fn start(owner: &mut Command, mut progress: impl FnMut(&str)) -> Result<String> {
    let mut child = owner.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start the lab's owner")?;
    let lines = BufReader::new(child.stdout.take().expect("the standard output is a pipe")).lines();
    for line in lines {
        match serde_json::from_str(&line?).context("the lab's owner said something unexpected")? {
            News::Step(step) => progress(&step),
            News::Up(id) => return Ok(id),
            News::Failed(causes) => {
                child.wait()?;
                let mut causes = causes.into_iter().rev();
                let root = anyhow!(causes.next().unwrap_or_default());
                return Err(causes.fold(root, anyhow::Error::context));
            }
        }
    }
    bail!("the lab's owner ended without a word: {}", child.wait()?)
}

/// The owner's side: brings a lab up and lives as long as it. Returns only if the lab did not come up.
pub fn supervise(options: LabOptions) -> Result<()> {
    let lab = match Lab::up_with(options, |step| drop(tell(&News::Step(step.to_owned())))) {
        Ok(lab) => lab,
        Err(error) => return tell(&News::Failed(error.chain().map(ToString::to_string).collect())),
    };
    // From here on what is printed goes to the lab's own log; an owner whose command has gone has nobody to live for.
    let logs = lab.status().logs;
    let log = OpenOptions::new().create(true).append(true).open(logs.join("lab.log")).context("cannot write the lab's log")?;
    setsid().context("cannot begin a session")?;
    tell(&News::Up(lab.id())).context("the command that wanted the lab has gone")?;
    dup2_stdout(&log)?;
    dup2_stderr(&log)?;
    loop {
        thread::park();
    }
}

fn tell(news: &News) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{}", serde_json::to_string(news)?)?;
    Ok(out.flush()?)
}
