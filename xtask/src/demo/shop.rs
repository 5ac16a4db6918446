//! The shop in a running lab: manifests that come and go, and requests from its pods.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use harness::{LabStatus, task::Applied, wait_until};
use serde::Deserialize;

use super::trace::Collector;
use crate::report;

/// How long a change may take to show in traffic. It takes milliseconds; a busy machine must not fail the story.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) const CLIENT: &str = "shop/client";
pub(super) const STRANGER: &str = "outside/stranger";
pub(super) const PAGE: &str = "http://page.shop:9080/";
pub(super) const REVIEWS: &str = "http://reviews.shop:9080/reviews/0";

/// Longer than any delay of the story, in seconds.
const TIMEOUT: &str = "15";

pub(super) struct Shop {
    id: String,
    /// The manifests that the controller reads.
    folder: PathBuf,
    /// `samples` of the repository.
    samples: PathBuf,
    /// Started when it is first asked for: a story without traces needs none.
    collector: RefCell<Option<Collector>>,
}

impl Shop {
    pub(super) fn new(id: &str, folder: &Path, samples: &Path) -> Self {
        Self { id: id.to_owned(), folder: folder.to_owned(), samples: samples.to_owned(), collector: RefCell::default() }
    }

    pub(super) fn status(&self) -> Result<LabStatus> {
        harness::status(&self.id)
    }

    /// Puts one of the sample policies into the folder, all at once.
    pub(super) fn apply(&self, policy: &str) -> Result<()> {
        let (file, beside) = (self.samples.join("shop/policies").join(policy), self.folder.join(format!(".{policy}.new")));
        fs::copy(&file, &beside).with_context(|| format!("applying {policy}"))?;
        report::note(format_args!("apply samples/shop/policies/{policy}: {}", kinds(&[file])?));
        Ok(fs::rename(&beside, self.folder.join(policy))?)
    }

    pub(super) fn withdraw(&self, policy: &str) -> Result<()> {
        fs::remove_file(self.folder.join(policy)).with_context(|| format!("taking {policy} away"))
    }

    /// Puts the manifests of a sample task into the folder; they are taken away when what is returned is dropped.
    pub(super) fn apply_task(&self, name: &str) -> Result<Applied> {
        let manifests = self.samples.join("tasks").join(name).join("manifests");
        let files: Vec<PathBuf> = visible(&manifests)?.iter().map(|name| manifests.join(name)).collect();
        report::note(format_args!("apply samples/tasks/{name}/manifests: {}", kinds(&files)?));
        Applied::new(&manifests, &self.folder.join(name))
    }

    /// The same of what a task needs before its manifests: pods and services.
    pub(super) fn set_up_task(&self, name: &str) -> Result<Applied> {
        let setup = self.samples.join("tasks").join(name).join("setup");
        Applied::new(&setup, &self.folder.join(format!("{name}-setup")))
    }

    /// The names of the manifests that are there, and of those that were there at first.
    pub(super) fn files(&self) -> Result<(Vec<String>, Vec<String>)> {
        Ok((visible(&self.folder)?, visible(&self.samples.join("shop/manifests"))?))
    }

    /// Does something with the collector of spans.
    pub(super) fn collect<T>(&self, with: impl FnOnce(&Collector) -> Result<T>) -> Result<T> {
        let mut collector = self.collector.borrow_mut();
        let collector = match &mut *collector {
            Some(collector) => collector,
            none => none.insert(Collector::start(&self.status()?)?),
        };
        with(collector)
    }

    /// For who is outside the mesh: there, nobody resolves service addresses.
    pub(super) fn page_address(&self) -> Result<String> {
        let status = self.status()?;
        let (_, page) = status.pods().find(|(name, _)| name == "shop/page").context("no pod shop/page")?;
        let address = page.v4().context("the page has no IPv4 address")?;
        Ok(format!("http://{address}:9080/"))
    }

    /// Runs the shop's own client in a pod.
    pub(super) fn client(&self, pod: &str, arguments: &[&str]) -> Result<Output> {
        let argv: Vec<&str> = ["shop", "client"].iter().chain(arguments).copied().collect();
        let mut command = harness::exec(&self.id, pod, &argv)?;
        command.stdin(Stdio::null()).output().with_context(|| format!("running the client in {pod}"))
    }

    pub(super) fn start(&self, pod: &str, arguments: &[&str]) -> Result<Child> {
        let argv: Vec<&str> = ["shop"].iter().chain(arguments).copied().collect();
        let mut command = harness::exec(&self.id, pod, &argv)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().with_context(|| format!("starting shop in {pod}"))
    }

