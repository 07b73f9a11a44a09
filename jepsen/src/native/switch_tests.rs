use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::native::testing::{Folder, have_compiler};
use crate::native::{Artifact, compile, compile_switch};

const TRAFFIC_SOURCE: &str = include_str!("../../native/tests/traffic.c");

/// Two namespaces on a switch; all of it goes with this value.
struct Bench {
    // The switch goes before the namespaces, and its folder after it.
    _switch: Switch,
    control: SwitchControl,
    traffic: PathBuf,
    ports: Namespaces,
    _folder: Folder,
}

struct Namespaces(Vec<Port>);

impl Namespaces {
    fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let bench = MADE.fetch_add(1, Ordering::Relaxed);
        let mut made = Self(Vec::new());
        for host in 1..=2 {
            let namespace = format!("jepsen-test-{}-{bench}-{host}", process::id());
            ip(&["netns", "add", &namespace]).expect("add a namespace");
            made.0.push(Port {
                namespace,
                address: Ipv4Addr::new(10, 77, 0, host),
            });
        }
        made
    }

    fn bring_up(&self) {
        for port in &self.0 {
            let address = format!("{}/24", port.address);
            ip(&["-n", &port.namespace, "addr", "add", &address, "dev", DEVICE]).expect("add an address");
            ip(&["-n", &port.namespace, "link", "set", DEVICE, "up"]).expect("bring the device up");
        }
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for port in &self.0 {
            let _ = ip(&["netns", "del", &port.namespace]);
        }
    }
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    let told = Command::new("ip").args(words).output()?;
    ensure!(
        told.status.success(),
        "ip {words:?}: {}",
        String::from_utf8_lossy(&told.stderr)
    );
    Ok(())
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:\t0\t"))
}

/// What came back of a number of datagrams.
#[derive(Debug)]
struct Answers {
    all: u64,
    distinct: u64,
    late: u64,
    least: Duration,
    median: Duration,
}

impl Bench {
    fn new() -> Option<Self> {
        if !have_compiler() {
            return None;
        }
        if !is_root() {
            println!("skipped: only root can make network namespaces");
            return None;
        }
        let folder = Folder::new();
        let program = compile_switch(folder.path()).expect("compile the switch");
        let traffic = compile(TRAFFIC_SOURCE, "traffic", Artifact::Program, folder.path()).expect("compile");
        let control = SwitchControl::open(&folder.path().join("control")).expect("make the control file");
        let ports = Namespaces::new();
        let switch = Switch::start(&program, &control, &ports.0, 7).expect("start the switch");
        ports.bring_up();
        Some(Self {
            _switch: switch,
            control,
            traffic,
            ports,
            _folder: folder,
        })
    }

    fn run(&self, host: usize, words: &[&str]) -> Child {
        Command::new("ip")
            .args(["netns", "exec", &self.ports.0[host].namespace])
            .arg(&self.traffic)
            .args(words)
            .stdout(Stdio::piped())
            .spawn()
            .expect("start traffic")
    }

    /// Starts the second host's side and waits until it listens.
    fn serve(&self, what: &str) -> (Child, BufReader<process::ChildStdout>) {
        let mut child = self.run(1, &[what, &self.ports.0[1].address.to_string()]);
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        (child, output)
    }

    /// The first host asks the second.
    fn ask(&self, count: u64, gap_us: u64) -> Answers {
        let (mut echo, _output) = self.serve("echo");
        let to = self.ports.0[1].address.to_string();
        let asked = self.run(0, &["ask", &to, &count.to_string(), &gap_us.to_string()]);
        let told = asked.wait_with_output().expect("answers");
        echo.kill().expect("kill");
        echo.wait().expect("wait");
        let told = String::from_utf8(told.stdout).expect("text");
        let numbers: Vec<u64> = told
            .split_whitespace()
            .map(|word| word.parse().expect("a number"))
            .collect();
        Answers {
            all: numbers[0],
            distinct: numbers[1],
            late: numbers[2],
            least: Duration::from_micros(numbers[3]),
            median: Duration::from_micros(numbers[4]),
        }
    }

    fn set(&self, from: usize, to: usize, link: Link) {
        self.control.pair(from, to).set(link).expect("set a link");
    }
}

