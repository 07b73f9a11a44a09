//! Control of the library that is preloaded into a host, and what it counted.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};

use super::control_file::ControlFile;

const MAGIC: [u8; 8] = *b"JEPFAULT";
const VERSION: u32 = 1;
const FILE_BYTES: u64 = 4096;

// Where the orders and the counters lie, as told at the top of native/faults.c.
const HOLD: u64 = 16;
const SYNC: u64 = 20;
const SPACE: u64 = 24;
const SYNC_FAILURE: u64 = 28;
const SYNC_DELAY_NS: u64 = 32;
const SYNC_ERRORS_MAX: u64 = 40;
const WRITE_ERRORS_MAX: u64 = 48;
const FLIP_ONE_IN: u64 = 56;
const SEED: u64 = 64;
const CUT_SEED: u64 = 72;
const CUT_ORDER: u64 = 80;
const CLOCK_ORDER: u64 = 84;
const WALL_FROM_NS: u64 = 88;
const WALL_AHEAD_NS: u64 = 96;
const WALL_PPM: u64 = 104;
const MONO_AHEAD_NS: u64 = 112;
const MONO_PPM: u64 = 120;
const CUT_MOMENT: u64 = 128;
const COUNTERS: u64 = 2048;

/// A clock slower than this stands still; one faster than this overflows within a day.
const PPM_LIMITS: std::ops::RangeInclusive<i64> = -900_000..=100_000_000;

/// What happens to writes that were not synced yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnsyncedWrites {
    /// The kernel has them at once: they survive a kill.
    #[default]
    WrittenThrough,
    /// Kept in the process until it syncs: a kill is a power cut.
    Held,
}

/// What a sync that reports success did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Syncs {
    /// It wrote everything out.
    #[default]
    Honest,
    /// Nothing: held writes stay held.
    Lying,
}

/// Room on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Space {
    /// Writes, allocations and growth get ENOSPC.
    Full,
    /// There is room.
    #[default]
    Free,
}

/// What becomes of held writes when their sync fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncFailure {
    /// They stay held: a later sync writes them out.
    #[default]
    KeepsWrites,
    /// Reads go on showing them, no later sync writes them: what Linux does with pages it failed to write.
    DropsWrites,
}

/// When the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutMoment {
    /// At once, whatever the process is doing. Between two commits there is nothing to lose.
    Now,
    /// In place of the next sync that has something to write: what it was to make durable is what the cut tears.
    NextSync,
}

/// How one clock of a host differs from the truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// It shows the truth. A monotonic clock keeps what it is ahead and runs at the true rate.
    #[default]
    True,
    /// It runs at another rate from now on, without a step.
    Rate {
        /// Millionths faster than the truth; below zero, slower.
        ppm: i64,
    },
    /// It steps forward, and keeps its rate.
    JumpForward(Duration),
    /// It steps back, and keeps its rate: the wall clock only.
    JumpBack(Duration),
}

/// Which clocks an order bends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WallOrMonotonic {
    Wall,
    Monotonic,
}

/// What the preloaded library did since the control file was made, over all processes that used the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Processes that mapped the control file.
    pub attached: u64,
    /// Files below the folder that were opened.
    pub files: u64,
    /// Syncs of such files.
    pub syncs: u64,
    /// Of those, delayed ones.
    pub syncs_delayed: u64,
    /// Of those, answered with EIO.
    pub sync_errors: u64,
    /// Of those, answered with success though nothing was written out.
    pub sync_lies: u64,
    /// Writes and changes of length taken into memory.
    pub writes_held: u64,
    /// Of those, written out whole.
    pub writes_settled: u64,
    /// Of those, thrown away by a failed sync, a power cut or the removal of the file.
    pub writes_dropped: u64,
    /// Of those, written in part by a power cut.
    pub writes_torn: u64,
    /// Writes answered with EIO.
    pub write_errors: u64,
    /// Writes, allocations and growth answered with ENOSPC.
    pub space_errors: u64,
    /// Reads with one bit wrong.
    pub reads_flipped: u64,
    /// Clock reads that were not the truth.
    pub clock_bent: u64,
    /// Waits with a limit that was not the truth.
    pub waits_bent: u64,
    /// Power cuts carried out.
    pub cuts: u64,
    /// The inode of the file whose sync was answered with EIO last.
    pub failed_inode: u64,
}

impl Counters {
    /// Held writes of which nothing became: in memory now, or lost with a process that was killed.
    pub fn writes_unsettled(&self) -> u64 {
        self.writes_held
            - (self.writes_settled + self.writes_dropped + self.writes_torn).min(self.writes_held)
    }
}

/// The faults of one host: one control file, kept over restarts of the host.
///
/// An order works from the next call of the host on. Nothing is waited for; [`FaultControl::counters`] tells.
#[derive(Debug)]
pub struct FaultControl {
    file: ControlFile,
}

