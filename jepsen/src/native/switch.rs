//! The network between hosts: a switch whose every link misbehaves as it is told.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::control_file::ControlFile;

const MAGIC: [u8; 8] = *b"JEPSWTCH";
const VERSION: u32 = 1;
const FILE_BYTES: u64 = 36_864;

// Where things lie, as told at the top of native/switch.c.
const READY: u64 = 12;
const SEED: u64 = 16;
const LINKS: u64 = 64;
const LINK_BYTES: u64 = 32;
const COUNTERS: u64 = 16_384;
const COUNTER_BYTES: u64 = 64;
const STRANGERS: u64 = 32_768;
const PORTS_MAX: usize = 16;

const START_MAX: Duration = Duration::from_secs(10);
const MILLION: f64 = 1_000_000.0;

/// The name of the device that the switch makes in every namespace.
pub const DEVICE: &str = "jepsen0";

/// One plug of the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// A network namespace with a name: `ip netns add NAME`.
    pub namespace: String,
    /// The address that the harness gives to [`DEVICE`] in there.
    pub address: Ipv4Addr,
}

/// Whether a link carries anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reachability {
    /// It does.
    #[default]
    Open,
    /// It drops every packet.
    Cut,
}

/// How packets fare from one port to another; the way back has a link of its own. The default is a perfect one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Link {
    /// Whether anything passes.
    pub reachability: Reachability,
    /// Share of packets lost, from 0 to 1.
    pub loss: f64,
    /// How long a packet takes; to the microsecond.
    pub delay: Duration,
    /// Up to so much more, drawn for each packet. The order is kept.
    pub jitter: Duration,
    /// Share of packets held back until others overtook them.
    pub reorder: f64,
    /// Share of packets that arrive twice.
    pub duplicate: f64,
}

/// What became of the packets of one link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Handed to the receiver.
    pub forwarded: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Dropped because the link is cut.
    pub cut: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Given a delay.
    pub delayed: u64,
    /// Held back.
    pub reordered: u64,
    /// Sent once more.
    pub duplicated: u64,
    /// Too many on their way, or the receiver's device was down.
    pub refused: u64,
}

/// The control file of a switch.
#[derive(Debug)]
pub struct SwitchControl {
    file: ControlFile,
}

impl SwitchControl {
    /// Opens the control file at `path`, or makes one of perfect links.
    ///
    /// # Errors
    /// When it cannot be made, or is not a control file of this version.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = ControlFile::open(path, MAGIC, VERSION, FILE_BYTES)?;
        Ok(Self { file })
    }

    /// The link from one port to another, by their places in the list that the switch was started with.
    ///
    /// # Panics
    /// When a place is past the most ports a switch has.
    pub fn pair(&self, from: usize, to: usize) -> Pair<'_> {
        assert!(from < PORTS_MAX && to < PORTS_MAX, "no pair {from} to {to}");
        let index = (PORTS_MAX * from + to) as u64;
        Pair {
            file: &self.file,
            index,
        }
    }

    /// Makes every link perfect. Packets on their way still take their time.
    ///
    /// # Errors
    /// When the control file cannot be written.
    pub fn heal(&self) -> anyhow::Result<()> {
        let links = LINK_BYTES as usize * PORTS_MAX * PORTS_MAX;
        self.file.write(LINKS, &vec![0; links])
    }

    /// The sum over all links.
    ///
    /// # Errors
    /// When the control file cannot be read.
    pub fn counters(&self) -> anyhow::Result<LinkCounters> {
        let mut sum = LinkCounters::default();
        for from in 0..PORTS_MAX {
            for to in 0..PORTS_MAX {
                sum.add(self.pair(from, to).counters()?);
            }
        }
        Ok(sum)
    }

    /// Packets that were sent to no port's address, or were not IPv4.
    ///
    /// # Errors
    /// When the control file cannot be read.
    pub fn strangers(&self) -> anyhow::Result<u64> {
        self.file.u64(STRANGERS)
    }
}

