//! The guard: a process in a session of its own that takes the lab apart when its owner is gone, for whatever reason.
//!
//! It reads from a pipe that only the owner holds open. End of file means that the owner has ended (or calls it a day): no
//! handler has to run, no signal can be missed. [`crate::Lab::down`] closes the same pipe, so there is one way to clean.

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, ChildStdout, Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::unistd::setsid;

use crate::{http, layout::Layout, place, reaper};

/// The owner's end.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Guard {
    /// Starts a guard over the lab. When this returns, whatever is made in the lab's name will be removed.
    pub(crate) fn start(helper: &Path, layout: &Layout) -> Result<Self> {
        let mut child = Command::new(helper)
            .args(["guard", &layout.id.to_string()])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", helper.display()))?;
        let mut output = BufReader::new(child.stdout.take().expect("the standard output is a pipe"));
        let mut line = String::new();
        output.read_line(&mut line)?;
        if line != "ready\n" {
            bail!("the guard {} did not get ready: {line:?}", helper.display());
        }
        Ok(Self { child, output })
    }

    /// The guard's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has the lab taken apart and waits for the end of it.
    pub(crate) fn release(&mut self) -> Result<()> {
        if self.child.stdin.take().is_none() {
            return Ok(());
        }
        let mut report = String::new();
        self.output.read_to_string(&mut report)?;
        if !self.child.wait()?.success() {
            bail!("{}", report.trim_end());
        }
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            eprintln!("lab: {error:#}");
        }
    }
}

/// The main function of the helper program `lab-guard`.
pub fn entry() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.split_first() {
        Some((verb, rest)) if verb == "enter" => {
            if let Err(error) = place::enter(rest) {
                // As `env` and `docker exec` do it: 125 is ours, whatever else is the program's.
                eprintln!("lab-guard: {error:#}");
                return ExitCode::from(125);
            }
            ExitCode::SUCCESS
        }
        Some((verb, [target, path @ ..])) if verb == "probe" => {
            ExitCode::from(u8::from(!probe(target, path.first().map(String::as_str))))
        }
        Some((verb, [id])) if verb == "guard" => {
            if let Err(error) = watch(id) {
                // To the owner who waits in `release`, or to nobody.
                let _ = writeln!(io::stdout(), "{error:#}");
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("lab-guard is a part of the laboratory, not for use by hand: see `cargo xtask lab`");
            ExitCode::from(2)
        }
    }
}

/// Whether the target accepts, and answers an HTTP GET of `path` below 400.
fn probe(target: &str, path: Option<&str>) -> bool {
    const PATIENCE: Duration = Duration::from_secs(1);
    let Ok(address) = target.parse() else { return false };
    match path {
        Some(path) => http::get(address, path, PATIENCE).is_ok_and(|answer| answer.status < 400),
        None => TcpStream::connect_timeout(&address, PATIENCE).is_ok(),
    }
}

fn watch(id: &str) -> Result<()> {
    let layout = Layout::new(id.parse()?);
    // Out of reach of Ctrl-C and of the end of the terminal.
    setsid().context("cannot begin a session")?;
    writeln!(io::stdout(), "ready")?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    reaper::reap(&layout)
}
