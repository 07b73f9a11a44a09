//! Going into the client namespace: the program runs itself once more, inside.
//!
//! The outer process makes the namespaces, runs the inner one, and removes them when it has ended, however it ended.
//! So a run that panics or is killed leaves nothing, and the clients share no stack with the rest of the machine. The
//! outer process passes signals on rather than die of them.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use super::condition::End;
use super::{namespaces, shell};

/// Where the program finds itself.
#[derive(Debug)]
pub enum Entry {
    /// In the client namespace: go on.
    Inside,
    /// There can be no namespaces, for this reason: go on with the proxy.
    Refused(String),
    /// The run took place in another process, and ended so.
    Ended(ExitCode),
}

/// Runs this program again, with `arguments`, in a new client namespace; or says that this is that run, or that there
/// can be none. To be called before anything else is started.
///
/// # Errors
/// When a namespace cannot be made although the machine has what it takes, or the program cannot be run.
pub fn enter_client_namespace(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<Entry> {
    if std::env::var_os(namespaces::MARKER).is_some() {
        return Ok(Entry::Inside);
    }
    if let Some(reason) = namespaces::missing() {
        return Ok(Entry::Refused(reason));
    }
    namespaces::remove_abandoned();
    let made = namespaces::make();
    let prefix = made.inspect_err(|_| drop(namespaces::remove_all(&namespaces::own_prefix())))?;
    let ended = run_inside(&prefix, arguments);
    let left = namespaces::remove_all(&prefix);
    let code = ended?;
    if left.is_empty() {
        return Ok(Entry::Ended(code));
    }
    eprintln!("namespaces are still there: {}", left.join(", "));
    Ok(Entry::Ended(ExitCode::FAILURE))
}

fn run_inside(prefix: &str, arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let line = namespaces::entering(prefix, End::Clients);
    let program = shell::find_program(&line[0]).context("this machine has no nsenter")?;
    let mut command = tokio::process::Command::new(program);
    command
        .args(&line[1..])
        .arg(std::env::current_exe()?)
        .args(arguments)
        .env(namespaces::MARKER, prefix);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let status = runtime.block_on(async {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        let mut child = command.spawn()?;
        loop {
            tokio::select! {
                status = child.wait() => return status,
                // The terminal sends its interrupt to the whole foreground group, the inner process included.
                _ = interrupted.recv() => {}
                _ = terminated.recv() => {
                    if let Some(pid) = child.id() {
                        shell::run("kill", ["-TERM", &pid.to_string()]).ok();
                    }
                }
            }
        }
    })?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