/// One link of a switch: from one port to another, not back.
#[derive(Debug)]
pub struct Pair<'a> {
    file: &'a ControlFile,
    index: u64,
}

impl Pair<'_> {
    /// Sets how packets fare from now on.
    ///
    /// # Errors
    /// When a share is not within 0 and 1, a time is over an hour, or the control file cannot be written.
    pub fn set(&self, link: Link) -> anyhow::Result<()> {
        let words = [
            u32::from(link.reachability == Reachability::Cut),
            ppm(link.loss)?,
            micros(link.delay)?,
            micros(link.jitter)?,
            ppm(link.reorder)?,
            ppm(link.duplicate)?,
        ];
        let at = LINKS + LINK_BYTES * self.index;
        for (place, word) in (0_u64..).zip(words) {
            self.file.write_u32(at + 4 * place, word)?;
        }
        Ok(())
    }

    /// What became of its packets.
    ///
    /// # Errors
    /// When the control file cannot be read.
    pub fn counters(&self) -> anyhow::Result<LinkCounters> {
        let counter = |place: u64| self.file.u64(COUNTERS + COUNTER_BYTES * self.index + 8 * place);
        Ok(LinkCounters {
            forwarded: counter(0)?,
            bytes: counter(1)?,
            cut: counter(2)?,
            lost: counter(3)?,
            delayed: counter(4)?,
            reordered: counter(5)?,
            duplicated: counter(6)?,
            refused: counter(7)?,
        })
    }
}

impl LinkCounters {
    fn add(&mut self, other: Self) {
        self.forwarded += other.forwarded;
        self.bytes += other.bytes;
        self.cut += other.cut;
        self.lost += other.lost;
        self.delayed += other.delayed;
        self.reordered += other.reordered;
        self.duplicated += other.duplicated;
        self.refused += other.refused;
    }
}

/// A running switch. It ends, and its devices go, when this value does.
#[derive(Debug)]
pub struct Switch {
    child: Child,
}

impl Switch {
    /// Starts `program` ([`super::compile_switch`]) and waits until every port has its device. Addresses and `up` are
    /// left to the caller. Needs root.
    ///
    /// # Errors
    /// When there are no ports or too many, a namespace is missing, or the kernel makes no TUN devices.
    pub fn start(program: &Path, control: &SwitchControl, ports: &[Port], seed: u64) -> anyhow::Result<Self> {
        ensure!(
            (1..=PORTS_MAX).contains(&ports.len()),
            "a switch has 1 to {PORTS_MAX} ports"
        );
        control.file.write_u32(READY, 0)?;
        control.file.write_u64(SEED, seed)?;
        let child = Command::new(program)
            .arg(control.file.path())
            .args(
                ports
                    .iter()
                    .map(|port| format!("{}={}", port.namespace, port.address)),
            )
            .stdin(Stdio::piped())
            .spawn()
            .with_context(|| format!("start the switch {}", program.display()))?;
        let mut switch = Self { child };
        switch.wait_until_ready(control)?;
        Ok(switch)
    }

    /// The switch's process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_ready(&mut self, control: &SwitchControl) -> anyhow::Result<()> {
        let started = Instant::now();
        while control.file.u32(READY)? == 0 {
            if let Some(status) = self.child.try_wait()? {
                bail!("the switch ended at its start: {status}");
            }
            ensure!(started.elapsed() < START_MAX, "the switch does not come up");
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ppm(share: f64) -> anyhow::Result<u32> {
    ensure!((0.0..=1.0).contains(&share), "a share of {share}");
    Ok((share * MILLION).round() as u32)
}

fn micros(time: Duration) -> anyhow::Result<u32> {
    ensure!(time <= Duration::from_secs(3600), "a packet cannot take {time:?}");
    Ok(u32::try_from(time.as_micros())?)
}

#[cfg(test)]
#[path = "switch_tests.rs"]
mod tests;
