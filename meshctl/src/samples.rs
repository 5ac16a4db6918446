//! The shop and its tasks, as inputs of tests.

use std::path::{Path, PathBuf};

use crate::files::Files;

pub(crate) fn folder(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples").join(below)
}

/// The shop with a task's manifests applied.
pub(crate) fn shop_with(task: &str) -> Files {
    let of_task = ["setup", "manifests"].map(|part| folder(&format!("tasks/{task}/{part}")));
    let paths: Vec<_> = [folder("shop/manifests")].into_iter().chain(of_task).filter(|path| path.exists()).collect();
    let files = Files::load(&paths).expect("the samples are manifests");
    assert!(files.refused().is_empty(), "{task}: {:?}", files.findings);
    files
}

pub(crate) fn shop() -> Files {
    Files::load(&[folder("shop/manifests")]).expect("the samples are manifests")
}
