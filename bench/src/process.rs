//! A host of a peer as a process: started, looked at, killed.

use std::fs::{self, File};
use std::net::TcpListener;
use std::ops::{Add, Range, Sub};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Below those that Linux gives to connections that go out (`net.ipv4.ip_local_port_range`).
const PORTS: Range<u32> = 20_000..30_000;

/// How a process is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The program and its arguments.
    pub line: Vec<String>,
    /// The file to which its output is added.
    pub log: PathBuf,
}

/// A process that ends, by SIGKILL, when this is dropped.
#[derive(Debug)]
pub struct Process {
    launch: Launch,
    child: Child,
}

/// What processes have used since they started; the memory is what they hold now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Seconds of processor time, of user and kernel.
    pub cpu_s: f64,
    /// Bytes that were sent to the disk.
    pub written_bytes: u64,
    /// Resident memory.
    pub resident_bytes: u64,
}

impl Add for Usage {
    type Output = Usage;

    fn add(self, other: Usage) -> Usage {
        Usage {
            cpu_s: self.cpu_s + other.cpu_s,
            written_bytes: self.written_bytes + other.written_bytes,
            resident_bytes: self.resident_bytes + other.resident_bytes,
        }
    }
}

impl Sub for Usage {
    type Output = Usage;

    /// What was used since `earlier`; the memory stays what it is now.
    fn sub(self, earlier: Usage) -> Usage {
        Usage {
            cpu_s: self.cpu_s - earlier.cpu_s,
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
            resident_bytes: self.resident_bytes,
        }
    }
}

impl Launch {
    fn spawn(&self) -> anyhow::Result<Child> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| self.log.display().to_string())?;
        let (program, arguments) = self.line.split_first().context("an empty command line")?;
        Command::new(program)
            .args(arguments)
            // It would change what hosts write, and how long that takes.
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {program}"))
    }
}

impl Process {
    /// Starts a process.
    ///
    /// # Errors
    /// When the log cannot be made or the program cannot be started.
    pub fn start(launch: Launch) -> anyhow::Result<Self> {
        let child = launch.spawn()?;
        Ok(Self { launch, child })
    }

    /// Starts it again as it was started; if it still runs it is killed before.
    ///
    /// # Errors
    /// As for [`Process::start`].
    pub fn restart(&mut self) -> anyhow::Result<()> {
        // One that has ended already cannot be killed.
        let _ = self.kill();
        self.child = self.launch.spawn()?;
        Ok(())
    }

    /// What it has used.
    ///
    /// # Errors
    /// When it has ended.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        usage_of(self.child.id())
    }

    /// Ends it by SIGKILL.
    ///
    /// # Errors
    /// When it cannot be killed or waited for.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal, as `STOP`.
    ///
    /// # Errors
    /// When there is no program `kill`, or it fails.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.child.id().to_string())
            .status()
            .context("kill")?;
        anyhow::ensure!(sent.success(), "kill -{name}: {sent}");
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already cannot be killed.
        let _ = self.kill();
    }
}

/// What the process `pid` has used, by `/proc`.
///
/// # Errors
/// When it has ended, or belongs to another user.
pub fn usage_of(pid: u32) -> anyhow::Result<Usage> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        fs::read_to_string(&path).with_context(|| path)
    };
    let ticks = cpu_ticks(&read("stat")?).with_context(|| format!("/proc/{pid}/stat"))?;
    Ok(Usage {
        cpu_s: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        written_bytes: field(&read("io")?, "write_bytes:").unwrap_or(0),
        resident_bytes: field(&read("status")?, "VmRSS:").unwrap_or(0) * 1024,
    })
}

/// The most memory that was ever resident of the process `pid`, in bytes.
///
/// # Errors
/// When it has ended, or belongs to another user.
pub fn peak_bytes_of(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| path.clone())?;
    let kib = field(&status, "VmHWM:").with_context(|| path)?;
    Ok(kib * 1024)
}

/// User and kernel time in a line of `/proc/PID/stat`. The program's name may hold anything; it ends with the last `)`.
fn cpu_ticks(stat: &str) -> Option<u64> {
    const USER_FIELD: usize = 11;
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field)?.parse::<u64>().ok();
    Some(ticks(USER_FIELD)? + ticks(USER_FIELD + 1)?)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A free port of loopback, as `127.0.0.1:port`: given once by this process, and none that connections are given.
///
/// # Errors
/// When there is none.
pub fn free_address() -> anyhow::Result<String> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let ports = PORTS.end - PORTS.start;
    let begin = std::process::id().wrapping_mul(64);
    (0..ports)
        .map(|_| begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % ports)
        .map(|at| format!("127.0.0.1:{}", PORTS.start + at))
        .find(|address| TcpListener::bind(address).is_ok())
        .context("no port of loopback is free")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_given_once() {
        let given: std::collections::BTreeSet<_> =
            (0..500).map(|_| free_address().expect("a free port")).collect();
        assert_eq!(given.len(), 500);
    }

    #[test]
    fn times_are_read_behind_any_name() {
        let stat = "7 (a) b) R 1 7 7 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 1 0 1 1 1";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("7 (a"), None);
    }

    #[test]
    fn a_process_is_measured_and_killed() {
        let folder = tempfile::tempdir().expect("a folder");
        let launch = Launch {
            line: vec!["sleep".to_owned(), "60".to_owned()],
            log: folder.path().join("log"),
        };
        let mut process = Process::start(launch).expect("sleep is there");
        assert!(process.usage().expect("it runs").resident_bytes > 0);
        assert!(peak_bytes_of(process.child.id()).expect("it runs") > 0);
        process.kill().expect("it is killed");
        assert!(process.usage().is_err());
        process.restart().expect("it is started again");
        assert!(process.usage().is_ok());
    }
}
