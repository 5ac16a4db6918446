//! Fresh mutual TLS handshakes: a client of rustls against the port for tunnels, and rustls with itself in memory.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    envoy,
    sample::{Metric, Reading},
    setup::{Placement, Port, Setup, Variant, identity},
};
use crate::workspace;

pub(super) const ROW: &str = "mutual TLS handshakes";

/// The CPU seconds of both ends for one handshake, without sockets.
pub(super) struct Alone(f64);

pub(super) fn in_memory(setup: &Setup, time: Duration) -> Result<Alone> {
    let seconds = time.as_secs_f64().to_string();
    let told = workspace::output(Command::new(setup.binaries.join("tls-peer")).args(["in-memory", "--duration", &seconds]))?;
    let told: Value = serde_json::from_str(&told)?;
    Ok(Alone(number(&told, "cpu_seconds")? / number(&told, "handshakes")?))
}

pub(super) fn measure(setup: &Setup, time: Duration, alone: &Alone) -> Result<Vec<Reading>> {
    let program = setup.binaries.join("tls-peer").display().to_string();
    let folder = setup.folder.join("certificates");
    let name = format!("client={}", identity("client"));
    let target = match setup.variant {
        Variant::Envoy => envoy::tunnels(&setup.lab)?,
        Variant::None | Variant::Keelson => {
            let mut sign = Command::new(&program);
            workspace::output(sign.args(["sign", &setup.lab.id(), "node-1"]).arg(&folder).arg(&name))?;
            (setup.address(Placement::OtherNode, Port::Echo)?.ip(), 15008).into()
        }
    };
    let (target, folder, seconds) = (target.to_string(), folder.display().to_string(), time.as_secs_f64().to_string());
    let proxies = setup.proxies()?.context("no mesh has no proxies")?;
    let before = proxies.cpu_seconds()?;
    // On the client's node and not in a pod: nothing captures it there.
    let words = [&program, "handshakes", &target, &folder, &name, &identity("far"), "--duration", &seconds];
    let output = setup.lab.exec_on_node("node-1", &words)?;
    let told = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("tls-peer handshakes: {}", String::from_utf8_lossy(&output.stderr).trim().to_owned()))?;
    let used = proxies.cpu_seconds()? - before + number(&told, "cpu_seconds")?;
    let count = number(&told, "handshakes")?;
    Ok(vec![
        Reading { metric: Metric::PerSecond, value: count / number(&told, "seconds")? },
        Reading { metric: Metric::CpuPerHandshake, value: used * 1e3 / count },
        Reading { metric: Metric::OfRustls, value: alone.0 * count / used },
    ])
}

fn number(told: &Value, key: &str) -> Result<f64> {
    told[key].as_f64().with_context(|| format!("no {key} in {told}"))
}
