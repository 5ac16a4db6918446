//! `meshctl analyze`: what is wrong, or not as it seems, in manifests that nobody has applied yet.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use mesh_config::status::Level;
use mesh_policy::model::{AppProtocol, Snapshot};
use serde_json::json;

use crate::{
    Outcome,
    files::{Files, Finding},
    output::Printer,
    table::{Cell, Table, Tone},
};

#[derive(Debug, Args)]
pub(crate) struct AnalyzeArgs {
    /// Files and folders of manifests
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,

    /// The exit code is 1 if anything is found of this level or a worse one
    #[arg(long, value_name = "LEVEL", default_value = "error")]
    failure_threshold: Threshold,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Threshold {
    Info,
    Warning,
    Error,
}

impl Threshold {
    fn is_reached_by(self, level: Level) -> bool {
        match self {
            Self::Info => true,
            Self::Warning => level != Level::Info,
            Self::Error => level == Level::Error,
        }
    }
}

/// Ports that Istio never sniffs: their servers speak first.
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

pub(crate) fn analyze(arguments: &AnalyzeArgs, printer: &Printer) -> Result<Outcome> {
    let files = Files::load(&arguments.paths)?;
    for assumption in &files.assumptions {
        printer.note(assumption);
    }
    let undeclared = undeclared(&files.snapshot);
    let findings: Vec<&Finding> = files.findings.iter().chain(&undeclared).collect();
    let mut table = Table::new(&["LEVEL", "CODE", "OBJECT", "FIELD", "MESSAGE", "FILE"]);
    for finding in &findings {
        table.add_row(row(finding));
    }
    if findings.is_empty() {
        printer.note(&format!("nothing is wrong with {} objects", files.objects));
    }
    printer.list(&table, findings.iter().map(|finding| value(finding)).collect())?;
    let failed = findings.iter().any(|finding| arguments.failure_threshold.is_reached_by(finding.level));
    Ok(if failed { Outcome::Partial } else { Outcome::Complete })
}

fn row(finding: &Finding) -> Vec<Cell> {
    let Finding { file, object, level, code, field, text } = finding;
    let level = match level {
        Level::Error => Cell::new("error").tone(Tone::Bad),
        Level::Warning => Cell::new("warning").tone(Tone::Doubtful),
        Level::Info => Cell::new("info"),
    };
    let file = file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
    vec![level, code.into(), object.into(), field.into(), text.into(), file.into()]
}

fn value(finding: &Finding) -> serde_json::Value {
    let Finding { file, object, level, code, field, text } = finding;
    json!({ "level": level, "code": code, "object": object, "field": field, "message": text, "file": file })
}

/// Ports whose protocol nobody declared: a sidecar would look into the traffic, this mesh takes it for TCP.
fn undeclared(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in snapshot.services() {
        let ports = service.ports.iter().filter(|port| port.protocol == AppProtocol::Unknown);
        for port in ports.filter(|port| !SERVER_FIRST.contains(&port.service_port)) {
            findings.push(Finding {
                file: None,
                object: format!("Service {}/{}", service.namespace, service.name),
                level: Level::Info,
                code: "PORT_NOT_DECLARED".into(),
                field: format!("port {}", port.service_port),
                text: "its protocol is not declared, by appProtocol or the port's name: a sidecar would find out by looking, \
                       here it is TCP unless a route or policy asks for HTTP"
                    .into(),
            });
        }
    }
    findings.sort_by(|a, b| (&a.object, &a.field).cmp(&(&b.object, &b.field)));
    findings
}
