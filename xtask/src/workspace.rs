//! Where things are, and how other programs are run.

use std::{
    env, fs,
    io::Write,
    os::unix::fs::PermissionsExt,
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

/// Whether a program of this name would be found.
pub(crate) fn on_path(program: &str) -> bool {
    find_on_path(program).is_some()
}

/// The file that a program's name stands for.
pub(crate) fn find_on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
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

/// Writes a file so that no reader ever sees half of it; makes its folder.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file lies in a folder")?;
    let write = || -> Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o644)).tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// Moves a folder to where nothing is yet, across file systems too; the new name appears only when it is whole.
pub(crate) fn move_folder(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().context("a folder lies in a folder")?;
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    let near = tempfile::tempdir_in(parent).with_context(|| format!("make a folder in {}", parent.display()))?;
    let copy = near.path().join("copy");
    run(Command::new("cp").arg("-a").arg(from).arg(&copy))?;
    fs::rename(&copy, to).with_context(|| format!("move to {}", to.display()))
}
