//! `cargo xtask demo`: the sample shop on two simulated nodes, and what a mesh does for it, before your eyes.

mod flows;
mod picture;
mod shop;
mod story;
mod trace;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
    time::Duration,
};

use anyhow::{Context, Result};
use harness::{Binaries, Lab, LabOptions, copy_of, supervise};

use self::shop::Shop;
use crate::{lab, report, workspace};

/// Build everything, run the sample shop on two simulated nodes and show what the mesh does for it
///
/// On a terminal: a live picture of who calls whom while policies and routes come and go, until Ctrl-C. Elsewhere, or with --once: the
/// same story step by step, each step checked, and a closing table. Needs root; leaves nothing behind.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Tell the story once, check each step, print a table and exit
    #[arg(long)]
    once: bool,
    /// Leave the lab running afterwards
    #[arg(long)]
    keep: bool,
    /// What to call the lab: 1 to 12 small letters and digits
    #[arg(long, default_value = "demo")]
    id: String,
    /// Use the programs in this folder instead of building them
    #[arg(long, value_name = "FOLDER")]
    binaries: Option<PathBuf>,
}

/// How long the shop may take to come up.
const DEADLINE: Duration = Duration::from_mins(2);

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = workspace::root()?;
    let binaries = arguments.binaries.clone().map_or_else(lab::programs, Ok)?;
    let samples = root.join("samples");
    let folder = copy_of(&samples.join("shop/manifests"))?;
    let options = LabOptions {
        id: Some(arguments.id.clone()),
        binaries: Binaries { folder: binaries },
        deadline: DEADLINE,
        node_arguments: trace::node_arguments(),
        ..LabOptions::new(folder.path().canonicalize().context("the copy of the manifests is gone")?)?
    };
    remove_when_interrupted(folder.path())?;
    if arguments.keep {
        // The lab must outlive this command, and its folder too.
        let id = supervised(&options)?;
        let kept = folder.keep();
        let told = tell(arguments, &Shop::new(&id, &kept, &samples));
        how_to_reach(&id, &kept);
        return told;
    }
    let lab = report::step("two nodes and the shop", || Lab::up_with(options, |step| report::note(step)))?;
    let told = tell(arguments, &Shop::new(&lab.id(), folder.path(), &samples));
    report::step("clean up", || lab.down())?;
    told
}

/// The lab's own guard takes the lab apart after any end of this process; the copy of the manifests is ours.
fn remove_when_interrupted(folder: &Path) -> Result<()> {
    let folder = folder.to_owned();
    let interrupted = move || {
        let _ = fs::remove_dir_all(&folder);
        process::exit(130);
    };
    ctrlc::set_handler(interrupted).context("watch for Ctrl-C")
}

fn supervised(options: &LabOptions) -> Result<String> {
    report::step("two nodes and the shop", || {
        let mut owner = Command::new(env::current_exe()?);
        owner.args(["lab", "own", &serde_json::to_string(options)?]);
        supervise::start(&mut owner, |step| report::note(step))
    })
}

fn tell(arguments: &Arguments, shop: &Shop) -> Result<()> {
    if arguments.once || !report::on_terminal() { story::once(shop) } else { picture::live(shop) }
}

fn how_to_reach(id: &str, folder: &Path) {
    let pods = fs::read_dir(folder).map_or(0, Iterator::count);
    report::note(format_args!("the lab stays up; its {pods} files are in {}", folder.display()));
    report::note(format_args!("cargo xtask lab exec --id {id} shop/client -- shop client http http://page.shop:9080/"));
    report::note(format_args!("cargo run -q -p meshctl -- --lab {id} connections"));
    report::note(format_args!("cargo xtask lab down --id {id}"));
}
