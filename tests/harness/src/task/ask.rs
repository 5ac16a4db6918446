//! Puts the question of an expectation, and reads what came of it.

use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::check::{Ask, Expectation, Http, Log, Metric, Tcp};
use crate::{client, http};

/// Longer than any delay that a task injects.
const PATIENCE: &str = "15";

/// A line of `shop client -o json`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Record {
    pub(super) outcome: String,
    pub(super) status: Option<u16>,
    pub(super) latency_us: u64,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) body: String,
    pub(super) error: Option<String>,
}

/// What came of all the questions of an expectation.
pub(super) enum Came {
    Answers(Vec<Record>),
    Sum(f64),
    Lines(u32),
}

pub(super) fn ask(lab: &str, expectation: &Expectation) -> Result<Came> {
    match &expectation.ask {
        Ask::Metric(metric) => sum(lab, metric).map(Came::Sum),
        Ask::Log(log) => lines(lab, log).map(Came::Lines),
        Ask::Exec(argv) => exec(lab, &expectation.from, argv).map(|record| Came::Answers(vec![record])),
        Ask::Http(http) => client(lab, expectation, &http_arguments(http)).map(Came::Answers),
        Ask::Tcp(tcp) => client(lab, expectation, &tcp_arguments(tcp)).map(Came::Answers),
    }
}

fn http_arguments(Http { url, method, headers, data }: &Http) -> Vec<String> {
    let mut arguments = vec!["http".to_owned(), url.clone(), "--headers".into(), "-X".into(), method.clone()];
    for (name, value) in headers {
        arguments.extend(["-H".to_owned(), format!("{name}: {value}")]);
    }
    if !data.is_empty() {
        arguments.extend(["--data".to_owned(), data.clone()]);
    }
    arguments
}

fn tcp_arguments(Tcp { to, data }: &Tcp) -> Vec<String> {
    let mut arguments = vec!["tcp".to_owned(), to.clone()];
    if let Some(data) = data {
        arguments.extend(["--send".to_owned(), data.clone()]);
    }
    arguments
}

fn client(lab: &str, expectation: &Expectation, arguments: &[String]) -> Result<Vec<Record>> {
    let (times, concurrency) = (expectation.times.to_string(), expectation.concurrency.to_string());
    let schedule = ["-n", &times, "-c", &concurrency, "--timeout", PATIENCE, "-o", "json", "--body"];
    let argv: Vec<&str> = ["shop", "client"].into_iter().chain(arguments.iter().map(String::as_str)).chain(schedule).collect();
    let output = client::exec(lab, &expectation.from, &argv)?.stdin(Stdio::null()).output()?;
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let records: Vec<Record> = lines.map(serde_json::from_slice).collect::<Result<_, _>>().context("the client's output")?;
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(records.len() == expectation.times as usize, "{} of {} answers: {}", records.len(), expectation.times, said());
    Ok(records)
}

fn exec(lab: &str, pod: &str, argv: &[String]) -> Result<Record> {
    let output = client::exec(lab, pod, argv)?.stdin(Stdio::null()).output()?;
    Ok(Record {
        outcome: if output.status.success() { "ok".into() } else { "other".into() },
        body: String::from_utf8_lossy(&output.stdout).into_owned(),
        error: (!output.stderr.is_empty()).then(|| String::from_utf8_lossy(&output.stderr).into_owned()),
        ..Record::default()
    })
}

/// How many lines are like that.
fn lines(lab: &str, Log { pod, holding, without, at_least: _, at_most: _ }: &Log) -> Result<u32> {
    let status = client::status(lab)?;
    let logs: Vec<&Path> = match pod {
        None => status.nodes.values().map(|node| &*node.log).collect(),
        Some(pod) => {
            let found = status.pods().find(|(name, _)| name == pod);
            vec![&*found.with_context(|| format!("no pod {pod}"))?.1.log]
        }
    };
    let is_meant =
        |line: &&str| holding.iter().all(|text| line.contains(text)) && !without.iter().any(|text| line.contains(text));
    let mut count = 0;
    for log in logs {
        let text = std::fs::read(log).with_context(|| format!("{}", log.display()))?;
        count += String::from_utf8_lossy(&text).lines().filter(is_meant).count();
    }
    Ok(u32::try_from(count)?)
}

fn sum(lab: &str, Metric { name, labels, at_least: _, at_most: _ }: &Metric) -> Result<f64> {
    let mut sum = 0.0;
    for node in client::status(lab)?.nodes.values() {
        let page = http::get_unix(&node.runtime.join("admin.sock"), "/metrics", Duration::from_secs(10))?;
        sum += page.body.lines().filter_map(|line| sample(line, name, labels)).sum::<f64>();
    }
    Ok(sum)
}

/// The value of a line of the text format that is of this family and has these labels.
fn sample(line: &str, name: &str, labels: &BTreeMap<String, String>) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (of_line, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.rsplit_once("} ")?,
        None => ("", rest.strip_prefix(' ')?),
    };
    let has = |(name, value): (&String, &String)| format!(",{of_line},").contains(&format!(",{name}=\"{value}\","));
    labels.iter().all(has).then(|| value.split(' ').next()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let line = r#"istio_requests_total{reporter="source",response_code="200",app="a"} 7"#;
        assert_eq!(sample(line, "istio_requests_total", &labels(&[("app", "a"), ("response_code", "200")])), Some(7.0));
        assert_eq!(sample(line, "istio_requests_total", &labels(&[("code", "200")])), None);
        assert_eq!(sample(line, "istio_requests", &labels(&[])), None);
        assert_eq!(sample("up 1", "up", &labels(&[])), Some(1.0));
    }
}
