//! Folders, compiled probes and conversations with them, for this module's tests.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::{env, fs, process};

use super::{Artifact, FaultControl, compile, compile_faults, compiler};

const PROBE_SOURCE: &str = include_str!("../../native/tests/probe.c");

/// A folder that goes when this value does.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("jepsen-native-{}-{number}", process::id()));
        fs::create_dir_all(&path).expect("make a folder");
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether there is a C compiler; says so when there is none.
pub(super) fn have_compiler() -> bool {
    let found = compiler();
    if let Err(missing) = &found {
        println!("skipped: {missing}");
    }
    found.is_ok()
}

/// The tools and the probe, in a folder of their own.
pub(super) struct Compiled {
    pub(super) library: PathBuf,
    probe: PathBuf,
    _folder: Folder,
}

/// Compiles them unless another test that is still running did.
pub(super) fn compiled() -> Arc<Compiled> {
    static COMPILED: Mutex<Weak<Compiled>> = Mutex::new(Weak::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(alive) = compiled.upgrade() {
        return alive;
    }
    let folder = Folder::new();
    let made = Arc::new(Compiled {
        library: compile_faults(folder.path()).expect("compile the library"),
        probe: compile(PROBE_SOURCE, "probe", Artifact::Program, folder.path()).expect("compile the probe"),
        _folder: folder,
    });
    *compiled = Arc::downgrade(&made);
    made
}

/// A running probe: native/tests/probe.c.
pub(super) struct Probe {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _compiled: Arc<Compiled>,
}

impl Probe {
    /// Starts it under the faults of `control`, with `folder`/file open.
    pub(super) fn start(control: &FaultControl, folder: &Path) -> Self {
        let compiled = compiled();
        let mut child = Command::new(&compiled.probe)
            .arg(folder.join("file"))
            .envs(control.environment(&compiled.library, folder))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the probe");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self {
            child,
            input,
            output,
            _compiled: compiled,
        }
    }

    /// Sends a command and returns the answer.
    pub(super) fn ask(&mut self, command: &str) -> String {
        self.send(command);
        self.answer()
    }

    pub(super) fn send(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("the probe runs");
    }

    pub(super) fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the probe answers");
        line.trim_end().to_owned()
    }

    pub(super) fn number(&mut self, command: &str) -> i64 {
        self.ask(command).parse().expect("a number")
    }

    /// SIGKILL.
    pub(super) fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Waits for its end.
    pub(super) fn wait(mut self) -> process::ExitStatus {
        self.child.wait().expect("wait")
    }
}
