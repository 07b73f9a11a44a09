//! One host: its folder, its process, and what was done to it.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use anyhow::{Context, bail};

use super::shell;
use crate::native::FaultControl;

/// A signal that a host may get; SIGKILL has its own call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGSTOP: the process stands still.
    Stop,
    /// SIGCONT: it goes on.
    Continue,
    /// SIGTERM: it is asked to end.
    Terminate,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Stop => "-STOP",
            Self::Continue => "-CONT",
            Self::Terminate => "-TERM",
        }
    }
}

/// A host, whether it runs or not.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) number: usize,
    /// What the others are told.
    pub(super) address: String,
    /// What it binds.
    pub(super) listen: String,
    pub(super) zone: String,
    /// Holds `data`, `host.log` and `faults`.
    pub(super) folder: PathBuf,
    /// The hosts it is told to join; only the first host of a cluster has none, and only while it has its disk.
    pub(super) join: Vec<String>,
    /// Whether an end that nobody asked for is part of a fault.
    pub(super) may_end: bool,
    pub(super) paused: bool,
    /// Whether it was started with fail points, or asked to end: healing means a new process.
    pub(super) must_restart: bool,
    /// Who it was when its disk was spoiled, until another has replaced that.
    pub(super) spoiled: Option<u64>,
    /// Whether the spoiled disk was emptied already.
    pub(super) renewed: bool,
    /// Who it is, once its disk gave back what was not there: what it wrote since may be wrong, and shows later.
    pub(super) doubted: Option<u64>,
    /// What the preloaded library is steered by.
    pub(super) control: Option<Arc<FaultControl>>,
    /// How many processes had mapped the control file when the present one was started.
    pub(super) attached_before: u64,
    pub(super) child: Option<Child>,
}

/// How hosts are started: the same for all.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) program: Vec<String>,
    pub(super) config: PathBuf,
    pub(super) environment: Vec<(String, String)>,
    pub(super) preload: Option<PathBuf>,
}

impl Host {
    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("host.log")
    }

    /// Starts the process behind `prefix`, which must end in an exec of what follows it.
    pub(super) fn start(
        &mut self,
        launch: &Launch,
        prefix: &[String],
        environment: &[(String, String)],
    ) -> anyhow::Result<u32> {
        if self.child.is_some() {
            bail!("host {} runs already", self.number);
        }
        // The library looks for the folder as soon as it is loaded.
        std::fs::create_dir_all(self.data())?;
        if let Some(control) = &self.control {
            self.attached_before = control.counters()?.attached;
        }
        let log = File::options().create(true).append(true).open(self.log())?;
        let line = self.command_line(launch, prefix);
        let (program, arguments) = line.split_first().context("no program for hosts")?;
        let child = Command::new(program)
            .args(arguments)
            .env_remove("RUST_LOG")
            .envs(launch.environment.iter().cloned())
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start host {} as {line:?}", self.number))?;
        let pid = child.id();
        self.child = Some(child);
        self.paused = false;
        self.must_restart = !environment.is_empty();
        Ok(pid)
    }

    fn command_line(&self, launch: &Launch, prefix: &[String]) -> Vec<String> {
        let mut line = prefix.to_vec();
        // `env` behind the prefix, so that the library is not loaded into what the prefix runs.
        if let (Some(library), Some(control)) = (&launch.preload, &self.control) {
            line.push("env".to_owned());
            let variables = control.environment(library, &self.data());
            line.extend(variables.map(|(name, value)| format!("{name}={}", value.display())));
        }
        line.extend(launch.program.iter().cloned());
        line.extend([
            "serve".to_owned(),
            format!("--config={}", launch.config.display()),
            format!("--data-dir={}", self.data().display()),
            format!("--listen={}", self.listen),
            format!("--advertise={}", self.address),
            format!("--zone={}", self.zone),
        ]);
        if !self.join.is_empty() {
            line.push(format!("--join={}", self.join.join(",")));
        }
        line
    }

    /// The process id, while there is a process.
    pub(super) fn pid(&mut self) -> Option<u32> {
        self.running()
            .then(|| self.child.as_ref().map(Child::id))
            .flatten()
    }

    /// Whether there is a process, paused or not.
    pub(super) fn running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// How the process ended, if it ended without being killed here. Asked again, it says nothing.
    pub(super) fn take_end(&mut self) -> Option<ExitStatus> {
        let ended = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(ended)
    }

    /// SIGKILL; true if there was a process to kill.
    pub(super) fn kill(&mut self) -> anyhow::Result<bool> {
        let ran = self.running();
        if let Some(mut child) = self.child.take() {
            if ran {
                child
                    .kill()
                    .with_context(|| format!("killing host {}", self.number))?;
            }
            child.wait()?;
        }
        self.paused = false;
        Ok(ran)
    }

    /// Sends a signal; false if there is no process.
    pub(super) fn signal(&mut self, signal: Signal) -> anyhow::Result<bool> {
        let Some(pid) = self.pid() else { return Ok(false) };
        shell::run("kill", [signal.name(), &pid.to_string()])?;
        match signal {
            Signal::Stop => self.paused = true,
            Signal::Continue => self.paused = false,
            Signal::Terminate => self.must_restart = true,
        }
        Ok(true)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
