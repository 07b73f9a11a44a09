//! Shards: cutting the key space, choosing the first voters and homes, what is seen of their leaders.

use std::collections::BTreeMap;

use super::Outcome;
use crate::command::{Partition, SHARDS_MAX};
use crate::history::EventKind;
use crate::ids::{HostId, ReplicaId, ShardId};
use crate::model::{Epoch, KeyRange, ObservedHome, Replica, Role, Shard};
use crate::response::{Accepted, Refusal};
use crate::state::{About, Placement, Stamp, note_change};

impl Shard {
    pub(crate) fn new(
        id: ShardId,
        range: KeyRange,
        replicas: BTreeMap<ReplicaId, Replica>,
        home: ReplicaId,
    ) -> Shard {
        Shard {
            id,
            range,
            epoch: Epoch {
                generation: 1,
                conf_ver: 1,
            },
            replicas,
            home: Some(home),
            observed: None,
            ready: false,
            route_version: 0,
            active: None,
            membership_index: 0,
            slow_catch_ups: 0,
            moved_window: None,
            home_window: None,
            changes: Vec::new(),
            changes_total: 0,
            first: None,
        }
    }
}

impl Partition {
    /// The ranges, in rising order; they part the key space.
    ///
    /// # Errors
    /// What is wrong with the partition, in words.
    pub fn ranges(&self) -> Result<Vec<KeyRange>, String> {
        let cuts = match self {
            Partition::Count(count) => even_cuts(*count)?,
            Partition::SplitAt(cuts) => cuts.clone(),
        };
        if cuts.len() >= SHARDS_MAX {
            return Err(format!("at most {SHARDS_MAX} shards"));
        }
        let rising = cuts.windows(2).all(|pair| pair[0] < pair[1]);
        if !rising || cuts.first().is_some_and(Vec::is_empty) {
            return Err("split keys must rise, and the first must not be empty".to_owned());
        }
        let starts = std::iter::once(Vec::new()).chain(cuts.iter().cloned());
        let ends = cuts.iter().cloned().map(Some).chain([None]);
        Ok(starts
            .zip(ends)
            .map(|(start, end)| KeyRange { start, end })
            .collect())
    }
}

fn even_cuts(count: u32) -> Result<Vec<Vec<u8>>, String> {
    const SPACE: u32 = 1 << 16;
    if count == 0 || count > SPACE {
        return Err(format!("the number of shards must be 1 to {SHARDS_MAX}"));
    }
    let cut = |part: u32| u64::from(part) * u64::from(SPACE) / u64::from(count);
    Ok((1..count)
        .map(|part| cut(part).to_be_bytes()[6..].to_vec())
        .collect())
}

impl Placement {
    /// Creates the pending shards once enough hosts can take replicas.
    pub(super) fn create_when_ready(&mut self, stamp: Stamp) {
        let ready = self.hosts.values().filter(|host| host.accepts()).count();
        let needed = self
            .pending
            .as_ref()
            .map(|pending| pending.hosts_before_create.max(1));
        if needed.is_some_and(|needed| ready >= usize::try_from(needed).unwrap_or(usize::MAX)) {
            self.create_pending(stamp);
        }
    }

    pub(super) fn create_shards(&mut self, stamp: Stamp) -> Outcome {
        if self.pending.is_none() {
            return Ok(Accepted::Unchanged);
        }
        if !self.hosts.values().any(|host| host.accepts()) {
            return Err(Refusal::NoHosts);
        }
        let shards = self.create_pending(stamp);
        Ok(Accepted::Created { shards })
    }

    fn create_pending(&mut self, stamp: Stamp) -> u32 {
        let Some(pending) = self.pending.take() else {
            return 0;
        };
        let mut loads = self.replica_counts();
        let mut homes: BTreeMap<HostId, u32> = BTreeMap::new();
        for range in &pending.ranges {
            self.create_shard(stamp, range.clone(), &mut loads, &mut homes);
        }
        let count = u32::try_from(pending.ranges.len()).unwrap_or(u32::MAX);
        self.record(
            stamp,
            EventKind::ShardsCreated,
            About::default(),
            format!("{count} shards"),
        );
        count
    }