    /// What became of each request.
    pub(super) fn ask(&self, request: &Request) -> Result<Vec<Answer>> {
        let Request { from, url, user, ref trace, times } = *request;
        let times_text = times.to_string();
        // As a person asks; where it is about numbers, as fast as that is bearable.
        let at_once = if times > 100 { "8" } else { "1" };
        let mut arguments = vec!["http", url, "-n", &times_text, "-c", at_once, "--keep-alive"];
        arguments.extend(["-o", "json", "--body", "--timeout", TIMEOUT]);
        let user = user.map(|user| format!("end-user: {user}"));
        let trace = trace.as_ref().map(|trace| format!("traceparent: {trace}"));
        for header in [&user, &trace].into_iter().flatten() {
            arguments.extend(["-H", header.as_str()]);
        }
        let output = self.client(from, &arguments)?;
        let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let answers: Vec<Answer> = lines.map(serde_json::from_slice).collect::<Result<_, _>>().context("the client's output")?;
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(answers.len() == times as usize, "{from} asking {url}: {} of {times} answers: {}", answers.len(), said());
        Ok(answers)
    }

    pub(super) fn ask_once(&self, request: &Request) -> Result<Answer> {
        self.ask(&Request { times: 1, ..request.clone() })?.pop().context("one answer")
    }

    pub(super) fn answers(&self, pod: &str, url: &str) -> Result<Answer> {
        let answer = self.ask_once(&Request::new(pod, url))?;
        ensure!(answer.outcome == "ok" && answer.status == Some(200), "{pod} asking {url}: {answer:?}");
        Ok(answer)
    }

    /// Waits until a request ends so, and says how long that took.
    pub(super) fn until(&self, pod: &str, url: &str, wanted: End) -> Result<String> {
        let started = Instant::now();
        eventually(&format!("{pod} asking {url}: {}", wanted.text()), || {
            let answer = self.ask_once(&Request::new(pod, url))?;
            ensure!(wanted.is(&answer), "last answer: {answer:?}");
            Ok(())
        })?;
        Ok(format!("{} after {} ms", wanted.text(), started.elapsed().as_millis()))
    }
}

/// The names in a folder, without hidden ones.
fn visible(folder: &Path) -> Result<Vec<String>> {
    let names = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect::<Result<_, _>>()?;
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    Ok(names)
}

/// The kinds of the objects in files, in their order.
fn kinds(files: &[PathBuf]) -> Result<String> {
    let mut kinds: Vec<String> = Vec::new();
    for file in files {
        let text = fs::read_to_string(file)?;
        kinds.extend(text.lines().filter_map(|line| line.strip_prefix("kind: ")).map(|kind| kind.trim().to_owned()));
    }
    kinds.dedup();
    Ok(kinds.join(", "))
}

/// Asks until there is no error, and returns what there is then.
pub(super) fn eventually<T>(what: &str, mut seen: impl FnMut() -> Result<T>) -> Result<T> {
    let mut found = None;
    wait_until(what, PATIENCE, || {
        found = Some(seen()?);
        Ok(true)
    })?;
    found.context("the wait ends when there is something")
}

/// One request or several equal ones.
#[derive(Clone, Debug)]
pub(super) struct Request<'a> {
    pub(super) from: &'a str,
    pub(super) url: &'a str,
    /// Sent as `end-user`, which every service of the shop hands on.
    pub(super) user: Option<&'a str>,
    /// Sent as `traceparent`.
    pub(super) trace: Option<String>,
    pub(super) times: u32,
}

impl<'a> Request<'a> {
    pub(super) fn new(from: &'a str, url: &'a str) -> Self {
        Self { from, url, user: None, trace: None, times: 1 }
    }
}

/// What becomes of a request.
#[derive(Clone, Copy)]
pub(super) enum End {
    Answered,
    /// Policy has an answer of its own.
    Denied,
    /// Nobody is told anything.
    Reset,
}

impl End {
    fn is(self, answer: &Answer) -> bool {
        match self {
            Self::Answered => answer.status == Some(200),
            Self::Denied => answer.status == Some(403) && answer.body.as_deref() == Some("RBAC: access denied"),
            Self::Reset => answer.outcome == "reset",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Denied => "403",
            Self::Reset => "reset",
        }
    }
}

/// A line that `shop client -o json` prints.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) outcome: String,
    pub(super) status: Option<u16>,
    pub(super) body: Option<String>,
    pub(super) latency_us: u64,
}

impl Answer {
    /// A value of the body's JSON, as text; empty if there is none.
    pub(super) fn at(&self, pointer: &str) -> String {
        let body: serde_json::Value = serde_json::from_str(self.body.as_deref().unwrap_or_default()).unwrap_or_default();
        body.pointer(pointer).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
    }
}

/// How many answers say what.
pub(super) fn tally(answers: &[Answer], what: impl Fn(&Answer) -> String) -> BTreeMap<String, u32> {
    let mut tally = BTreeMap::new();
    for answer in answers {
        *tally.entry(what(answer)).or_default() += 1;
    }
    tally
}
