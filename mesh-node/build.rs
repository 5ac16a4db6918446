//! Finds the kernel object, which another toolchain builds: `cargo xtask build-ebpf`.

use std::{
    env,
    path::{Path, PathBuf},
};

fn main() {
    println!("cargo::rerun-if-env-changed=KEELSON_EBPF_OBJECT");
    let object = match env::var_os("KEELSON_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => in_target_folder(),
    };
    println!("cargo::rerun-if-changed={}", object.display());
    if object.is_file() {
        println!("cargo::rustc-env=KEELSON_EBPF_OBJECT={}", object.display());
    } else {
        println!("cargo::error=there is no kernel object at {}: run `cargo xtask build-ebpf`", object.display());
    }
}

/// `<target>/keelson/keelson.bpf.o`. `OUT_DIR` is `<target>/[<triple>/]<profile>/build/<crate>/out`, and only the
/// target folder has a `CACHEDIR.TAG`.
fn in_target_folder() -> PathBuf {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let target = out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file()).unwrap_or(Path::new("target"));
    target.join("keelson/keelson.bpf.o")
}
