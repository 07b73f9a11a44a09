//! Disks are emptied, set back in time, and corrupted: one host's at a time.
//!
//! The next one may only be struck when the last one's replicas are whole again elsewhere; until then a shard has two
//! good copies, and a second loss could take what was acknowledged. So a fault of this class ends with the rebuild of
//! its host, and holds the field's one place for disks until then.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::fault::{Cure, Struck};
use super::field::{Field, host_name};
use crate::process::REFUSAL_LIMIT;

pub(super) const NAMES: [&str; 3] = ["wipe", "rollback", "bit-rot"];

/// How long the host runs on between the copy and the return to it.
const AGEING_MS: (u64, u64) = (1_500, 1_500);
const FLIPS_MAX: u64 = 8;

pub(super) async fn strike(name: &str, field: &Field<'_>) -> anyhow::Result<Option<Struck>> {
    let Some((number, id)) = take_victim(field).await else {
        return Ok(None);
    };
    field.begin(name, vec![host_name(number)]);
    let happened = match name {
        "wipe" => wipe(field, number, id)?,
        "rollback" => roll_back(field, number, id).await?,
        _ => rot(field, number, id).await?,
    };
    if let Some(outcome) = &happened {
        field.count(name);
        field.count(&format!("{name}/{outcome}"));
    }
    let cure = match happened {
        Some(_) => Cure::Rebuild(number),
        None => {
            field.release_disk();
            Cure::Start(vec![number])
        }
    };
    Ok(Some(Struck {
        name: name.to_owned(),
        taken: vec![number],
        cure,
    }))
}

/// Takes the field's place for disks, and a host whose disk may be struck: its number and its id.
pub(super) async fn take_victim(field: &Field<'_>) -> Option<(usize, u64)> {
    if !field.take_disk() {
        return None;
    }
    let victim = draw_victim(field).await;
    if victim.is_none() {
        field.release_disk();
    }
    victim
}

async fn draw_victim(field: &Field<'_>) -> Option<(usize, u64)> {
    let layout = field.layout().await?;
    // A shard that waits to clean up could not replace a second replica.
    if field.cluster.has_debris().await.unwrap_or(true) {
        return None;
    }
    // Every replica on a host that is there: nothing is left to repair from before.
    let replicas = layout.groups().flat_map(|group| &group.replicas);
    let holders: Option<BTreeSet<usize>> = replicas
        .map(|replica| layout.number_of(replica.host_id))
        .collect();
    // A host that holds nothing has no disk worth striking.
    let candidates: Vec<usize> = holders.into_iter().flatten().collect();
    let number = field.take_one(&candidates)?;
    let id = layout.id_of(number);
    if id.is_none() {
        field.release(&[number]);
    }
    Some((number, id?))
}

/// The host dies now; its folder is emptied when it is rebuilt.
fn wipe(field: &Field<'_>, number: usize, id: u64) -> anyhow::Result<Option<&'static str>> {
    if !field.cluster.kill(number)? {
        return Ok(None);
    }
    field.cluster.spoil(number, id);
    Ok(Some("emptied"))
}

/// The log becomes what it was some seconds before; its guard stays. The whole folder set back together cannot be told
/// from a folder that nothing happened to, so that is not tried.
async fn roll_back(field: &Field<'_>, number: usize, id: u64) -> anyhow::Result<Option<&'static str>> {
    let cluster = field.cluster;
    let log = cluster.data_folder(number).join("log");
    cluster.kill(number)?;
    let older = segments(&log)?;
    cluster.start_host(number)?;
    field.pause(AGEING_MS).await;
    cluster.kill(number)?;
    let newer = segments(&log)?;
    if newer == older {
        return Ok(None);
    }
    cluster.spoil(number, id);
    for file in newer.keys() {
        std::fs::remove_file(file)?;
    }
    for (file, content) in &older {
        std::fs::write(file, content)?;
    }
    cluster.start_host(number)?;
    Ok(Some(outcome(field, number).await))
}

/// The log's files but for its guard, and what is in them.
fn segments(log: &Path) -> anyhow::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let files = files_below(log)?.into_iter();
    let segments = files.filter(|file| file.extension().is_some_and(|end| end == "log"));
    segments
        .map(|file| Ok((file.clone(), std::fs::read(file)?)))
        .collect()
}

/// Some bits of one file become others.
async fn rot(field: &Field<'_>, number: usize, id: u64) -> anyhow::Result<Option<&'static str>> {
    let cluster = field.cluster;
    cluster.kill(number)?;
    let Some(file) = field.pick(&files_below(&cluster.data_folder(number))?) else {
        return Ok(None);
    };
    cluster.spoil(number, id);
    let mut content = std::fs::read(&file).with_context(|| format!("{}", file.display()))?;
    for _ in 0..=field.below(FLIPS_MAX) {
        let at = field.index(content.len());
        content[at] ^= 1 << field.below(8);
    }
    std::fs::write(&file, content)?;
    tracing::info!(host = number, file = %file.display(), "bits flipped");
    cluster.start_host(number)?;
    Ok(Some(outcome(field, number).await))
}

async fn outcome(field: &Field<'_>, number: usize) -> &'static str {
    match field.cluster.wait_for_end(number, REFUSAL_LIMIT).await {
        true => "refused",
        false => "served",
    }
}

/// Files that hold anything.
fn files_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.metadata()?.len() > 0 {
                found.push(path);
            }
        }
    }
    // The order of a folder is the file system's; the draw must not depend on it.
    found.sort();
    Ok(found)
}
