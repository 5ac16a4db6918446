//! libFuzzer's side of a target: `cargo xtask fuzz` builds and runs this, and names the target in the environment.

#![no_main]
#![allow(unsafe_code, reason = "the macro defines the C function that libFuzzer calls")]

use std::{env, sync::LazyLock};

use mesh_fuzz::{TARGETS, Target};

/// The environment variable that names the target.
const VARIABLE: &str = "KEELSON_FUZZ_TARGET";

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = env::var(VARIABLE).unwrap_or_default();
    TARGETS.iter().find(|target| target.name == name).expect("KEELSON_FUZZ_TARGET names a target")
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| (TARGET.check)(input));
