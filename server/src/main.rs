//! The `godwit` binary: one verb, and its exit code.

use std::process::ExitCode;

use clap::Parser;
use server::cli::{Cli, Command};
use server::verbs::{self, Exit};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("godwit: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(Exit::Ok) => ExitCode::SUCCESS,
        Ok(Exit::NotFound) => ExitCode::from(2),
        Err(e) => {
            eprintln!("godwit: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<Exit, Box<dyn std::error::Error>> {
    let mut out = std::io::stdout();
    match cli.command {
        Command::Serve(args) => server::serve::serve(*args)
            .await
            .map(|()| Exit::Ok)
            .map_err(Into::into),
        Command::Init(args) => Ok(verbs::init(&cli.connect, args, &mut out).await?),
        Command::Kv(args) => Ok(verbs::kv(&cli.connect, args, &mut out).await?),
        Command::Admin(args) => Ok(verbs::admin(&cli.connect, args, &mut out).await?),
        Command::Demo(args) => Ok(server::demo::demo(args).await.map(|()| Exit::Ok)?),
    }
}