#[test]
fn a_perfect_link_delivers_everything_in_order_and_at_once() {
    let Some(bench) = Bench::new() else { return };
    let answers = bench.ask(500, 500);
    assert_eq!(
        (answers.all, answers.distinct, answers.late),
        (500, 500, 0),
        "{answers:?}"
    );
    assert!(answers.median < Duration::from_millis(20), "{answers:?}");
    let there = bench.control.pair(0, 1).counters().expect("counters");
    assert_eq!(
        (there.lost, there.cut, there.delayed, there.refused),
        (0, 0, 0, 0)
    );
    assert!(there.forwarded >= 500);
}

#[test]
fn each_direction_is_delayed_by_itself() {
    let Some(bench) = Bench::new() else { return };
    let slow = |ms| Link {
        delay: Duration::from_millis(ms),
        jitter: Duration::from_millis(5),
        ..Link::default()
    };
    bench.set(0, 1, slow(30));
    let answers = bench.ask(50, 1000);
    assert!(answers.least >= Duration::from_millis(30), "{answers:?}");
    assert_eq!((answers.all, answers.late), (50, 0), "jitter keeps the order");
    bench.set(1, 0, slow(60));
    assert!(bench.ask(50, 1000).least >= Duration::from_millis(90));
    assert!(bench.control.counters().expect("counters").delayed >= 150);
    bench.control.heal().expect("heal");
    assert!(bench.ask(50, 1000).least < Duration::from_millis(30));
}

#[test]
fn one_direction_is_cut_and_the_other_carries_on() {
    let Some(bench) = Bench::new() else { return };
    bench.set(
        1,
        0,
        Link {
            reachability: Reachability::Cut,
            ..Link::default()
        },
    );
    assert_eq!(bench.ask(20, 1000).all, 0);
    let there = bench.control.pair(0, 1).counters().expect("counters");
    let back = bench.control.pair(1, 0).counters().expect("counters");
    assert!(there.forwarded >= 20 && there.cut == 0, "{there:?}");
    assert!(back.forwarded == 0 && back.cut >= 20, "{back:?}");
    bench.control.heal().expect("heal");
    assert_eq!(bench.ask(20, 1000).all, 20);
}

#[test]
fn packets_are_lost_repeated_and_overtaken_in_the_share_asked_for() {
    let Some(bench) = Bench::new() else { return };
    bench.set(
        0,
        1,
        Link {
            loss: 0.3,
            ..Link::default()
        },
    );
    let answers = bench.ask(1000, 200);
    assert!((600..800).contains(&answers.all), "{answers:?}");
    bench.set(
        0,
        1,
        Link {
            duplicate: 0.2,
            ..Link::default()
        },
    );
    let answers = bench.ask(1000, 200);
    assert!(
        answers.distinct == 1000 && (1100..1300).contains(&answers.all),
        "{answers:?}"
    );
    bench.set(
        0,
        1,
        Link {
            reorder: 0.2,
            ..Link::default()
        },
    );
    let answers = bench.ask(1000, 200);
    assert!(
        answers.distinct == 1000 && (50..400).contains(&answers.late),
        "{answers:?}"
    );
    let counters = bench.control.counters().expect("counters");
    assert!(counters.lost > 0 && counters.duplicated > 0 && counters.reordered > 0);
}

#[test]
fn a_stream_passes_whole() {
    let Some(bench) = Bench::new() else { return };
    let bytes = 50 << 20;
    let (mut sink, mut output) = bench.serve("sink");
    let to = bench.ports.0[1].address.to_string();
    let flood = bench.run(0, &["flood", &to, &bytes.to_string()]);
    assert!(flood.wait_with_output().expect("flood").status.success());
    let mut rate = String::new();
    output.read_line(&mut rate).expect("a rate");
    sink.wait().expect("wait");
    println!("{} MB/s", rate.trim());
    assert!(bench.control.pair(0, 1).counters().expect("counters").bytes > bytes);
}

#[test]
fn namespaces_that_are_missing_are_told() {
    let Some(bench) = Bench::new() else { return };
    let control = SwitchControl::open(&bench._folder.path().join("other")).expect("make the control file");
    let nowhere = Port {
        namespace: "jepsen-test-nowhere".to_owned(),
        address: Ipv4Addr::LOCALHOST,
    };
    let program = bench._folder.path().join("switch");
    let refused = Switch::start(&program, &control, &[nowhere], 0).expect_err("started");
    assert!(refused.to_string().contains("ended at its start"), "{refused}");
    assert!(
        bench
            .control
            .pair(0, 1)
            .set(Link {
                loss: 2.0,
                ..Link::default()
            })
            .is_err()
    );
}
