//! The command line of `cargo xtask build-ebpf`.

use anyhow::Result;

use crate::{report, workspace};

/// Build the kernel programs into <target>/keelson/keelson.bpf.o
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also build from two copies in two other folders and compare the objects byte by byte
    #[arg(long)]
    check_reproducible: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = workspace::root()?;
    let built = super::object(&root)?;
    report::note(format_args!("{} ({} bytes, {})", built.path.display(), built.size, built.origin));
    if arguments.check_reproducible {
        super::check_reproducible(&root)?;
    }
    Ok(())
}
