//! The laboratory's helper program: see the `guard` and `place` modules of the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::entry()
}
