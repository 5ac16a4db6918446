//! Where things are, and how other programs are run.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// The root of the workspace that this program was built from, unless cargo says that it moved.
pub(crate) fn root() -> Result<PathBuf> {
    let package = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root = package.parent().context("xtask lies in a workspace")?;
    root.canonicalize().with_context(|| format!("the workspace {} is gone", root.display()))
}

/// Where cargo builds: `CARGO_TARGET_DIR`, else `target` in the workspace.
pub(crate) fn target(root: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder))
}

/// What is fetched or built once for all clones: `KEELSON_CACHE`, else `~/.cache/keelson`.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("KEELSON_CACHE") {
        return Ok(folder.into());
    }
    let home = env::home_dir().context("no home directory: set KEELSON_CACHE to a folder that survives between builds")?;
    Ok(home.join(".cache/keelson"))
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a program to its end, its output on ours; an error names the program and how it ended.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{} failed: {status}", describe(command));
    }
    Ok(())
}

/// Runs a program and returns what it printed, trimmed; an error carries what it wrote to standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{} failed: {}\n{}", describe(command), output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8(output.stdout).context("the output is not UTF-8")?.trim().to_owned())
}

fn describe(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().display().to_string();
    command.get_args().take(4).fold(name, |text, argument| format!("{text} {}", argument.display()))
}
