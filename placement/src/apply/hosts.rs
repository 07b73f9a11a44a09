//! Hosts: bootstrap, join, liveness, admission, tombstones.

use std::collections::BTreeMap;

use super::{Cause, Outcome, check_texts};
use crate::command::{Bootstrap, NewHost};
use crate::history::EventKind;
use crate::ids::{HostId, ReplicaId, ShardId};
use crate::model::{Admission, Host, HostState, KeyRange, Replica, Role, Shard};
use crate::response::{Accepted, Refusal, Tombstone};
use crate::state::{About, PendingShards, Placement, Stamp};

impl Placement {
    pub(super) fn bootstrap(&mut self, stamp: Stamp, bootstrap: Bootstrap) -> Outcome {
        if let Some(cluster_id) = self.cluster_id.clone() {
            return Err(Refusal::AlreadyBootstrapped { cluster_id });
        }
        let Bootstrap {
            cluster_id,
            host,
            rules,
            limits,
            partition,
            hosts_before_create,
            ..
        } = bootstrap;
        let ranges = partition.ranges().map_err(Refusal::Invalid)?;
        let empty_id = cluster_id
            .is_empty()
            .then(|| "the cluster id is empty".to_owned());
        if let Some(fault) = empty_id.or(rules.fault()).or(limits.fault()) {
            return Err(Refusal::Invalid(fault));
        }
        self.record(
            stamp,
            EventKind::Bootstrapped,
            About::default(),
            format!("cluster {cluster_id}"),
        );
        self.cluster_id = Some(cluster_id);
        self.rules = rules;
        self.limits = limits;
        self.pending = Some(PendingShards {
            ranges,
            hosts_before_create,
        });
        let first = self.add_host(stamp, host);
        self.create_placement_group(stamp, first);
        self.create_when_ready(stamp);
        Ok(Accepted::Joined {
            host: first,
            owed: Vec::new(),
        })
    }

    pub(super) fn join_host(&mut self, stamp: Stamp, host_id: HostId, host: NewHost) -> Outcome {
        // A join whose answer was lost is repeated with the same token: it must not make a second host.
        let known = self
            .hosts
            .values()
            .find(|known| known.token == host.token)
            .map(|known| known.id);
        let id = if host_id == HostId(0) {
            known
        } else {
            Some(host_id)
        };
        self.check_address(id, &host.address)?;
        let host = match id {
            Some(id) => self.rejoin(stamp, id, host)?,
            None => self.add_host(stamp, host),
        };
        self.create_when_ready(stamp);
        let owed = self
            .owed_tombstones(host)
            .map(|(shard, replica)| Tombstone { shard, replica })
            .collect();
        Ok(Accepted::Joined { host, owed })
    }

    fn check_address(&self, id: Option<HostId>, address: &str) -> Result<(), Refusal> {
        let mut others = self
            .hosts
            .values()
            .filter(|host| Some(host.id) != id && host.state == HostState::Up);
        match others.find(|host| host.address == address) {
            Some(other) => Err(Refusal::AddressInUse(other.id)),
            None => Ok(()),
        }
    }

    fn rejoin(&mut self, stamp: Stamp, id: HostId, new: NewHost) -> Result<HostId, Refusal> {
        let host = self.hosts.get_mut(&id).ok_or(Refusal::UnknownHost(id))?;
        if host.state == HostState::Removed {
            return Err(Refusal::HostRemoved(id));
        }
        if host.token != new.token {
            return Err(Refusal::TokenMismatch(id));
        }
        let NewHost {
            address,
            zone,
            region,
            capacity_bytes,
            ..
        } = new;
        let detail = format!("at {address}, was {:?}", host.state);
        *host = Host {
            address,
            zone,
            region,
            capacity_bytes,
            ..host.clone()
        };
        enter_state(host, stamp, HostState::Up);
        // Peers and clients learn addresses through the map, so its version must grow.
        self.map_version += 1;
        self.record(stamp, EventKind::HostRejoined, About::host(id), detail);
        Ok(id)
    }

    fn add_host(&mut self, stamp: Stamp, new: NewHost) -> HostId {
        self.last.host += 1;
        let id = HostId(self.last.host);
        let NewHost {
            address,
            zone,
            region,
            capacity_bytes,
            token,
        } = new;
        let detail = format!("at {address}, zone {zone}, region {region}");
        let host = Host {
            id,
            address,
            zone,
            region,
            capacity_bytes,
            token,
            state: HostState::Up,
            admission: Admission::Open,
            changed_index: stamp.index,
            changed_ms: stamp.now_ms,
        };
        self.hosts.insert(id, host);
        self.map_version += 1;
        self.record(stamp, EventKind::HostJoined, About::host(id), detail);
        id
    }

    fn create_placement_group(&mut self, stamp: Stamp, host: HostId) {
        self.last.replica += 1;
        let replica = ReplicaId(self.last.replica);
        let replicas = BTreeMap::from([(
            replica,
            Replica {
                host,
                role: Role::Voter,
            },
        )]);
        let mut shard = Shard::new(ShardId::PLACEMENT, KeyRange::empty(), replicas, replica);
        shard.ready = true;
        self.shards.insert(shard.id, shard);
        self.route_changed(
            stamp,
            ShardId::PLACEMENT,
            format!("created on {host} as {replica}"),
        );
    }

