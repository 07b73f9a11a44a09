//! What must hold from step to step, and between the placement log and the world.

use std::collections::{BTreeMap, BTreeSet};

use placement::{
    Command, HostId, MigrationId, MigrationKind, MigrationState, Placement, ReplicaId, Response, ShardId,
};

use crate::cluster::Disk;
use crate::group::Group;

#[derive(Default)]
pub(crate) struct Audit {
    /// Every replica id ever seen, with its shard (I2).
    owners: BTreeMap<ReplicaId, ShardId>,
    ended: BTreeMap<MigrationId, MigrationState>,
    pub(crate) entries: u64,
}

impl Audit {
    pub(crate) fn after_entry(
        &mut self,
        before: &Placement,
        after: &Placement,
        command: &Command,
        response: &Response,
    ) {
        self.entries += 1;
        if let Err(violation) = after.check() {
            panic!("{violation}\nafter {command:?}\nanswered {response:?}");
        }
        if matches!(response, Response::Refused(_)) {
            assert_refused_changed_nothing(before, after);
        }
        self.check_ids(after);
        self.check_ended(after);
        for shard in after.shards().values() {
            let Some(old) = before.shard(shard.id) else {
                continue;
            };
            assert!(
                shard.epoch.conf_ver >= old.epoch.conf_ver,
                "I7: conf_ver of {} fell",
                shard.id
            );
            let fewer = shard.voter_count() < old.voter_count();
            let removal = old
                .active
                .and_then(|id| before.migration(id))
                .is_some_and(|m| matches!(m.kind, MigrationKind::Remove | MigrationKind::Recover));
            assert!(!fewer || removal, "I3: {} lost a voter by {command:?}", shard.id);
        }
        assert!(after.version() >= before.version() && after.now_ms() >= before.now_ms());
    }

    fn check_ids(&mut self, placement: &Placement) {
        for shard in placement.shards().values() {
            for replica in shard.replicas.keys() {
                let owner = *self.owners.entry(*replica).or_insert(shard.id);
                assert!(
                    owner == shard.id,
                    "I2: {replica} was of {owner}, now of {}",
                    shard.id
                );
            }
        }
    }

    fn check_ended(&mut self, placement: &Placement) {
        for migration in placement
            .migrations()
            .values()
            .filter(|migration| migration.state.is_terminal())
        {
            let state = *self.ended.entry(migration.id).or_insert(migration.state);
            assert!(
                state == migration.state,
                "I6: {} ended as {state:?}, then {:?}",
                migration.id,
                migration.state
            );
        }
    }

    /// I4, I5 and I7 against the groups as they are.
    pub(crate) fn after_world(
        &self,
        placement: &Placement,
        groups: &BTreeMap<ShardId, Group>,
        disks: &BTreeMap<HostId, Disk>,
    ) {
        for (id, group) in groups {
            // A split's shard counts once the log has taken it over.
            let Some(shard) = placement.shard(*id) else {
                continue;
            };
            let members = group.membership.members();
            for disk in disks.values() {
                // A delayed order may add a destroyed learner back; a voter, or a member that the log knows, never.
                let mut doomed = disk.tombstones.intersection(&members);
                let lost = doomed.find(|id| group.membership.votes(**id) || shard.replicas.contains_key(id));
                // A recovery marks a member that was never made as destroyed, so that it never will be.
                let active = shard.active.and_then(|id| placement.migration(id));
                let is_recovered = active.is_some_and(|active| active.kind == MigrationKind::Recover);
                assert!(
                    lost.is_none() || is_recovered,
                    "I5: {lost:?} of {id} is destroyed but a member"
                );
            }
            assert!(
                shard.epoch.conf_ver <= group.membership.conf_ver,
                "I7: the log is at conf_ver {} of {id}, the shard at {}",
                shard.epoch.conf_ver,
                group.membership.conf_ver
            );
            for voters in &group.membership.voters {
                let hosts: BTreeSet<_> = voters
                    .iter()
                    .filter_map(|id| group.copies.get(id))
                    .map(|c| c.host)
                    .collect();
                let copies = voters.iter().filter(|id| group.copies.contains_key(id)).count();
                assert!(hosts.len() == copies, "I4: {id} has two voters on a host");
            }
        }
    }
}

/// A refusal leaves its mark in position, time, totals and alarms only.
fn assert_refused_changed_nothing(before: &Placement, after: &Placement) {
    assert!(
        before.shards() == after.shards()
            && before.hosts() == after.hosts()
            && before.migrations() == after.migrations()
            && before.rules() == after.rules()
            && before.limits() == after.limits()
            && before.version() == after.version()
            && before.controller() == after.controller()
            && before.window() == after.window(),
        "a refused command changed the state"
    );
}
