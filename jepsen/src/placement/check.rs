//! A picture of the placement, line by line, and what must hold of it.

use std::collections::{BTreeMap, BTreeSet};

use super::edges::follows;
use super::lines::{MigrationKind, Placed, PlacementLine, Showing};
use crate::events::MigrationState;
use crate::verdict::{Anomaly, Verdict, Violation};

/// Judges a placement history. Unknown if migrations are open at its end and it does not say that all has settled.
pub fn check(lines: &[PlacementLine]) -> Verdict {
    let mut picture = Picture::default();
    for line in lines {
        picture.index = line.index;
        picture.take(&line.shows);
    }
    let open = picture
        .migrations
        .iter()
        .find(|(_, migration)| !migration.state.is_terminal());
    let unknown = open.filter(|_| !picture.settled).map(|(id, migration)| {
        Verdict::Unknown(format!(
            "migration {id} is in {:?} at the end; whether it ends was not waited for",
            migration.state
        ))
    });
    Verdict::of(picture.found).and(unknown.unwrap_or(Verdict::Ok))
}

struct Migration {
    shard: u64,
    kind: MigrationKind,
    state: MigrationState,
    src: Option<Placed>,
    dst: Option<Placed>,
    voters_before: usize,
    /// Whether it holds a slot at its source: a host that was down when it started has none to protect.
    holds_out: bool,
}

impl Migration {
    /// Whether the new replica is still on its way.
    fn receives(&self) -> bool {
        use MigrationState::{Aborting, Adding, CatchingUp, Switching, Transferring};
        matches!(
            self.state,
            Adding | CatchingUp | Transferring | Switching | Aborting
        )
    }

    /// Whether the old replica is still a member, on a host that was up when this began.
    fn sends(&self) -> bool {
        self.holds_out && (self.receives() || self.state == MigrationState::Removing)
    }

    /// Whether it has left `Proposed` and not ended.
    fn is_active(&self) -> bool {
        self.state != MigrationState::Proposed && !self.state.is_terminal()
    }
}

#[derive(Default)]
struct Shard {
    conf_ver: u64,
    voters: Vec<Placed>,
    committed_conf_ver: Option<u64>,
    committed: Option<BTreeSet<u64>>,
    recovered: bool,
}

#[derive(Default)]
struct Picture {
    index: u64,
    rules: Option<(usize, usize, usize)>,
    eligible: BTreeSet<u64>,
    shards: BTreeMap<u64, Shard>,
    migrations: BTreeMap<u64, Migration>,
    /// Where every replica id was first seen: its shard and host.
    replicas: BTreeMap<u64, (u64, u64)>,
    destroyed: BTreeSet<u64>,
    /// Shards that are no more. Their groups go as they are, with the membership that they had.
    absorbed: BTreeSet<u64>,
    settled: bool,
    found: Vec<Violation>,
}

impl Picture {
    fn broken(&mut self, invariant: u8, shard: u64, what: String) {
        let what = format!("I{invariant} at index {}: {what}", self.index);
        self.found.push(Violation::new(
            Anomaly::Placement(invariant),
            format!("shard {shard}"),
            what,
        ));
    }

    fn take(&mut self, shows: &Showing) {
        match shows {
            Showing::Rules {
                replication_factor,
                out_max,
                in_max,
            } => {
                self.rules = Some((*replication_factor, *out_max, *in_max));
            }
            Showing::Host { host, eligible: true } => {
                self.eligible.insert(*host);
            }
            Showing::Host {
                host,
                eligible: false,
            } => {
                self.eligible.remove(host);
            }
            Showing::Shard {
                shard,
                conf_ver,
                voters,
                learners,
            } => self.shard(*shard, *conf_ver, voters, learners),
            Showing::Committed {
                shard,
                conf_ver,
                replicas,
            } => self.committed(*shard, *conf_ver, replicas),
            Showing::Step {
                migration,
                shard,
                kind,
                state,
                src,
                dst,
            } => {
                let entered = Migration {
                    shard: *shard,
                    kind: *kind,
                    state: *state,
                    src: *src,
                    dst: *dst,
                    voters_before: self.shards.get(shard).map_or(0, |shard| shard.voters.len()),
                    holds_out: src.is_none_or(|src| self.eligible.contains(&src.host)),
                };
                self.step(*migration, entered);
            }
            Showing::Destroyed { shard, replica } => self.destroyed(*shard, *replica),
            Showing::ForcedRecovery { shard } => self.shards.entry(*shard).or_default().recovered = true,
            Showing::Absorbed { shard } => {
                self.shards.remove(shard);
                self.absorbed.insert(*shard);
            }
            Showing::Settled => self.settle(),
        }
    }

