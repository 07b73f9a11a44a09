//! The whole program: one verb, and its exit code.

use std::ffi::OsString;
use std::num::NonZero;
use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use tokio::runtime::{Builder, Runtime};

use crate::cli::{Cli, Command};
use crate::verbs::{self, Exit};

/// Here and not in the binary, so that the programs that hold all of `godwit` test and measure what users run.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// How this very program is started again, up to the verb: programs that hold all of `godwit` have it as a verb of theirs.
///
/// # Errors
/// When it cannot be told where the program lies.
pub(crate) fn own_command() -> std::io::Result<Vec<OsString>> {
    let program = std::env::current_exe()?.into_os_string();
    let verb = std::env::args_os().nth(1).filter(|verb| verb == "godwit");
    Ok(std::iter::once(program).chain(verb).collect())
}

/// Parses the arguments (the first is the program's name), runs the verb and says how it ended. Ends the process
/// itself when the arguments make no sense, or ask for help.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::parse_from(arguments);
    let runtime = match runtime() {
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

/// One processor is left to the log's writer, which every write waits for. `TOKIO_WORKER_THREADS` says otherwise.
fn runtime() -> std::io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        let processors = std::thread::available_parallelism().map_or(2, NonZero::get);
        builder.worker_threads((processors - 1).max(1));
    }
    builder.enable_all().build()
}

async fn run(cli: Cli) -> Result<Exit, Box<dyn std::error::Error>> {
    let mut out = std::io::stdout();
    match cli.command {
        Command::Serve(args) => crate::serve::serve(*args)
            .await
            .map(|()| Exit::Ok)
            .map_err(Into::into),
        Command::Init(args) => Ok(verbs::init(&cli.connect, args, &mut out).await?),
        Command::Kv(args) => Ok(verbs::kv(&cli.connect, args, &mut out).await?),
        Command::Admin(args) => Ok(verbs::admin(&cli.connect, args, &mut out).await?),
        Command::Top(args) => Ok(verbs::top(&cli.connect, &args, &mut out).await?),
        Command::Backup(args) => Ok(verbs::backup(&cli.connect, args, &mut out).await?),
        Command::Partition(args) => Ok(verbs::partition(&args, &mut out)?),
        Command::Plan(args) => Ok(verbs::plan(&args, &mut out)?),
        Command::Model(args) => match args.verb.of_cluster() {
            Some(verb) => Ok(verbs::models(&cli.connect, &verb, &mut out).await?),
            None => Ok(verbs::model(&args, &mut out)?),
        },
        Command::Demo(args) => Ok(crate::demo::demo(args).await.map(|()| Exit::Ok)?),
        Command::Completions(args) => Ok(verbs::completions(&args, &mut out)?),
        Command::Man(args) => Ok(verbs::man(&args)?),
    }
}
