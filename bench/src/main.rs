//! The `bench` program; and, as `bench godwit ...`, the very `godwit` that it measures.

mod cli;

use std::process::ExitCode;

use bench::compare::{Options, compare, render_page};
use clap::Parser;

use cli::{Cli, Command, CompareArgs};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == "godwit") {
        return server::program::main(arguments);
    }
    let command = Cli::parse().command;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("bench: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Compare(args) => compared(&args).await,
        Command::Load => bench::load::serve().await,
        Command::Godwit { .. } => anyhow::bail!("`godwit` must be the first argument"),
    }
}

async fn compared(args: &CompareArgs) -> anyhow::Result<()> {
    let cli::PeerName::Etcd = args.peer;
    let options = Options {
        matrix: args.matrix(),
        etcd: args.etcd.clone(),
        folder: args.data.clone(),
        seed: args.seed,
        settings: args.settings.clone(),
    };
    let report = compare(&options, |row| {
        eprintln!(
            "{:?} {} {:?}: {:.2}",
            row.workload, row.clients, row.path, row.ratio
        );
    })
    .await?;
    print!("{report}");
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    if let Some(file) = &args.html {
        std::fs::write(file, render_page(&report))?;
    }
    Ok(())
}
