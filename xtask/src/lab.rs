//! `cargo xtask lab`: a cluster of network namespaces on this machine, from a folder of Kubernetes YAML, to try things in.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Subcommand, ValueEnum};
use harness::{Binaries, LabOptions, LabStatus, supervise};

use crate::{ebpf, report, workspace};

/// Run a folder of Kubernetes YAML on simulated nodes: pods, controller and node proxies on this machine
///
/// The folder is used in place. Edit, add and remove files while the lab is up: pods and configuration follow. Needs root.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the programs, make the network, start the mesh and every pod, and return when all are ready
    Up(Up),
    /// Run a program in a pod
    Exec(Exec),
    /// What is there: nodes, pods, addresses, processes, sockets, problems
    Status(Status),
    /// Print the log of a pod, a node's proxy or the controller
    Logs(Logs),
    /// End a lab and remove everything of it
    Down(Down),
    /// Own a lab; started by `up`
    #[command(hide = true)]
    Own { options: String },
}

#[derive(clap::Args)]
struct Up {
    /// The folder of YAML
    folder: PathBuf,
    /// What to call the lab: 1 to 12 small letters and digits
    #[arg(long, default_value = "lab")]
    id: String,
    /// Only network and pods: no controller, no node proxies
    #[arg(long)]
    no_mesh: bool,
    /// Keep the logs here; without, they go with the lab
    #[arg(long, value_name = "FOLDER")]
    log_dir: Option<PathBuf>,
    /// A variable for every program of the mesh and every container, such as RUST_LOG=debug
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Use the programs in this folder instead of building them
    #[arg(long, value_name = "FOLDER")]
    binaries: Option<PathBuf>,
    /// An argument for the controller; may be repeated
    #[arg(long = "controller-argument", value_name = "ARGUMENT", allow_hyphen_values = true)]
    controller_arguments: Vec<String>,
    /// An argument for every node proxy, such as --node-argument=--workers=1; may be repeated
    #[arg(long = "node-argument", value_name = "ARGUMENT", allow_hyphen_values = true)]
    node_arguments: Vec<String>,
    /// How long the mesh and the pods may take to be ready, in seconds
    #[arg(long, default_value_t = 120)]
    timeout: u64,
}

#[derive(clap::Args)]
struct Exec {
    #[command(flatten)]
    lab: Chosen,
    /// NAMESPACE/POD
    pod: String,
    /// The program and its arguments; PATH begins with our own programs, so `shop client ...` works
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(clap::Args)]
struct Status {
    #[command(flatten)]
    lab: Chosen,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(clap::Args)]
struct Logs {
    #[command(flatten)]
    lab: Chosen,
    /// NAMESPACE/POD, a node's name, `controller`, or `lab` for the laboratory's own
    source: String,
    /// Go on printing what is added
    #[arg(long, short)]
    follow: bool,
}

#[derive(clap::Args)]
struct Down {
    #[command(flatten)]
    lab: Chosen,
    /// All labs on this machine
    #[arg(long, conflicts_with = "id")]
    all: bool,
}

#[derive(clap::Args)]
struct Chosen {
    /// Which lab; the only one if absent
    #[arg(long)]
    id: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    match arguments.verb {
        Verb::Up(up) => bring_up(up),
        Verb::Exec(exec) => execute(&exec),
        Verb::Status(status) => print_status(&status),
        Verb::Logs(logs) => print_log(&logs),
        Verb::Down(down) => take_down(&down),
        Verb::Own { options } => supervise::supervise(serde_json::from_str(&options)?),
    }
}

fn bring_up(up: Up) -> Result<()> {
    let Up { folder, id, no_mesh, log_dir, env, binaries, controller_arguments, node_arguments, timeout } = up;
    let folder = folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?;
    let binaries = binaries.map_or_else(programs, Ok)?;
    let options = LabOptions {
        folder: folder.clone(),
        id: Some(id),
        binaries: Binaries { folder: binaries },
        mesh: !no_mesh,
        log_dir,
        environment: env.into_iter().collect(),
        deadline: Duration::from_secs(timeout),
        controller_arguments,
        node_arguments,
    };
    let id = report::step("lab", || {
        let mut owner = Command::new(env::current_exe()?);
        owner.args(["lab", "own", &serde_json::to_string(&options)?]);
        supervise::start(&mut owner, |step| report::note(step))
    })?;
    let status = harness::status(&id)?;
    for problem in &status.problems {
        report::note(format_args!("problem: {problem}"));
    }
    report::note(format_args!("lab {id} is up: {} pods on {} nodes", status.pods().count(), status.nodes.len()));
    report::note(format_args!("edit {} and it follows; logs are in {}", folder.display(), status.logs.display()));
    if let Some((pod, _)) = status.pods().next() {
        report::note(format_args!("try: cargo xtask lab exec {pod} -- ip address"));
    }
    Ok(())
}

