//! Looking into a running cluster: a shell, and logs.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{self, Command},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{cgroup, layout::Layout, node::on_node, state::Cluster};

/// Becomes a shell, or `command`: in the network of the control plane, or on a node. Returns only if that fails.
pub(super) fn enter(cluster: &Cluster, node: Option<&str>, command: &[String]) -> Result<()> {
    let shell = [env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned())];
    let (program, arguments) = if command.is_empty() { &shell[..] } else { command }.split_first().context("not empty")?;
    let mut command = match node {
        Some(name) => {
            let node = cluster.node(name)?;
            // Whoever looks at the node's processes sees this one among them.
            cgroup::join_as_process(&node.cgroup, process::id())?;
            on_node(node, program)?
        }
        None => in_control_plane(cluster, program)?,
    };
    // In our place: signals, terminal and exit status are the program's own.
    Err(command.args(arguments).exec()).with_context(|| format!("cannot run {program}"))
}

fn in_control_plane(cluster: &Cluster, program: &str) -> Result<Command> {
    let mut folders = cluster.programs.clone();
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", cluster.control.netns.display())).arg("--").arg(program);
    command.env("PATH", env::join_paths(folders)?).env("KUBECONFIG", &cluster.control.kubeconfig);
    Ok(command)
}

/// Prints a component's log, or says which components have one.
pub(super) fn print_log(layout: &Layout, component: Option<&str>, follow: bool) -> Result<()> {
    let names = names(&layout.logs())?;
    let Some(component) = component else {
        for name in names {
            println!("{name}");
        }
        return Ok(());
    };
    let path = layout.logs().join(format!("{component}.log"));
    let file = fs::File::open(&path).with_context(|| format!("no log of {component}; there are {}", names.join(", ")))?;
    let (mut reader, mut out) = (BufReader::new(file), io::stdout().lock());
    loop {
        let part = reader.fill_buf()?;
        let size = part.len();
        out.write_all(part)?;
        out.flush()?;
        reader.consume(size);
        if size == 0 {
            if !follow {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

fn names(logs: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(logs).with_context(|| format!("no logs in {}", logs.display()))?;
    let files = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = files.filter_map(|file| Some(file.strip_suffix(".log")?.to_owned())).collect();
    names.sort();
    Ok(names)
}
