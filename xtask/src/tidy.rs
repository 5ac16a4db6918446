//! `cargo xtask tidy`: rules of the house that no other tool knows.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{report, workspace};

/// A file above this many lines asks for a better cut.
const LONG: usize = 400;

/// Absolute folders of one machine: a program that names one works nowhere else.
const MACHINE_FOLDERS: &[&str] = &[concat!("/", "work"), concat!("/", "root"), concat!("/", "home"), concat!("/", "Users")];

/// Report long files, code in mod.rs and names of one machine's folders
///
/// Long files are reported; the other two are errors.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_: &Arguments) -> Result<()> {
    check(&workspace::root()?)
}

/// Reports long files; fails on code in a `mod.rs` and on a machine's folder in any text of ours.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut errors = Vec::new();
    for file in tracked(root)? {
        // Deleted and not committed yet, or not text.
        let Ok(text) = fs::read_to_string(root.join(&file)) else { continue };
        if file.extension().is_some_and(|extension| extension == "rs") && !is_generated(&file) {
            let lines = text.lines().count();
            if lines > LONG {
                report::note(format_args!("{}: {lines} lines", file.display()));
            }
            if file.file_name().is_some_and(|name| name == "mod.rs")
                && let Some(line) = code_in_mod(&text)
            {
                errors.push(format!("{}: a mod.rs holds docs, `mod` lines and re-exports only, not `{line}`", file.display()));
            }
        }
        for (number, line) in text.lines().enumerate() {
            if let Some(folder) = machine_folder(line) {
                errors.push(format!("{}:{}: names {folder}, a folder of one machine", file.display(), number + 1));
            }
        }
    }
    ensure!(errors.is_empty(), "untidy:\n{}", errors.join("\n"));
    Ok(())
}

/// Every file that git tracks or would, relative to the root.
fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let files =
        workspace::output(Command::new("git").current_dir(root).args(list)).context("list the files of the repository")?;
    Ok(files.split('\0').filter(|file| !file.is_empty()).map(PathBuf::from).collect())
}

fn is_generated(file: &Path) -> bool {
    file.iter().any(|part| part == "generated")
}

/// The first line of a `mod.rs` that begins an item other than `mod` and `use`.
fn code_in_mod(text: &str) -> Option<&str> {
    const ITEMS: &[&str] = &["fn ", "struct ", "enum ", "impl ", "impl<", "trait ", "const ", "static ", "type ", "macro_rules!"];
    text.lines().map(str::trim).find(|line| {
        let item = line.strip_prefix("pub").map_or(*line, |rest| match rest.split_once(") ") {
            Some((scope, item)) if scope.starts_with('(') => item,
            _ => rest.trim_start(),
        });
        let item = ["async ", "unsafe "].iter().fold(item, |item, word| item.strip_prefix(word).unwrap_or(item));
        ITEMS.iter().any(|start| item.starts_with(start))
    })
}

/// A machine's folder that stands in this line as an absolute path of its own.
fn machine_folder(line: &str) -> Option<&'static str> {
    let part_of_a_path = |c: char| c.is_alphanumeric() || "_-.~}/>*)".contains(c);
    MACHINE_FOLDERS.iter().copied().find(|folder| {
        line.match_indices(folder).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let mut after = line[at + folder.len()..].chars();
            // Prose writes "pod/root" and `<folder>/work`; a path of a machine begins with its slash and goes on with another.
            !before.is_some_and(part_of_a_path) && after.next() == Some('/') && after.next().is_some_and(char::is_alphanumeric)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_code_in_mod_files() {
        for (text, expected) in [
            ("//! Docs: fn main.\nmod a;\npub(crate) use a::{b, c};\npub mod d;\n#[cfg(test)]\nmod tests;\n", None),
            ("mod a;\npub(crate) fn f() {}\n", Some("pub(crate) fn f() {}")),
            ("impl<T> X<T> {\n}\n", Some("impl<T> X<T> {")),
            ("pub const N: u8 = 1;\n", Some("pub const N: u8 = 1;")),
        ] {
            assert_eq!(code_in_mod(text), expected);
        }
    }

    #[test]
    fn finds_folders_of_one_machine() {
        let machine = |rest: &str| format!("/{rest}");
        for (line, found) in [
            (format!("open(\"{}\")", machine("root/x")), true),
            (machine("work/main"), true),
            (format!("see {} there", machine("home/me/notes")), true),
            (format!("pins{}", machine("root/x")), false),
            (format!("<cgroup>{}", machine("root/x")), false),
            (format!("the {} folder", machine("root")), false),
            (format!("ends in {}/", machine("home")), false),
        ] {
            assert_eq!(machine_folder(&line).is_some(), found, "{line}");
        }
    }
}
