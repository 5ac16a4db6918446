//! A collector of spans beside the lab's nodes, and what it has got.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use harness::{LabStatus, OUTSIDE_V4};
use serde::Deserialize;

const PORT: u16 = 4317;

/// Arguments of every node proxy: where spans go, and that only what is asked for is traced, so that the picture of a trace is
/// that of one request.
pub(super) fn node_arguments() -> Vec<String> {
    vec![format!("--otlp=http://{OUTSIDE_V4}:{PORT}"), "--trace-sampling=0".to_owned()]
}

/// `shop collector`, outside the cluster. It ends when this is dropped.
pub(super) struct Collector {
    child: Child,
    spans: Arc<Mutex<Vec<Span>>>,
}

/// A line that `shop collector` prints.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Span {
    trace: String,
    #[serde(rename = "span")]
    id: String,
    parent: Option<String>,
    pub(super) service: String,
    name: String,
    pub(super) kind: String,
    began_us: u64,
    took_us: u64,
}

impl Collector {
    pub(super) fn start(lab: &LabStatus) -> Result<Self> {
        let mut command = lab.fabric.command(&["shop", "collector", "--port", &PORT.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("starting shop collector")?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let found = spans.clone();
        thread::spawn(move || {
            for span in lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()) {
                found.lock().unwrap_or_else(PoisonError::into_inner).push(span);
            }
        });
        Ok(Self { child, spans })
    }

    /// The trace that has begun with `parent`; an error as long as it has holes.
    pub(super) fn trace(&self, parent: &Parent) -> Result<Trace> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spans: Vec<Span> = spans.iter().filter(|span| span.trace == parent.trace).cloned().collect();
        spans.sort_by_key(|span| span.began_us);
        let known: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).chain([parent.span.as_str()]).collect();
        let lost = spans.iter().find(|span| span.parent.as_deref().is_none_or(|parent| !known.contains(parent)));
        ensure!(lost.is_none(), "the parent of {lost:?} is missing");
        Ok(Trace { root: parent.span.clone(), spans })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // It may have ended already, with its lab.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a visitor that traces sends along (W3C Trace Context).
#[derive(Clone, Debug)]
pub(super) struct Parent {
    trace: String,
    span: String,
}

impl Parent {
    /// A new trace.
    pub(super) fn new() -> Result<Self> {
        // Unique in this lab, which is all it has to be.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_nanos();
        Ok(Self { trace: format!("{now:016x}{now:016x}"), span: format!("{now:016x}") })
    }

    pub(super) fn header(&self) -> String {
        format!("00-{}-{}-01", self.trace, self.span)
    }

    pub(super) fn trace(&self) -> &str {
        &self.trace
    }
}

/// Spans in the order of their beginnings; each hangs on another or on the visitor.
#[derive(Clone, Debug)]
pub(super) struct Trace {
    root: String,
    pub(super) spans: Vec<Span>,
}

impl Trace {
    /// One line for each span, further in the deeper it is.
    pub(super) fn picture(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.draw(&self.root, 0, &mut lines);
        lines
    }

    fn draw(&self, parent: &str, depth: usize, lines: &mut Vec<String>) {
        for span in self.spans.iter().filter(|span| span.parent.as_deref() == Some(parent)) {
            let who = format!("{}{} ({})", "  ".repeat(depth), span.service, span.kind);
            lines.push(format!("{who:<36} {:>8.1} ms  {}", span.took_us as f64 / 1000.0, span.name));
            self.draw(&span.id, depth + 1, lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_drawn_as_the_tree_it_is() {
        let span = |id: &str, parent: &str, service: &str| Span {
            trace: "t".into(),
            id: id.into(),
            parent: Some(parent.into()),
            service: service.into(),
            name: "n".into(),
            kind: "client".into(),
            began_us: 0,
            took_us: 1500,
        };
        let spans = vec![span("a", "v", "client"), span("b", "a", "page"), span("c", "b", "reviews"), span("d", "b", "details")];
        let picture = Trace { root: "v".into(), spans }.picture();
        let indents: Vec<usize> = picture.iter().map(|line| line.len() - line.trim_start().len()).collect();
        assert_eq!(indents, [0, 2, 4, 4]);
        assert!(picture[3].contains("details (client)"), "{picture:?}");
        assert!(picture[3].contains("1.5 ms"), "{picture:?}");
    }
}
