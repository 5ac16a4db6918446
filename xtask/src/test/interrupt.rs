//! Ctrl-C in the middle of the tests: their laboratories are taken apart before this command ends.
//!
//! The tests die at once, and the guard of a laboratory takes it apart afterwards. All of them hold the end of a pipe that
//! they inherit; when nobody holds it any more, nothing is left to wait for.

use std::{
    io::Read,
    os::fd::OwnedFd,
    process::{self, Command, ExitStatus},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::report;

/// Longer than a guard takes for the largest laboratory.
const DEADLINE: Duration = Duration::from_secs(30);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Runs the tests to their end; after Ctrl-C waits for everything that they started, and exits.
pub(super) fn run(tests: &mut Command) -> Result<ExitStatus> {
    // The terminal tells the runner itself; it stops its tests, says what ran, and ends.
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if !WATCHED.swap(true, Relaxed) {
        ctrlc::set_handler(|| INTERRUPTED.store(true, Relaxed)).context("watch for Ctrl-C")?;
    }
    let (holders, held) = nix::unistd::pipe().context("make a pipe")?;
    // Ours alone.
    nix::fcntl::fcntl(&holders, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).context("keep a pipe")?;
    let mut running = tests.spawn()?;
    drop(held);
    let status = running.wait()?;
    if INTERRUPTED.load(Relaxed) {
        report::note("interrupted: waiting for the laboratories to be taken apart");
        wait_for(holders);
        process::exit(130);
    }
    Ok(status)
}

fn wait_for(holders: OwnedFd) {
    let (done, all_gone) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = std::fs::File::from(holders).read(&mut [0]);
        let _ = done.send(());
    });
    if all_gone.recv_timeout(DEADLINE).is_err() {
        report::note("something is still there: `ip netns list` shows its namespaces");
    }
}
