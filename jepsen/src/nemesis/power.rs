//! The power goes: of what was not synced, some sectors reach the disk and others do not.
//!
//! For a while before, the library holds back what the host writes until it syncs, so that the cut has something to
//! tear; and it comes in place of a sync, when the host counts on most.

use std::time::Duration;

use futures_util::future::try_join_all;

use super::fault::{Cure, Struck};
use super::field::{Field, host_names};
use super::proof::take_attached;
use crate::native::{CutMoment, UnsyncedWrites};
use crate::process::Expected;

pub(super) const NAMES: [&str; 2] = ["power-cut", "power-cut-all"];

const HELD_MS: (u64, u64) = (200, 1_300);
/// How long the next sync may take to come. When the others are dead already, a host may have none.
const SYNC_LIMIT: Duration = Duration::from_millis(1_500);
const CUT_LIMIT: Duration = Duration::from_secs(1);

pub(super) async fn strike(name: &str, field: &Field<'_>) -> anyhow::Result<Option<Struck>> {
    let cluster = field.cluster;
    let all = cluster.numbers();
    let wanted = match name {
        "power-cut-all" => all.len(),
        _ => 1,
    };
    let taken = take_attached(field, wanted).await?;
    // Another fault holds some host: "all" must wait for it.
    if taken.len() < wanted {
        field.release(&taken);
        return Ok(None);
    }
    field.begin(name, host_names(&taken));
    for host in &taken {
        cluster.faults(*host)?.set_unsynced(UnsyncedWrites::Held)?;
    }
    field.pause(HELD_MS).await;
    let cuts = taken.iter().map(|host| cut(field, *host));
    let lost: Vec<Option<u64>> = try_join_all(cuts).await?;
    if lost.iter().all(Option::is_some) {
        field.count(name);
    }
    if lost.iter().flatten().any(|writes| *writes > 0) {
        field.count(&format!("{name}/lost"));
    }
    Ok(Some(Struck {
        name: name.to_owned(),
        cure: Cure::Soothe(taken.clone()),
        taken,
    }))
}

/// Cuts the power of one host: how many writes were lost, whole or in part; `None`: there was no cut.
async fn cut(field: &Field<'_>, number: usize) -> anyhow::Result<Option<u64>> {
    let cluster = field.cluster;
    let faults = cluster.faults(number)?;
    let before = faults.counters()?;
    cluster.expect_end(number, Expected::Yes);
    let seed = field.below(u64::MAX);
    faults.cut_power(CutMoment::NextSync, seed)?;
    if !cluster.wait_for_end(number, SYNC_LIMIT).await {
        faults.cut_power(CutMoment::Now, seed)?;
        cluster.wait_for_end(number, CUT_LIMIT).await;
    }
    let now = faults.counters()?;
    let lost = (now.writes_dropped + now.writes_torn) - (before.writes_dropped + before.writes_torn);
    Ok((now.cuts > before.cuts).then_some(lost))
}
