//! The `godwit` binary. Its verbs are in the library, so that the test harness can run them from its own program.

use std::process::ExitCode;

fn main() -> ExitCode {
    server::program::main(std::env::args_os())
}
