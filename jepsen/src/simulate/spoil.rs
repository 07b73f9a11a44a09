//! When a disk may be spoilt, and how bits flip on one.

use std::path::{Path, PathBuf};

use placement::Role::Voter;
use placement::Shard;
use server::host::Host;
use storage::disk::Disk;
use storage::sim_disk::SimDisk;

use super::plan::pick;
use super::world::{SimHost, World};
use crate::generate::Chance;

/// Hosts without which no disk is spoilt: three replicas, and one host to make a new one on.
const HOSTS_TO_SPOIL_MIN: usize = 4;
/// Voters of every group when a disk is spoilt.
const VOTERS_MIN: usize = 3;
/// Whether every group has a majority without any one host.
pub(super) fn may_spoil(world: &World<'_>) -> bool {
    let whole = |host: Host| {
        host.look_at_placement(|placement| {
            let voters = |shard: &Shard| {
                shard
                    .replicas
                    .values()
                    .filter(|replica| replica.role == Voter)
                    .count()
            };
            !placement.shards().is_empty()
                && placement
                    .shards()
                    .values()
                    .all(|shard| voters(shard) >= VOTERS_MIN)
        })
    };
    let running = world.hosts.iter().filter_map(SimHost::host);
    world.hosts.len() >= HOSTS_TO_SPOIL_MIN && running.filter_map(whole).any(|whole| whole)
}

/// Flips a bit of some file that the host keeps; whether there was one.
pub(super) fn flip(chance: &mut Chance, disk: &SimDisk) -> bool {
    let folder = ["/data/replicas", "/data/replicas", "/data"][pick(chance, 3)];
    let files: Vec<(PathBuf, u64)> = disk
        .list(Path::new(folder))
        .unwrap_or_default()
        .into_iter()
        .filter_map(|path| Some((path.clone(), disk.image(&path).ok()?.len() as u64)))
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    if files.is_empty() {
        return false;
    }
    let (path, bytes) = &files[pick(chance, files.len())];
    let bit = u8::try_from(chance.below(8)).unwrap_or(0);
    disk.flip(path, chance.below(*bytes), bit).is_ok()
}