/// Builds what runs in a lab; the folder where it is.
pub(crate) fn programs() -> Result<PathBuf> {
    let root = workspace::root()?;
    report::step("kernel object", || ebpf::object(&root).map(drop))?;
    report::step("programs", || {
        workspace::run(workspace::cargo().current_dir(&root).args(["build", "--quiet", "--workspace", "--bins"]))
    })?;
    Ok(workspace::target(&root).join("debug"))
}

fn execute(exec: &Exec) -> Result<()> {
    let mut command = harness::exec(&exec.lab.choose()?, &exec.pod, &exec.command)?;
    // In our place: signals, terminal and exit status are the program's own.
    Err(command.exec()).context("cannot run the laboratory's helper")
}

fn print_status(status: &Status) -> Result<()> {
    let lab = harness::status(&status.lab.choose()?)?;
    let text = match status.output {
        Format::Json => serde_json::to_string_pretty(&lab)? + "\n",
        Format::Text => table(&lab),
    };
    Ok(io::stdout().write_all(text.as_bytes())?)
}

fn table(lab: &LabStatus) -> String {
    let state = if lab.owner.alive() { "up" } else { "its owner has gone" };
    let mut text = format!("lab {}: {state}\nfolder  {}\nlogs    {}\n", lab.id(), lab.folder.display(), lab.logs.display());
    let process = |process: Option<harness::ProcessStatus>| match process.filter(|process| process.alive()) {
        Some(process) => format!("pid {}", process.pid),
        None if lab.mesh => "down".to_owned(),
        None => "no mesh".to_owned(),
    };
    if let Some(controller) = &lab.controller {
        let _ = writeln!(text, "\ncontroller  {}  {}", process(controller.process), addresses(&controller.addresses));
    }
    text += "\nNODE        PROXY         ADDRESSES                       SOCKETS\n";
    for (name, node) in &lab.nodes {
        let (process, addresses) = (process(node.process), addresses(&node.addresses));
        let _ = writeln!(text, "{name:<11} {process:<13} {addresses:<31} {}", node.runtime.display());
    }
    text += "\nPOD                       NODE       PHASE        READY  MESH  RESTARTS  ADDRESSES\n";
    for (name, pod) in lab.pods() {
        let (ready, mesh) = (if pod.ready { "yes" } else { "no" }, if pod.enrolled { "yes" } else { "no" });
        let (phase, addresses) = (format!("{:?}", pod.phase), addresses(&pod.addresses));
        let _ = writeln!(text, "{name:<25} {:<10} {phase:<12} {ready:<6} {mesh:<5} {:<9} {addresses}", pod.node, pod.restarts);
    }
    for problem in &lab.problems {
        let _ = writeln!(text, "\nproblem: {problem}");
    }
    text
}

fn addresses(list: &[std::net::IpAddr]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn print_log(logs: &Logs) -> Result<()> {
    let lab = harness::status(&logs.lab.choose()?)?;
    let path = log_of(&lab, &logs.source)?;
    let file = fs::File::open(&path).with_context(|| format!("there is no log {} yet", path.display()))?;
    let (mut reader, mut out) = (BufReader::new(file), io::stdout().lock());
    loop {
        let part = reader.fill_buf()?;
        let size = part.len();
        out.write_all(part)?;
        out.flush()?;
        reader.consume(size);
        if size == 0 {
            if !logs.follow {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

fn log_of(lab: &LabStatus, source: &str) -> Result<PathBuf> {
    if source == "lab" {
        return Ok(lab.logs.join("lab.log"));
    }
    if source == "controller" {
        return lab.controller.as_ref().map(|controller| controller.log.clone()).context("this lab has no mesh");
    }
    if let Some(node) = lab.nodes.get(source) {
        return Ok(node.log.clone());
    }
    if let Some((_, pod)) = lab.pods().find(|(name, _)| name == source) {
        return Ok(pod.log.clone());
    }
    let names: Vec<String> = lab.nodes.keys().cloned().chain(lab.pods().map(|(name, _)| name)).collect();
    bail!("nothing in lab {} is called {source}; there are: lab, controller, {}", lab.id(), names.join(", "))
}

fn take_down(down: &Down) -> Result<()> {
    let ids = if down.all { harness::list() } else { vec![down.lab.choose()?] };
    for id in ids {
        report::waiting(&format!("taking lab {id} down"), || harness::down(&id))?;
        report::note(format_args!("lab {id} is gone"));
    }
    Ok(())
}

impl Chosen {
    fn choose(&self) -> Result<String> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        match harness::list().as_slice() {
            [id] => Ok(id.clone()),
            [] => bail!("no lab is up: `cargo xtask lab up FOLDER` makes one, of samples/shop/manifests for instance"),
            ids => bail!("which lab? --id {}", ids.join(", --id ")),
        }
    }
}

fn variable(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').context("a variable is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