    fn shard(&mut self, id: u64, conf_ver: u64, voters: &[Placed], learners: &[Placed]) {
        for placed in voters.iter().chain(learners) {
            self.known_replica(id, *placed);
        }
        let hosts: BTreeSet<u64> = voters.iter().map(|placed| placed.host).collect();
        if hosts.len() < voters.len() {
            self.broken(4, id, format!("two voters on one host: {voters:?}"));
        }
        let shard = self.shards.entry(id).or_default();
        let (before, recovered) = (
            std::mem::replace(&mut shard.conf_ver, conf_ver),
            std::mem::take(&mut shard.recovered),
        );
        let ahead = shard.committed_conf_ver.filter(|committed| conf_ver > *committed);
        let had = std::mem::replace(&mut shard.voters, voters.to_vec()).len();
        if conf_ver < before {
            self.broken(7, id, format!("conf_ver went from {before} to {conf_ver}"));
        }
        if let Some(committed) = ahead {
            self.broken(
                7,
                id,
                format!("placement's conf_ver {conf_ver} is ahead of the shard's {committed}"),
            );
        }
        if !recovered {
            self.enough_voters(id, voters.len(), had);
        }
    }

    fn enough_voters(&mut self, id: u64, now: usize, had: usize) {
        let active = self
            .migrations
            .values()
            .find(|migration| migration.shard == id && migration.is_active());
        let wanted = match active {
            Some(migration) if migration.kind == MigrationKind::Remove => {
                migration.voters_before.saturating_sub(1)
            }
            // It begins the group anew, with one voter.
            Some(migration) if migration.kind == MigrationKind::Recover => 1,
            Some(migration) => migration.voters_before,
            None => had,
        };
        let factor = self
            .rules
            .map_or(0, |(factor, ..)| factor)
            .min(self.eligible.len());
        // A shard that never had enough is not blamed for it, only for having fewer than before.
        if now < wanted || (now < had && now < factor) {
            self.broken(
                3,
                id,
                format!("{now} voters, {wanted} before, and {factor} wanted of hosts that can"),
            );
        }
    }

    fn known_replica(&mut self, shard: u64, placed: Placed) {
        let first = *self
            .replicas
            .entry(placed.replica)
            .or_insert((shard, placed.host));
        if first != (shard, placed.host) {
            let what = format!(
                "replica {} was of shard {} on host {}",
                placed.replica, first.0, first.1
            );
            self.broken(2, shard, format!("{what}, and is now on host {}", placed.host));
        } else if self.destroyed.contains(&placed.replica) {
            self.broken(
                2,
                shard,
                format!("replica {} was destroyed and is used again", placed.replica),
            );
        }
    }

    fn committed(&mut self, id: u64, conf_ver: u64, replicas: &[u64]) {
        if self.absorbed.contains(&id) {
            return;
        }
        let shard = self.shards.entry(id).or_default();
        let before = shard.committed_conf_ver.replace(conf_ver).unwrap_or(0);
        shard.committed = Some(replicas.iter().copied().collect());
        if conf_ver < before {
            self.broken(
                7,
                id,
                format!("the shard's own conf_ver went from {before} to {conf_ver}"),
            );
        }
        if let Some(replica) = replicas.iter().find(|replica| self.destroyed.contains(replica)) {
            self.broken(
                2,
                id,
                format!("replica {replica} was destroyed and is a member again"),
            );
        }
    }