    pub(super) fn set_host_state(&mut self, stamp: Stamp, id: HostId, state: HostState) -> Outcome {
        let host = self.hosts.get(&id).ok_or(Refusal::UnknownHost(id))?;
        let from = host.state;
        if from == state {
            return Ok(Accepted::Unchanged);
        }
        // A dead host comes back by joining, which hands it the tombstones it is owed.
        let allowed = match state {
            HostState::Up | HostState::Down => !host.is_lost(),
            HostState::Removed => true,
            HostState::Dead => false,
        };
        if !allowed {
            return Err(Refusal::HostStateForbids {
                host: id,
                state: from,
            });
        }
        if state == HostState::Removed {
            self.check_empty(id)?;
            self.owed.remove(&id);
        }
        self.change_state(stamp, id, state);
        Ok(Accepted::Applied)
    }

    pub(super) fn declare_dead(&mut self, stamp: Stamp, id: HostId) -> Outcome {
        match self.hosts.get(&id).ok_or(Refusal::UnknownHost(id))?.state {
            HostState::Dead => Ok(Accepted::Unchanged),
            HostState::Down => {
                self.change_state(stamp, id, HostState::Dead);
                Ok(Accepted::Applied)
            }
            state => Err(Refusal::HostStateForbids { host: id, state }),
        }
    }

    fn change_state(&mut self, stamp: Stamp, id: HostId, state: HostState) {
        let Some(host) = self.hosts.get_mut(&id) else {
            return;
        };
        let detail = format!("{:?} -> {state:?}", host.state);
        enter_state(host, stamp, state);
        self.record(stamp, EventKind::HostState, About::host(id), detail);
        self.create_when_ready(stamp);
    }

    /// A host that holds no replica and that no migration under way touches.
    pub(crate) fn check_empty(&self, host: HostId) -> Result<(), Refusal> {
        let members = self
            .shards
            .values()
            .filter(|shard| shard.replica_on(host).is_some())
            .count();
        let moving = self.active_migrations().filter(|m| m.touches(host)).count();
        match u32::try_from(members.max(moving)).unwrap_or(u32::MAX) {
            0 => Ok(()),
            replicas => Err(Refusal::HostHoldsReplicas { host, replicas }),
        }
    }

    pub(super) fn set_admission(&mut self, stamp: Stamp, id: HostId, admission: Admission) -> Outcome {
        let host = self.hosts.get_mut(&id).ok_or(Refusal::UnknownHost(id))?;
        if host.state == HostState::Removed {
            return Err(Refusal::HostRemoved(id));
        }
        if host.admission == admission {
            return Ok(Accepted::Unchanged);
        }
        let detail = format!("{:?} -> {admission:?}", host.admission);
        host.admission = admission;
        host.changed_index = stamp.index;
        self.record(stamp, EventKind::Admission, About::host(id), detail);
        self.create_when_ready(stamp);
        Ok(Accepted::Applied)
    }

    pub(super) fn change_admission(
        &mut self,
        stamp: Stamp,
        id: HostId,
        admission: Admission,
        cause: &Cause,
    ) -> Outcome {
        check_texts([&cause.reason])?;
        let host = self.hosts.get(&id).ok_or(Refusal::UnknownHost(id))?;
        let (state, before) = (host.state, host.admission);
        if state == HostState::Removed && admission != before {
            return Err(Refusal::HostRemoved(id));
        }
        // Whoever decommissions a host that is down does not expect it back.
        let given_up = admission == Admission::Decommissioning && state == HostState::Down;
        if admission == before && !given_up {
            return Ok(Accepted::Unchanged);
        }
        self.check_departure(id, admission)?;
        if given_up {
            self.change_state(stamp, id, HostState::Dead);
        }
        if let Some(host) = self.hosts.get_mut(&id) {
            host.admission = admission;
            host.changed_index = stamp.index;
        }
        let detail = format!("{before:?} -> {admission:?} {cause}");
        self.record(stamp, EventKind::Admission, About::host(id), detail);
        self.create_when_ready(stamp);
        Ok(Accepted::Applied)
    }

    pub(super) fn remove_host(&mut self, stamp: Stamp, id: HostId, cause: &Cause) -> Outcome {
        check_texts([&cause.reason])?;
        let host = self.hosts.get(&id).ok_or(Refusal::UnknownHost(id))?;
        if host.state == HostState::Removed {
            return Ok(Accepted::Unchanged);
        }
        if host.admission != Admission::Decommissioning {
            return Err(Refusal::NotDecommissioning(id));
        }
        self.check_empty(id)?;
        self.owed.remove(&id);
        self.change_state(stamp, id, HostState::Removed);
        // Peers and clients forget its address through the map, so its version must grow.
        self.map_version += 1;
        self.record(
            stamp,
            EventKind::HostDecommissioned,
            About::host(id),
            cause.to_string(),
        );
        Ok(Accepted::Applied)
    }

    pub(super) fn ack_tombstone(&mut self, stamp: Stamp, id: HostId, replica: ReplicaId) -> Outcome {
        let owed = self.owed.get_mut(&id).ok_or(Refusal::UnknownReplica(replica))?;
        let shard = owed.remove(&replica).ok_or(Refusal::UnknownReplica(replica))?;
        if owed.is_empty() {
            self.owed.remove(&id);
        }
        let about = About {
            shard: Some(shard),
            ..About::host(id)
        };
        self.record(
            stamp,
            EventKind::TombstoneAcked,
            about,
            format!("{replica} destroyed"),
        );
        Ok(Accepted::Applied)
    }
}

fn enter_state(host: &mut Host, stamp: Stamp, state: HostState) {
    host.state = state;
    host.changed_index = stamp.index;
    host.changed_ms = stamp.now_ms;
}