    fn create_shard(
        &mut self,
        stamp: Stamp,
        range: KeyRange,
        loads: &mut BTreeMap<HostId, u32>,
        homes: &mut BTreeMap<HostId, u32>,
    ) {
        let hosts = self.choose_voters(loads);
        let mut replicas = BTreeMap::new();
        for host in &hosts {
            self.last.replica += 1;
            replicas.insert(
                ReplicaId(self.last.replica),
                Replica {
                    host: *host,
                    role: Role::Voter,
                },
            );
            *loads.entry(*host).or_default() += 1;
        }
        let homes_at = |host: HostId| homes.get(&host).copied().unwrap_or(0);
        let home = replicas
            .iter()
            .min_by_key(|(id, replica)| (homes_at(replica.host), **id));
        let Some((home, home_host)) = home.map(|(id, replica)| (*id, replica.host)) else {
            return;
        };
        *homes.entry(home_host).or_default() += 1;
        self.last.shard += 1;
        let id = ShardId(self.last.shard);
        self.shards.insert(id, Shard::new(id, range, replicas, home));
        self.route_changed(stamp, id, format!("created on {hosts:?}, home {home_host}"));
    }

    fn choose_voters(&self, loads: &BTreeMap<HostId, u32>) -> Vec<HostId> {
        let mut chosen = Vec::new();
        for _ in 0..self.rules.replication_factor {
            match self.choose_host(&chosen, loads) {
                Some(host) => chosen.push(host),
                None => break,
            }
        }
        chosen
    }

    pub(super) fn shard_ready(&mut self, stamp: Stamp, id: ShardId) -> Outcome {
        let shard = self.shards.get_mut(&id).ok_or(Refusal::UnknownShard(id))?;
        if shard.ready {
            return Ok(Accepted::Unchanged);
        }
        shard.ready = true;
        note_change(shard, stamp, "group initialised".to_owned());
        self.record(
            stamp,
            EventKind::ShardReady,
            About::shard(id),
            "group initialised".to_owned(),
        );
        Ok(Accepted::Applied)
    }

    pub(super) fn observe_home(
        &mut self,
        stamp: Stamp,
        id: ShardId,
        replica: ReplicaId,
        raft_term: u64,
    ) -> Outcome {
        let shard = self.shards.get(&id).ok_or(Refusal::UnknownShard(id))?;
        let host = shard
            .replicas
            .get(&replica)
            .ok_or(Refusal::UnknownReplica(replica))?
            .host;
        let seen = ObservedHome { replica, raft_term };
        if shard.observed == Some(seen) {
            return Ok(Accepted::Unchanged);
        }
        if let Some(known) = shard.observed.filter(|known| known.rank() > seen.rank()) {
            return Err(Refusal::StaleTerm {
                known: known.raft_term,
            });
        }
        self.see_home(stamp, id, seen);
        let about = About {
            host: Some(host),
            ..About::shard(id)
        };
        self.record(
            stamp,
            EventKind::HomeObserved,
            about,
            format!("{replica} leads in term {raft_term}"),
        );
        Ok(Accepted::Applied)
    }

    /// Takes over a leader that was seen. The guard against older leaders is the caller's.
    pub(super) fn see_home(&mut self, stamp: Stamp, id: ShardId, seen: ObservedHome) {
        let Some(shard) = self.shards.get_mut(&id) else {
            return;
        };
        let before = shard.route_home();
        shard.observed = Some(seen);
        if shard.route_home() != before {
            let ObservedHome { replica, raft_term } = seen;
            self.route_changed(stamp, id, format!("{replica} leads in term {raft_term}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_cut_parts_the_key_space() {
        let ranges = Partition::Count(3).ranges().unwrap();
        let ends: Vec<_> = ranges.iter().map(|range| range.end.clone()).collect();
        assert_eq!(ends, [Some(vec![0x55, 0x55]), Some(vec![0xaa, 0xaa]), None]);
        assert!(ranges[1].contains(b"\x80key") && !ranges[1].contains(b"\xaa\xaa"));
    }

    #[test]
    fn split_keys_must_rise() {
        assert!(
            Partition::SplitAt(vec![b"b".to_vec(), b"a".to_vec()])
                .ranges()
                .is_err()
        );
        assert!(Partition::SplitAt(vec![Vec::new()]).ranges().is_err());
        assert!(Partition::Count(0).ranges().is_err());
        assert_eq!(
            Partition::SplitAt(Vec::new()).ranges().unwrap(),
            [KeyRange::full()]
        );
    }
}