    fn destroyed(&mut self, id: u64, replica: u64) {
        let shard = self.shards.get(&id);
        let member = shard
            .and_then(|shard| shard.committed.as_ref())
            .is_some_and(|members| members.contains(&replica));
        let voter = shard.is_some_and(|shard| shard.voters.iter().any(|placed| placed.replica == replica));
        if member || voter {
            self.broken(
                5,
                id,
                format!("replica {replica} was destroyed while a membership has it"),
            );
        }
        self.destroyed.insert(replica);
    }

    fn step(&mut self, id: u64, mut entered: Migration) {
        let shard = entered.shard;
        match self.migrations.get(&id) {
            None if entered.state != MigrationState::Proposed => {
                self.broken(6, shard, format!("migration {id} begins in {:?}", entered.state));
            }
            None => {}
            Some(before) => {
                let (kind, from, to) = (before.kind, before.state, entered.state);
                let changed = before.shard != shard || kind != entered.kind;
                // It counts from when it starts.
                if from != MigrationState::Proposed {
                    entered.voters_before = before.voters_before;
                    entered.holds_out = before.holds_out;
                }
                (entered.src, entered.dst) = (entered.src.or(before.src), entered.dst.or(before.dst));
                if changed {
                    self.broken(6, shard, format!("migration {id} changed its shard or kind"));
                } else if !follows(kind, from, to) {
                    self.broken(
                        6,
                        shard,
                        format!("migration {id} ({kind:?}) went from {from:?} to {to:?}"),
                    );
                }
            }
        }
        if let Some(dst) = entered
            .dst
            .filter(|_| matches!(entered.kind, MigrationKind::Move | MigrationKind::Add))
        {
            self.known_or_new(shard, dst);
        }
        let starts = entered.is_active() && self.migrations.get(&id).is_none_or(|before| !before.is_active());
        self.migrations.insert(id, entered);
        if starts {
            self.one_active(id, shard);
            self.within_limits(shard);
        }
    }

    /// A replica of a migration that ends in `CleaningDst` is destroyed while still named: only its place is checked.
    fn known_or_new(&mut self, shard: u64, placed: Placed) {
        let first = *self
            .replicas
            .entry(placed.replica)
            .or_insert((shard, placed.host));
        if first != (shard, placed.host) {
            self.broken(
                2,
                shard,
                format!(
                    "replica {} was of shard {} on host {}",
                    placed.replica, first.0, first.1
                ),
            );
        }
    }

    fn one_active(&mut self, id: u64, shard: u64) {
        let other = self
            .migrations
            .iter()
            .find(|(other, migration)| **other != id && migration.shard == shard && migration.is_active());
        if let Some((other, _)) = other {
            let what = format!("migration {id} starts while {other} is under way");
            self.broken(1, shard, what);
        }
    }

    fn within_limits(&mut self, shard: u64) {
        let Some((_, out_max, in_max)) = self.rules else {
            return;
        };
        let mut counts: BTreeMap<(u64, &str), usize> = BTreeMap::new();
        let moving = self.migrations.values().filter(|migration| migration.is_active());
        for migration in moving.filter(|migration| migration.kind != MigrationKind::Home) {
            let src = migration.src.filter(|_| migration.sends());
            let dst = migration.dst.filter(|_| migration.receives());
            for (placed, way) in [(src, "out of"), (dst, "into")] {
                if let Some(placed) = placed {
                    *counts.entry((placed.host, way)).or_default() += 1;
                }
            }
        }
        let max = |way: &str| if way == "into" { in_max } else { out_max };
        let over = counts.into_iter().find(|((_, way), count)| *count > max(way));
        if let Some(((host, way), count)) = over {
            self.broken(8, shard, format!("{count} migrations {way} host {host} at once"));
        }
    }

    fn settle(&mut self) {
        self.settled = true;
        let open = self
            .migrations
            .iter()
            .filter(|(_, migration)| !migration.state.is_terminal());
        let open: Vec<(u64, u64, MigrationState)> = open
            .map(|(id, migration)| (*id, migration.shard, migration.state))
            .collect();
        for (id, shard, state) in open {
            self.broken(
                10,
                shard,
                format!("migration {id} is still in {state:?} though faults stopped"),
            );
        }
    }
}
