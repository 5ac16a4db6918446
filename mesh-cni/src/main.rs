//! The plugin's process: environment and standard input in, one JSON object out.

use std::{
    env,
    io::{self, Read, Write},
    process::ExitCode,
};

use mesh_cni::{answer, invocation::Environment, plugin};
use mesh_proto::cni::VERSIONS;

/// Far more than any network configuration; what is longer is not read to its end.
const LONGEST: u64 = 16 << 20;

fn main() -> ExitCode {
    if env::var_os("CNI_COMMAND").is_none() {
        eprintln!("keelson-cni {}: a plugin for container runtimes, CNI {}", env!("CARGO_PKG_VERSION"), VERSIONS.join(", "));
        return ExitCode::SUCCESS;
    }
    let mut input = Vec::new();
    // What can not be read is judged as it is: a deletion succeeds all the same.
    let _ = io::stdin().take(LONGEST).read_to_end(&mut input);
    let (answer, code) = match plugin::run(&Environment::of_process(), &input) {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(failure) => (Some(answer::error(&failure, &input)), ExitCode::FAILURE),
    };
    if let Some(answer) = answer
        && writeln!(io::stdout(), "{answer}").is_err()
    {
        return ExitCode::FAILURE;
    }
    code
}
