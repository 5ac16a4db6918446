//! Files to documents.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use mesh_config::{
    document::{Format, Limits, documents as parse},
    status::Level,
};
use serde_json::Value;

use super::Finding;

/// Folders within folders; a loop of links ends here.
const MAX_DEPTH: usize = 32;

/// The documents of all `.yaml`, `.yml` and `.json` files, in the order of their names. A folder's hidden files are passed
/// over. A file that can not be parsed is a finding; one that is named and can not be read, an error.
pub(super) fn documents(paths: &[PathBuf], findings: &mut Vec<Finding>) -> Result<Vec<(PathBuf, Value)>> {
    let mut files = Vec::new();
    for path in paths {
        let about = fs::metadata(path).with_context(|| format!("{}", path.display()))?;
        if about.is_dir() { walk(path, 0, &mut files)? } else { files.push(path.clone()) }
    }
    let mut found = Vec::new();
    for file in files {
        let bytes = fs::read(&file).with_context(|| format!("{}", file.display()))?;
        let format = if file.extension().is_some_and(|extension| extension == "json") { Format::Json } else { Format::Yaml };
        match parse(&bytes, format, Limits::default()) {
            Ok(documents) => found.extend(documents.into_iter().map(|document| (file.clone(), document))),
            Err(error) => findings.push(Finding {
                file: Some(file),
                object: String::new(),
                level: Level::Error,
                code: "INVALID".into(),
                field: String::new(),
                text: error.to_string(),
            }),
        }
    }
    Ok(found)
}

fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    anyhow::ensure!(depth < MAX_DEPTH, "{} lies more than {MAX_DEPTH} folders deep", folder.display());
    let entries = fs::read_dir(folder).with_context(|| format!("{}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_manifest =
            || path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
        if hidden {
            continue;
        }
        if path.is_dir() {
            walk(&path, depth + 1, files)?;
        } else if is_manifest() {
            files.push(path);
        }
    }
    Ok(())
}
