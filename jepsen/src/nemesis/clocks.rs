//! Clocks that are wrong.
//!
//! The wall clock may show anything: nothing may be decided by comparing two hosts' clocks. That monotonic clocks run
//! at about one rate is what leases rest on; [`WILD`] breaks that assumption, so it is no part of any class or mix.

use std::time::Duration;

use super::fault::{Cure, Struck};
use super::field::{Field, host_names};
use super::proof::{seen, take_attached};
use crate::native::{Clock, FaultControl};

pub(super) const NAMES: [&str; 3] = ["clock-jump", "clock-rate", "clock-strobe"];
/// Rates that no lease can stand.
pub(super) const WILD: [&str; 1] = ["clock-rate-wild"];

/// Up to so far a jump goes; every span is as likely as any other.
const JUMPS_MS: [(u64, u64); 4] = [
    (1_000, 4_000),
    (5_000, 25_000),
    (30_000, 570_000),
    (600_000, 3_000_001),
];
const STROBE_MS: (u64, u64) = (50, 250);
/// Between two flips of a strobe.
pub(super) const STROBE_PAUSE_MS: (u64, u64) = (2, 6);
/// Half of what the rates of two hosts may differ by.
const PPM_MAX: u64 = 50_000;
/// From half the rate to twice the rate.
const WILD_PPM: (i64, u64) = (-500_000, 1_500_001);
const PROOF_LIMIT: Duration = Duration::from_secs(2);

pub(super) async fn strike(name: &str, field: &Field<'_>) -> anyhow::Result<Option<Struck>> {
    let rates = name.starts_with("clock-rate");
    // Rates matter where they differ, so many hosts get one each; a jump is one host's.
    let count = match rates {
        true => 1 + field.index(field.cluster.numbers().len()),
        false => 1,
    };
    let taken = take_attached(field, count).await?;
    let Some(first) = taken.first().copied() else {
        return Ok(None);
    };
    field.begin(name, host_names(&taken));
    let mut bent = true;
    let ahead = field.length(STROBE_MS);
    for host in &taken {
        let faults = field.cluster.faults(*host)?;
        let before = faults.counters()?.clock_bent;
        match name {
            "clock-jump" => faults.set_wall_clock(jump(field))?,
            "clock-strobe" => faults.set_wall_clock(Clock::JumpForward(ahead))?,
            _ => run_at(&faults, rate(name, field))?,
        }
        bent &= seen(&faults, PROOF_LIMIT, |now| now.clock_bent > before).await?;
    }
    if bent {
        field.count(name);
    }
    let cure = match name {
        "clock-strobe" => Cure::Strobe { host: first, ahead },
        _ => Cure::Soothe(taken.clone()),
    };
    let name = name.to_owned();
    Ok(Some(Struck { name, taken, cure }))
}

fn jump(field: &Field<'_>) -> Clock {
    let span = JUMPS_MS[field.index(JUMPS_MS.len())];
    let by = field.length(span);
    match field.below(2) {
        0 => Clock::JumpForward(by),
        _ => Clock::JumpBack(by),
    }
}

fn rate(name: &str, field: &Field<'_>) -> Clock {
    let (least, span) = match name {
        "clock-rate-wild" => WILD_PPM,
        _ => (-PPM_MAX.cast_signed(), 2 * PPM_MAX + 1),
    };
    let ppm = least + field.below(span).cast_signed();
    Clock::Rate { ppm }
}

/// A machine's clocks are driven by one crystal.
fn run_at(faults: &FaultControl, rate: Clock) -> anyhow::Result<()> {
    faults.set_wall_clock(rate)?;
    faults.set_monotonic_clock(rate)
}

/// One flip there and back, with the host's clock ahead before and after.
pub(super) async fn flip(field: &Field<'_>, host: usize, ahead: Duration) -> anyhow::Result<()> {
    let faults = field.cluster.faults(host)?;
    faults.set_wall_clock(Clock::JumpBack(ahead))?;
    field.pause(STROBE_PAUSE_MS).await;
    faults.set_wall_clock(Clock::JumpForward(ahead))?;
    field.pause(STROBE_PAUSE_MS).await;
    Ok(())
}
