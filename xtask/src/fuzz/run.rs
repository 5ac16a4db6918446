//! Searching: one process a target, as many at a time as there are cores.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{report, workspace};

/// An input that takes longer is a finding: seconds.
const SLOWEST: u32 = 10;
/// A target that needs more memory is a finding: MiB.
const MEMORY: u32 = 1024;
/// Of a broken target's output, what is shown.
const LAST_LINES: usize = 40;

/// The names of all targets: each has its folder of seeds.
pub(super) fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("fuzz/seeds");
    let entries = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    let mut names = entries.map(|entry| Ok(entry?.file_name().display().to_string())).collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// The program and the folders that it works in.
pub(super) struct Session {
    program: PathBuf,
    seeds: PathBuf,
    /// Inputs that reached something new (`corpus`), that broke something (`artifacts`), and logs, by target.
    found: PathBuf,
}

/// How a search of one target ended.
struct Searched {
    target: String,
    /// Of libFuzzer itself: empty where it does not say.
    inputs: String,
    edges: String,
    broken: Option<Broken>,
}

struct Broken {
    log: String,
    input: Option<PathBuf>,
}

impl Session {
    pub(super) fn new(root: &Path, program: PathBuf) -> Self {
        Self { program, seeds: root.join("fuzz/seeds"), found: workspace::target(root).join("keelson/fuzz") }
    }

    /// Tries one input.
    pub(super) fn reproduce(&self, target: &str, input: &Path) -> Result<()> {
        workspace::run(self.command(target).arg(input))
    }

    /// Searches each target; returns those that broke, after it has told about each.
    pub(super) fn search(&self, targets: &[String], time: Duration, at_once: usize) -> Result<Vec<String>> {
        report::note(format_args!("{} targets, {} s each, {at_once} at a time", targets.len(), time.as_secs()));
        let waiting = Mutex::new(targets.iter());
        let next = || waiting.lock().expect("no thread panics here").next();
        let work = || -> Result<Vec<String>> {
            let mut broken = Vec::new();
            while let Some(target) = next() {
                let searched = self.search_one(target, time).with_context(|| format!("search {target}"))?;
                tell(&searched);
                broken.extend(searched.broken.map(|_| searched.target));
            }
            Ok(broken)
        };
        let mut broken = thread::scope(|scope| {
            let threads: Vec<_> = (0..at_once.min(targets.len())).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect::<Result<Vec<_>>>()
        })?
        .concat();
        broken.sort();
        Ok(broken)
    }

    fn search_one(&self, target: &str, time: Duration) -> Result<Searched> {
        let [corpus, artifacts] = ["corpus", "artifacts"].map(|kind| self.found.join(kind).join(target));
        for folder in [&corpus, &artifacts] {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let log = self.found.join(format!("{target}.log"));
        let output = File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let mut command = self.command(target);
        // What is new goes to the first folder, the seeds are only read.
        command.arg(&corpus).arg(self.seeds.join(target));
        command.arg(format!("-max_total_time={}", time.as_secs())).arg(format!("-artifact_prefix={}/", artifacts.display()));
        // A backtrace would push what broke out of the last lines; trying the input again shows it.
        command.args(["-print_final_stats=1", "-reload=0"]).env("RUST_BACKTRACE", "0");
        let status = command.stdout(output.try_clone()?).stderr(output).status().context("start the search")?;
        let log = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
        let log = String::from_utf8_lossy(&log).into_owned();
        Ok(Searched {
            target: target.to_owned(),
            inputs: value_after(&log, "stat::number_of_executed_units:"),
            edges: value_after(&log, " cov:"),
            broken: (!status.success()).then(|| Broken { input: broken_input(&log), log }),
        })
    }

    fn command(&self, target: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.env("KEELSON_FUZZ_TARGET", target);
        command.arg(format!("-timeout={SLOWEST}")).arg(format!("-rss_limit_mb={MEMORY}"));
        command
    }
}

fn tell(searched: &Searched) {
    let Searched { target, inputs, edges, broken } = searched;
    let Some(Broken { log, input }) = broken else {
        return report::note(format_args!("{target}: {inputs} inputs, {edges} edges"));
    };
    let lines: Vec<&str> = log.lines().collect();
    report::note(format_args!("{target}: BROKEN\n{}", lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")));
    if let Some(input) = input {
        report::note(format_args!("{target}: the input is {}", input.display()));
        report::note(format_args!("{target}: again with `cargo xtask fuzz {target} --input {}`", input.display()));
        report::note(format_args!("{target}: once it is mended, keep it as a seed in fuzz/seeds/{target}/"));
    }
}

/// The word after the last mark.
fn value_after(log: &str, mark: &str) -> String {
    let after = log.rsplit_once(mark).map_or("", |(_, after)| after);
    after.split_whitespace().next().unwrap_or_default().to_owned()
}

fn broken_input(log: &str) -> Option<PathBuf> {
    let (_, after) = log.rsplit_once("Test unit written to ")?;
    after.lines().next().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_libfuzzer_prints() {
        let log = "#2\tINITED cov: 12 ft: 13\n#9\tNEW    cov: 17 ft: 30\n\
                   artifact_prefix='x/'; Test unit written to x/crash-0a\nBase64: AA==\nstat::number_of_executed_units: 99\n";
        assert_eq!(value_after(log, " cov:"), "17");
        assert_eq!(value_after(log, "stat::number_of_executed_units:"), "99");
        assert_eq!(broken_input(log), Some(PathBuf::from("x/crash-0a")));
        assert_eq!(value_after("", " cov:"), "");
        assert_eq!(broken_input(""), None);
    }
}
