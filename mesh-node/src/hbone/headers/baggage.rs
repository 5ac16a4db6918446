//! `baggage`: who the workload behind a tunnel is, in OpenTelemetry's resource names (W3C Baggage).
//!
//! A peer writes it freely, so it describes and never authorizes: the certificate does that.

use std::fmt::{self, Write};

use http::{HeaderMap, header::GetAll};
use mesh_policy::model::WorkloadKind;

use super::text;

/// Entries that are read; W3C Baggage asks for no more than this to be passed on.
const MAX_ENTRIES: usize = 64;

/// One value, decoded, at most (Kubernetes names have 253 bytes).
const MAX_TEXT: usize = 256;

const KINDS: [WorkloadKind; 4] = [WorkloadKind::Deployment, WorkloadKind::CronJob, WorkloadKind::Pod, WorkloadKind::Job];

/// An empty text is an unknown value and is not written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`
    pub cluster: String,
    /// `k8s.namespace.name`
    pub namespace: String,
    /// The `<kind>` in `k8s.<kind>.name`.
    pub workload_kind: WorkloadKind,
    /// `k8s.<kind>.name`
    pub workload: String,
    /// `service.name`: the canonical name.
    pub service: String,
    /// `service.version`: the canonical revision.
    pub revision: String,
    /// `cloud.region`
    pub region: String,
    /// `cloud.availability_zone`
    pub zone: String,
}

impl Baggage {
    /// Reads all lines of the header. Unknown keys, properties and unreadable entries are passed over; of a key that
    /// comes twice the first counts.
    pub fn read(headers: &HeaderMap) -> Self {
        let lines: GetAll<'_, _> = headers.get_all(super::BAGGAGE);
        let mut baggage = Self::default();
        let entries = lines.iter().filter_map(|line| text(Some(line))).flat_map(|line| line.split(','));
        for entry in entries.take(MAX_ENTRIES) {
            let member = entry.split(';').next().unwrap_or_default();
            let Some((key, value)) = member.split_once('=') else { continue };
            // An empty value says nothing, its kind of workload neither.
            let Some(value) = decode(value.trim()).filter(|value| !value.is_empty()) else { continue };
            baggage.set(key.trim(), value);
        }
        baggage
    }

    fn set(&mut self, key: &str, value: String) {
        let field = match key {
            "k8s.cluster.name" => &mut self.cluster,
            "k8s.namespace.name" => &mut self.namespace,
            "service.name" => &mut self.service,
            "service.version" => &mut self.revision,
            "cloud.region" => &mut self.region,
            "cloud.availability_zone" => &mut self.zone,
            _ => {
                let kind = key.strip_prefix("k8s.").and_then(|rest| rest.strip_suffix(".name"));
                let Some(kind) = KINDS.into_iter().find(|known| Some(known.as_str()) == kind) else { return };
                if self.workload.is_empty() {
                    self.workload_kind = kind;
                }
                &mut self.workload
            }
        };
        if field.is_empty() {
            *field = value;
        }
    }
}

impl fmt::Display for Baggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, namespace, workload_kind, workload, service, revision, region, zone } = self;
        let workload_key = format!("k8s.{}.name", workload_kind.as_str());
        let entries = [
            ("k8s.cluster.name", cluster),
            ("k8s.namespace.name", namespace),
            (&workload_key, workload),
            ("service.name", service),
            ("service.version", revision),
            ("cloud.region", region),
            ("cloud.availability_zone", zone),
        ];
        let mut comma = "";
        for (key, value) in entries.into_iter().filter(|(_, value)| !value.is_empty()) {
            write!(f, "{comma}{key}=")?;
            encode(f, value)?;
            comma = ",";
        }
        Ok(())
    }
}

/// Percent-encodes what is not a baggage-octet, and `%` itself.
fn encode(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    for byte in value.bytes() {
        match byte {
            b'%' | b'"' | b',' | b';' | b'\\' | 0..=b' ' | 0x7f.. => write!(f, "%{byte:02X}")?,
            _ => f.write_char(char::from(byte))?,
        }
    }
    Ok(())
}

/// `None` for what is too long, not UTF-8 once decoded, or has control characters that would spoil a log line.
fn decode(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len().min(MAX_TEXT));
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex(rest.next()?)? << 4 | hex(rest.next()?)?,
            _ => byte,
        });
    }
    let text = String::from_utf8(bytes).ok()?;
    (text.len() <= MAX_TEXT && !text.chars().any(char::is_control)).then_some(text)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}
