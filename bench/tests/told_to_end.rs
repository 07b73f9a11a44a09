//! A measurement that is told to end leaves neither processes nor files behind.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Of a cluster that is watched.
const HOSTS: usize = 3;

/// The measurement, and whatever it started, end with this.
struct Running<'a> {
    bench: Child,
    data: &'a Path,
}

impl Running<'_> {
    fn hosts(&self) -> Vec<Pid> {
        let mut hosts = processes_that_name(self.data);
        hosts.retain(|pid| *pid != Pid::from_child(&self.bench));
        hosts
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // What has ended cannot be killed.
        let _ = self.bench.kill();
        let _ = self.bench.wait();
        for host in self.hosts() {
            let _ = kill_process(host, Signal::KILL);
        }
    }
}

/// The processes whose command line has this path in it.
fn processes_that_name(path: &Path) -> Vec<Pid> {
    let path = path.to_str().expect("a path of a test");
    let entries = std::fs::read_dir("/proc").expect("the processes");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let names = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(path)
    };
    pids.filter(names).filter_map(Pid::from_raw).collect()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} until {what}");
        std::thread::sleep(LOOK_PAUSE);
    }
}

#[test]
fn nothing_is_left_of_a_measurement_that_was_told_to_end() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let bench = Command::new(env!("CARGO_BIN_EXE_bench"))
            .args(["watch", "--seconds", "600", "--data"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program");
        let mut running = Running { bench, data: &data };
        wait_until("the hosts run", || running.hosts().len() == HOSTS);
        kill_process(Pid::from_child(&running.bench), signal).expect("it runs");
        let mut ended = None;
        wait_until("it has ended", || {
            ended = running.bench.try_wait().expect("a child of this process");
            ended.is_some()
        });
        assert!(ended.is_some_and(|status| status.code() == Some(1)), "{ended:?}");
        assert_eq!(running.hosts(), Vec::new(), "hosts run on after {signal:?}");
        let left: Vec<_> = std::fs::read_dir(&data).expect("the folder").collect();
        assert!(left.is_empty(), "{left:?} is left after {signal:?}");
    }
}
