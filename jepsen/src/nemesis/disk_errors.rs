//! Disks that are slow, fail, fill up, or give back what is not on them.
//!
//! A host that failed to sync its log or a replica's state must end: what it may not call durable any more is for the
//! others to keep. One that goes on is complained of. A full disk may be met by some write that can wait, so a host may live through that one.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::disks;
use super::fault::{Cure, Struck};
use super::field::{Field, host_name, host_names};
use super::proof::{attached, seen, take_attached};
use crate::native::{Space, SyncFailure, UnsyncedWrites};
use crate::process::Expected;

pub(super) const NAMES: [&str; 4] = ["slow-disk", "sync-error", "disk-full", "read-bit-flips"];

const SYNC_MS: (u64, u64) = (50, 951);
/// How long an order may take to show. A host that leads nothing has little to write.
const PROOF_LIMIT: Duration = Duration::from_secs(4);
/// How long a host may take to end after its disk failed it.
const ENDING_LIMIT: Duration = Duration::from_secs(8);
/// What files are called that are not in use yet.
const UNFINISHED: [&str; 4] = ["tmp", "new", "import", "rewrite"];
/// How long writes are held before the sync that loses them.
const HELD_MS: (u64, u64) = (100, 400);
/// One read in how many has a wrong bit: at least, and so many more.
const FLIP_ONE_IN: (u64, u64) = (5, 100);

pub(super) async fn strike(name: &str, field: &Field<'_>) -> anyhow::Result<Option<Struck>> {
    if name == "read-bit-flips" {
        return flip_reads(name, field).await;
    }
    let taken = take_attached(field, 1).await?;
    let Some(number) = taken.first().copied() else {
        return Ok(None);
    };
    field.begin(name, host_names(&taken));
    match name {
        "slow-disk" => slow_down(name, field, number).await?,
        "sync-error" => fail_sync(name, field, number).await?,
        _ => fill(name, field, number).await?,
    }
    Ok(Some(Struck {
        name: name.to_owned(),
        cure: Cure::Soothe(taken.clone()),
        taken,
    }))
}

async fn slow_down(name: &str, field: &Field<'_>, number: usize) -> anyhow::Result<()> {
    let faults = field.cluster.faults(number)?;
    let before = faults.counters()?;
    faults.slow_sync(field.length(SYNC_MS))?;
    if seen(&faults, PROOF_LIMIT, |now| {
        now.syncs_delayed > before.syncs_delayed
    })
    .await?
    {
        field.count(name);
    }
    Ok(())
}

async fn fail_sync(name: &str, field: &Field<'_>, number: usize) -> anyhow::Result<()> {
    let cluster = field.cluster;
    let faults = cluster.faults(number)?;
    let before = faults.counters()?;
    cluster.expect_end(number, Expected::Yes);
    let failure = match field.below(2) {
        0 => SyncFailure::KeepsWrites,
        _ => SyncFailure::DropsWrites,
    };
    if failure == SyncFailure::DropsWrites {
        faults.set_unsynced(UnsyncedWrites::Held)?;
        field.pause(HELD_MS).await;
    }
    faults.fail_next_sync(failure)?;
    if !seen(&faults, PROOF_LIMIT, |now| now.sync_errors > before.sync_errors).await? {
        return Ok(());
    }
    field.count(name);
    if cluster.wait_for_end(number, ENDING_LIMIT).await {
        field.count(&format!("{name}/ended"));
        return Ok(());
    }
    let failed = faults.counters()?.failed_inode;
    match kept_files(&cluster.data_folder(number)).find(|(_, inode)| *inode == failed) {
        Some((path, _)) => cluster.complain(format!(
            "host {number} goes on after a sync of {} failed",
            path.display()
        )),
        None => field.count(&format!("{name}/retried")),
    }
    Ok(())
}

/// The log's segments and the replicas' states, with their inodes: a host does not outlive a failed sync of one. What it
/// is still making or receiving, and small files that it replaces whole, may be thrown away and tried again.
fn kept_files(data: &Path) -> impl Iterator<Item = (PathBuf, u64)> {
    let folders = ["log", "replicas"].map(|folder| data.join(folder));
    let entries = folders
        .into_iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .flatten();
    entries.filter_map(|entry| {
        let unfinished = entry
            .path()
            .extension()
            .is_some_and(|kind| UNFINISHED.iter().any(|known| kind == *known));
        (!unfinished).then_some((entry.path(), entry.metadata().ok()?.ino()))
    })
}

async fn fill(name: &str, field: &Field<'_>, number: usize) -> anyhow::Result<()> {
    let cluster = field.cluster;
    let faults = cluster.faults(number)?;
    let before = faults.counters()?;
    cluster.expect_end(number, Expected::Yes);
    faults.set_space(Space::Full)?;
    if !seen(&faults, PROOF_LIMIT, |now| now.space_errors > before.space_errors).await? {
        return Ok(());
    }
    field.count(name);
    let outcome = match cluster.wait_for_end(number, ENDING_LIMIT).await {
        true => "ended",
        false => "served",
    };
    field.count(&format!("{name}/{outcome}"));
    Ok(())
}

/// As any fault that may cost a disk, it strikes one host at a time, while all that is not there is sound.
async fn flip_reads(name: &str, field: &Field<'_>) -> anyhow::Result<Option<Struck>> {
    let cluster = field.cluster;
    let Some((number, id)) = disks::take_victim(field).await else {
        return Ok(None);
    };
    field.begin(name, vec![host_name(number)]);
    let faults = cluster.faults(number)?;
    let before = faults.counters()?;
    cluster.doubt(number, id);
    let one_in = FLIP_ONE_IN.0 + field.below(FLIP_ONE_IN.1);
    faults.flip_one_read_in(one_in, field.below(u64::MAX))?;
    let flipped = |now: &crate::native::Counters| now.reads_flipped > before.reads_flipped;
    if !seen(&faults, PROOF_LIMIT, flipped).await? {
        // It lives on its caches: when it opens its files, it must read them.
        cluster.kill(number)?;
        cluster.start_host(number)?;
        attached(cluster, number).await?;
        seen(&faults, PROOF_LIMIT, flipped).await?;
    }
    if flipped(&faults.counters()?) {
        field.count(name);
    }
    Ok(Some(Struck {
        name: name.to_owned(),
        taken: vec![number],
        cure: Cure::Doubt(number),
    }))
}
