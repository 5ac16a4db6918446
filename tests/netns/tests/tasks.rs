//! Every how-to of `samples/tasks`, one after the other on one laboratory.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use harness::{Lab, LabOptions, copy_of, task};

#[test]
fn every_task_does_what_it_says() {
    let samples = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../samples"));
    let folder = copy_of(&samples.join("shop/manifests")).unwrap();
    let lab = Lab::up(LabOptions::new(folder.path()).unwrap()).unwrap();
    let mut failed = Vec::new();
    for task in task::tasks(&samples.join("tasks")).unwrap() {
        match task.run(&lab) {
            Ok(told) => eprintln!("{}: ok after {:?}; before: {}", task.name, told.took, told.before),
            Err(error) => failed.push(format!("{}: {error:#}", task.name)),
        }
    }
    lab.down().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
