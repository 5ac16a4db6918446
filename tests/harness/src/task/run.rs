//! Runs a task in a lab whose folder is the caller's to change.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    ask::ask,
    check::{Check, Expectation},
    verdict::fault,
};
use crate::{lab::Lab, wait::wait_until};

/// How long a change may take to show in traffic. It takes milliseconds; a busy machine must not fail a task.
const PATIENCE: Duration = Duration::from_mins(1);

/// A task of `samples/tasks`.
#[derive(Clone, Debug)]
pub struct Task {
    pub name: String,
    pub check: Check,
    folder: PathBuf,
}

/// What a run of a task saw.
#[derive(Clone, Debug)]
pub struct Told {
    /// What did not hold before the manifests were applied.
    pub before: String,
    /// From applying the manifests until everything held.
    pub took: Duration,
}

/// All tasks of a folder, by name.
pub fn tasks(folder: &Path) -> Result<Vec<Task>> {
    let entries = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    folders.retain(|path| path.is_dir());
    folders.sort();
    folders.iter().map(|folder| Task::read(folder)).collect()
}

impl Task {
    pub fn read(folder: &Path) -> Result<Self> {
        let name = folder.file_name().context("a task is a folder")?.to_string_lossy().into_owned();
        ensure!(folder.join("README.md").is_file(), "task {name} has no README.md");
        ensure!(folder.join("manifests").is_dir(), "task {name} has no manifests");
        Ok(Self { check: Check::read(&folder.join("check.yaml"))?, name, folder: folder.to_owned() })
    }

    /// Shows that the check fails, applies the manifests to the lab's folder, waits until it passes, and takes them away.
    pub fn run(&self, lab: &Lab) -> Result<Told> {
        let (id, of_lab) = (lab.id(), lab.folder());
        let setup = Applied::new(&self.folder.join("setup"), &of_lab.join(format!("{}-setup", self.name)))?;
        // Or the check would fail for want of pods.
        lab.settle(PATIENCE)?;
        let mut before = None;
        // What a task before this one did may take a moment to be gone.
        let fails = wait_until("the check to fail", PATIENCE, || {
            before = self.first_fault(&id)?;
            Ok(before.is_some())
        });
        fails.with_context(|| format!("task {}: everything holds before its manifests are applied", self.name))?;
        let before = before.unwrap_or_default();
        let manifests = Applied::new(&self.folder.join("manifests"), &of_lab.join(&self.name))?;
        let started = Instant::now();
        let mut last = String::new();
        let held = wait_until(&format!("task {}", self.name), PATIENCE, || {
            last = self.first_fault(&id)?.unwrap_or_default();
            Ok(last.is_empty())
        });
        held.with_context(|| format!("last seen: {last}"))?;
        let took = started.elapsed();
        drop(manifests);
        drop(setup);
        lab.settle(PATIENCE)?;
        Ok(Told { before, took })
    }

    /// The first expectation that does not hold, and why.
    fn first_fault(&self, lab: &str) -> Result<Option<String>> {
        for expectation in &self.check.expect {
            if let Some(found) = judge(lab, expectation)? {
                return Ok(Some(format!("{}: {found}", expectation.what)));
            }
        }
        Ok(None)
    }
}

fn judge(lab: &str, expectation: &Expectation) -> Result<Option<String>> {
    let came = ask(lab, expectation).with_context(|| format!("{}: asking from {}", expectation.what, expectation.from))?;
    Ok(fault(expectation, &came))
}

/// Manifests in a lab's folder; taken away on drop.
#[derive(Debug)]
pub struct Applied(Option<PathBuf>);

impl Applied {
    /// Copies the files of the folder `from` to a new folder `to`, all at once; a folder that does not exist is empty.
    pub fn new(from: &Path, to: &Path) -> Result<Self> {
        if !from.is_dir() {
            return Ok(Self(None));
        }
        let parent = to.parent().context("a lab's folder")?;
        let name = to.file_name().context("a name")?.to_string_lossy();
        // Hidden, until it is whole.
        let draft = parent.join(format!(".{name}.new"));
        fs::create_dir_all(&draft)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            fs::copy(entry.path(), draft.join(entry.file_name()))?;
        }
        fs::rename(&draft, to).with_context(|| format!("applying {}", from.display()))?;
        Ok(Self(Some(to.to_owned())))
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        if let Some(folder) = &self.0 {
            // All at once: a half of the manifests might mean something else.
            let hidden = folder.with_file_name(format!(".{}.old", folder.file_name().unwrap_or_default().to_string_lossy()));
            let gone = fs::rename(folder, &hidden).and_then(|()| fs::remove_dir_all(&hidden));
            if let Err(error) = gone {
                eprintln!("{} stays: {error}", folder.display());
            }
        }
    }
}
