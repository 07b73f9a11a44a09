//! The `jepsen` program: runs, simulations, mutants; and, as `jepsen godwit ...`, the very `godwit` that it tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == "godwit") {
        return server::program::main(arguments);
    }
    eprintln!("usage: jepsen godwit ...");
    ExitCode::FAILURE
}
