//! Every seed keeps every property, and every target has seeds.

use std::{fs, panic, path::Path};

use mesh_fuzz::TARGETS;

#[test]
fn the_seeds_keep_the_properties() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for target in TARGETS {
        let mut seeds: Vec<_> =
            fs::read_dir(folder.join(target.name)).expect(target.name).map(|entry| entry.expect("a seed").path()).collect();
        seeds.sort();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for seed in seeds {
            let input = fs::read(&seed).expect("a readable seed");
            let kept = panic::catch_unwind(|| (target.check)(&input));
            assert!(kept.is_ok(), "{} breaks {}, as said above", seed.display(), target.name);
        }
    }
}

#[test]
fn no_seeds_are_left_over() {
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")).expect("seeds") {
        let name = entry.expect("a folder").file_name();
        assert!(TARGETS.iter().any(|target| *target.name == *name), "{} are seeds of nothing", name.display());
    }
}