impl FaultControl {
    /// Opens the control file at `path`, or makes one that orders no faults.
    ///
    /// # Errors
    /// When it cannot be made, or is not a control file of this version.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = ControlFile::open(path, MAGIC, VERSION, FILE_BYTES)?;
        Ok(Self { file })
    }

    /// The environment with which a host obeys this file: `library` is [`super::compile_faults`], and only files below
    /// `folder`, which must exist by then, are touched.
    pub fn environment(&self, library: &Path, folder: &Path) -> [(&'static str, OsString); 3] {
        [
            ("LD_PRELOAD", library.into()),
            ("JEPSEN_FAULTS", self.file.path().into()),
            ("JEPSEN_FAULTS_FOLDER", folder.into()),
        ]
    }

    /// Delays every sync by this much; zero ends it.
    ///
    /// # Errors
    /// When the control file cannot be written, here and below.
    pub fn slow_sync(&self, delay: Duration) -> anyhow::Result<()> {
        self.file
            .write_u64(SYNC_DELAY_NS, u64::try_from(delay.as_nanos())?)
    }

    /// Lets the next sync fail with EIO, once. Only held writes can be dropped by it.
    ///
    /// # Errors
    /// See [`FaultControl::slow_sync`].
    pub fn fail_next_sync(&self, failure: SyncFailure) -> anyhow::Result<()> {
        let drops = failure == SyncFailure::DropsWrites;
        self.file.write_u32(SYNC_FAILURE, u32::from(drops))?;
        self.file
            .write_u64(SYNC_ERRORS_MAX, self.counters()?.sync_errors + 1)
    }

    /// Lets the next `count` writes fail with EIO; zero calls them off.
    ///
    /// # Errors
    /// See [`FaultControl::slow_sync`].
    pub fn fail_next_writes(&self, count: u64) -> anyhow::Result<()> {
        self.file
            .write_u64(WRITE_ERRORS_MAX, self.counters()?.write_errors + count)
    }

    /// Fills the disk, or empties it again.
    ///
    /// # Errors
    /// See [`FaultControl::slow_sync`].
    pub fn set_space(&self, space: Space) -> anyhow::Result<()> {
        self.file.write_u32(SPACE, u32::from(space == Space::Full))
    }

    /// Says what becomes of writes until they are synced. What is held when this ends is written out by the file's
    /// next change or sync.
    ///
    /// # Errors
    /// See [`FaultControl::slow_sync`].
    pub fn set_unsynced(&self, writes: UnsyncedWrites) -> anyhow::Result<()> {
        self.file
            .write_u32(HOLD, u32::from(writes == UnsyncedWrites::Held))
    }

    /// Makes syncs honest or lying. A lie loses something only while writes are held.
    ///
    /// # Errors
    /// See [`FaultControl::slow_sync`].
    pub fn set_syncs(&self, syncs: Syncs) -> anyhow::Result<()> {
        self.file.write_u32(SYNC, u32::from(syncs == Syncs::Lying))
    }

    /// Flips one bit in one of `reads` reads, drawn from `seed`; zero reads: in none.
    ///
    /// # Errors
    /// See [`FaultControl::slow_sync`].
    pub fn flip_one_read_in(&self, reads: u64, seed: u64) -> anyhow::Result<()> {
        self.file.write_u64(SEED, seed)?;
        self.file.write_u64(FLIP_ONE_IN, reads)
    }

    /// Cuts the power: of every held write some, all or no sectors reach the disk, drawn from `seed`, and the process
    /// is killed. Wait for its end: `Now` takes a few milliseconds, `NextSync` comes when the process syncs. A process
    /// that has not mapped the file yet, as [`Counters::attached`] tells, is spared.
    ///
    /// # Errors
    /// See [`FaultControl::slow_sync`].
    pub fn cut_power(&self, moment: CutMoment, seed: u64) -> anyhow::Result<()> {
        self.file
            .write_u32(CUT_MOMENT, u32::from(moment == CutMoment::NextSync))?;
        self.file.write_u64(CUT_SEED, seed)?;
        let order = self.file.u32(CUT_ORDER)?.wrapping_add(1);
        self.file.write_u32(CUT_ORDER, order)
    }

    /// Bends the wall clock: the date. It keeps its error over a restart, as a machine's would.
    ///
    /// # Errors
    /// When the control file cannot be written, the rate is out of bounds or the jump out of 64 bits of nanoseconds.
    pub fn set_wall_clock(&self, clock: Clock) -> anyhow::Result<()> {
        self.bend(WallOrMonotonic::Wall, clock)
    }

    /// Bends the monotonic clock: what intervals, time limits and sleeps are measured on. It never steps back.
    ///
    /// # Errors
    /// As [`FaultControl::set_wall_clock`], and when told to jump back.
    pub fn set_monotonic_clock(&self, clock: Clock) -> anyhow::Result<()> {
        ensure!(
            !matches!(clock, Clock::JumpBack(_)),
            "a monotonic clock cannot jump back"
        );
        self.bend(WallOrMonotonic::Monotonic, clock)
    }

    /// Ends all faults but two: the monotonic clock stays ahead, and bytes that are lost are lost.
    ///
    /// # Errors
    /// See [`FaultControl::slow_sync`].
    pub fn heal(&self) -> anyhow::Result<()> {
        let done = self.counters()?;
        self.slow_sync(Duration::ZERO)?;
        self.file.write_u64(SYNC_ERRORS_MAX, done.sync_errors)?;
        self.fail_next_writes(0)?;
        self.set_space(Space::Free)?;
        self.set_unsynced(UnsyncedWrites::WrittenThrough)?;
        self.set_syncs(Syncs::Honest)?;
        self.flip_one_read_in(0, 0)?;
        if self.file.u32(CLOCK_ORDER)? == 0 {
            return Ok(());
        }
        self.set_wall_clock(Clock::True)?;
        self.set_monotonic_clock(Clock::True)
    }

    /// What was done so far.
    ///
    /// # Errors
    /// When the control file cannot be read.
    pub fn counters(&self) -> anyhow::Result<Counters> {
        let counter = |index: u64| self.file.u64(COUNTERS + index * 8);
        Ok(Counters {
            attached: counter(0)?,
            files: counter(1)?,
            syncs: counter(2)?,
            syncs_delayed: counter(3)?,
            sync_errors: counter(4)?,
            sync_lies: counter(5)?,
            writes_held: counter(6)?,
            writes_settled: counter(7)?,
            writes_dropped: counter(8)?,
            writes_torn: counter(9)?,
            write_errors: counter(10)?,
            space_errors: counter(11)?,
            reads_flipped: counter(12)?,
            clock_bent: counter(13)?,
            waits_bent: counter(14)?,
            cuts: counter(15)?,
            failed_inode: counter(17)?,
        })
    }

    /// Writes one clock's fields between two steps of the order number: odd, they are not to be read.
    fn bend(&self, which: WallOrMonotonic, clock: Clock) -> anyhow::Result<()> {
        let order = self.file.u32(CLOCK_ORDER)?.wrapping_add(1) | 1;
        self.file.write_u32(CLOCK_ORDER, order)?;
        let bent = match which {
            WallOrMonotonic::Wall => self.bend_wall(clock),
            WallOrMonotonic::Monotonic => self.bend_monotonic(clock),
        };
        // Zero means that the clocks were never bent, so the number skips it.
        self.file.write_u32(CLOCK_ORDER, order.wrapping_add(1).max(2))?;
        bent
    }

    /// Starts a new line at the present truth, where the old line has come to by now.
    fn bend_wall(&self, clock: Clock) -> anyhow::Result<()> {
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
        let rate = self.file.i64(WALL_PPM)?;
        let elapsed = now - self.file.i64(WALL_FROM_NS)?;
        let drift = i64::try_from(i128::from(elapsed) * i128::from(rate) / 1_000_000)?;
        let ahead = self.file.i64(WALL_AHEAD_NS)? + drift;
        let (ahead, rate) = match clock {
            Clock::True => (Some(0), 0),
            Clock::Rate { ppm } => (Some(ahead), within_limits(ppm)?),
            Clock::JumpForward(by) => (ahead.checked_add(nanoseconds(by)?), rate),
            Clock::JumpBack(by) => (ahead.checked_sub(nanoseconds(by)?), rate),
        };
        let ahead = ahead.context("the wall clock would leave 64 bits of nanoseconds")?;
        self.file.write_i64(WALL_FROM_NS, now)?;
        self.file.write_i64(WALL_AHEAD_NS, ahead)?;
        self.file.write_i64(WALL_PPM, rate)
    }

    /// The process starts the new line itself, where its old one ends.
    fn bend_monotonic(&self, clock: Clock) -> anyhow::Result<()> {
        match clock {
            Clock::True => self.file.write_i64(MONO_PPM, 0),
            Clock::Rate { ppm } => self.file.write_i64(MONO_PPM, within_limits(ppm)?),
            Clock::JumpForward(by) | Clock::JumpBack(by) => {
                let ahead = self.file.i64(MONO_AHEAD_NS)?.checked_add(nanoseconds(by)?);
                let ahead = ahead.context("the monotonic clock would leave 64 bits of nanoseconds")?;
                self.file.write_i64(MONO_AHEAD_NS, ahead)
            }
        }
    }
}

fn nanoseconds(duration: Duration) -> anyhow::Result<i64> {
    i64::try_from(duration.as_nanos()).context("a jump of more than 64 bits of nanoseconds")
}

fn within_limits(ppm: i64) -> anyhow::Result<i64> {
    ensure!(PPM_LIMITS.contains(&ppm), "a clock cannot run {ppm} ppm off");
    Ok(ppm)
}

#[cfg(test)]
#[path = "faults_tests.rs"]
mod tests;
