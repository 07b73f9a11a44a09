//! What a process asks of the system that it runs on.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Listens, from now on, for the signals that tell a process to end, SIGTERM and SIGINT. The future is ready once one came, with
/// its name.
///
/// # Errors
/// When the system takes no handler.
pub fn told_to_end() -> io::Result<impl Future<Output = &'static str> + Send> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// Memory comes in small pages from now on: with a huge page comes all that lies in it, used or not.
///
/// # Errors
/// When the system refuses.
pub fn do_without_huge_pages() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::thread::disable_transparent_huge_pages(true)?;
    Ok(())
}
