//! The simulated cluster: the placement log, hosts, groups, and a network that delays, loses and repeats orders.

use std::collections::{BTreeMap, BTreeSet};

use placement::{
    Accepted, Action, Bootstrap, Command, ControllerTerm, HostId, HostState, Limits, MergeStep, MigrationId,
    NewHost, Partition, Placement, Refusal, Region, ReplicaId, Response, Rules, ShardId, Zone, decode,
    encode,
};

use crate::audit::Audit;
use crate::controller::Controller;
use crate::group::{Copy, Group};
use crate::splits::Birth;

/// A host's disk: replicas of which shard, tombstones, the highest controller term it obeyed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) replicas: BTreeMap<ReplicaId, ShardId>,
    pub(crate) tombstones: BTreeSet<ReplicaId>,
    pub(crate) fenced: BTreeMap<ReplicaId, MigrationId>,
    pub(crate) controller_term: ControllerTerm,
}

/// An order on its way.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) due_ms: u64,
    pub(crate) shard: ShardId,
    pub(crate) term: ControllerTerm,
    /// The membership that the order is meant for.
    pub(crate) membership_index: Option<u64>,
    pub(crate) action: Action,
}

/// What the network does to the orders that are sent from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    Prompt,
    Losing,
    /// Delays each order by a draw from the cluster's seed, up to this much; loses some, repeats some.
    Unreliable {
        delay_max_ms: u64,
    },
    /// Keeps orders back until the network is prompt again.
    Holding,
}

pub(crate) struct Cluster {
    pub(crate) placement: Placement,
    pub(crate) log: Vec<(u64, Vec<u8>)>,
    pub(crate) now_ms: u64,
    pub(crate) up: BTreeSet<HostId>,
    pub(crate) disks: BTreeMap<HostId, Disk>,
    pub(crate) groups: BTreeMap<ShardId, Group>,
    pub(crate) orders: Vec<Order>,
    pub(crate) births: Vec<Birth>,
    pub(crate) network: Network,
    pub(crate) writes_per_tick: u64,
    pub(crate) controller: Option<Controller>,
    pub(crate) audit: Audit,
    pub(crate) trace: Vec<String>,
    index: u64,
    seed: u64,
}

pub(crate) fn new_host(number: u64, zones: u64) -> NewHost {
    let zone = (number - 1) % zones;
    NewHost {
        address: format!("host-{number}:1"),
        zone: Zone(format!("z{}", zone + 1)),
        region: Region(format!("g{}", zone / 2 + 1)),
        capacity_bytes: 1 << 30,
        token: format!("token-{number}"),
    }
}

impl Cluster {
    /// A cluster of `hosts` hosts over `zones` zones with `shards` initialised shards and a controller.
    pub(crate) fn new(hosts: u64, zones: u64, shards: u32, limits: Limits, seed: u64) -> Self {
        let mut cluster = Self {
            placement: Placement::default(),
            log: Vec::new(),
            now_ms: 1_000,
            up: BTreeSet::new(),
            disks: BTreeMap::new(),
            groups: BTreeMap::new(),
            orders: Vec::new(),
            births: Vec::new(),
            network: Network::Prompt,
            writes_per_tick: 10,
            controller: None,
            audit: Audit::default(),
            trace: Vec::new(),
            index: 0,
            seed,
        };
        cluster.apply(Command::Bootstrap(Bootstrap {
            cluster_id: "test".to_owned(),
            host: new_host(1, zones),
            rules: Rules::default(),
            limits,
            partition: Partition::Count(shards),
            hosts_before_create: u32::try_from(hosts).expect("few hosts"),
            now_ms: 1_000,
        }));
        cluster.host_joined(HostId(1));
        for number in 2..=hosts {
            let host = new_host(number, zones);
            cluster.apply(Command::JoinHost {
                host_id: HostId(0),
                host,
                now_ms: cluster.now_ms,
            });
            cluster.host_joined(HostId(number));
        }
        cluster.initialise_groups();
        cluster
    }

    pub(crate) fn host_joined(&mut self, host: HostId) {
        self.up.insert(host);
        self.disks.insert(host, Disk::default());
    }

    /// What the hosts do once the map names shards: create the replicas, initialise the groups, report.
    pub(crate) fn initialise_groups(&mut self) {
        let shards: Vec<_> = self.placement.shards().values().cloned().collect();
        for shard in shards
            .iter()
            .filter(|shard| !self.groups.contains_key(&shard.id))
            .collect::<Vec<_>>()
        {
            for (replica, host) in shard.voters() {
                self.disks
                    .get_mut(&host)
                    .expect("a host")
                    .replicas
                    .insert(replica, shard.id);
            }
            let home = shard.home.expect("a new shard has a home");
            self.groups
                .insert(shard.id, Group::initialise(shard.voters().collect(), home));
            self.apply(Command::ShardReady {
                shard: shard.id,
                now_ms: self.now_ms,
            });
        }
    }

    /// Writes an entry into the placement log: through its bytes, then audited.
    pub(crate) fn apply(&mut self, command: Command) -> Response {
        self.index += 1;
        let bytes = encode(&command).expect("commands encode");
        let before = self.placement.clone();
        let response = self
            .placement
            .apply(self.index, decode(&bytes).expect("commands decode"));
        self.log.push((self.index, bytes));
        self.audit
            .after_entry(&before, &self.placement, &command, &response);
        response
    }

    /// Writes an entry if the placement group has a quorum.
    pub(crate) fn write(&mut self, command: Command) -> Option<Response> {
        let available = self
            .groups
            .get(&ShardId::PLACEMENT)
            .is_some_and(|group| group.is_available(&self.up));
        available.then(|| self.apply(command))
    }

    pub(crate) fn draw(&mut self, below: u64) -> u64 {
        // splitmix64
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    pub(crate) fn send(&mut self, mut order: Order) {
        match self.network {
            Network::Prompt => self.deliver(&order),
            Network::Losing => self.trace.push(format!("{} lost", name(&order.action))),
            Network::Holding => {
                self.trace.push(format!("{} held back", name(&order.action)));
                order.due_ms = u64::MAX;
                self.orders.push(order);
            }
            Network::Unreliable { delay_max_ms } => {
                let copies = [0, 1, 1, 1, 1, 2][self.draw(6) as usize];
                for _ in 0..copies {
                    let due_ms = self.now_ms + self.draw(delay_max_ms);
                    self.orders.push(Order {
                        due_ms,
                        ..order.clone()
                    });
                }
            }
        }
    }

    /// Someone who is no controller hands the lead of a shard over.
    pub(crate) fn hand_over(&mut self, shard: ShardId, to: ReplicaId) -> Result<&'static str, &'static str> {
        let term = self.placement.controller_term();
        let action = Action::TransferLeader { to };
        let order = Order {
            due_ms: self.now_ms,
            shard,
            term,
            membership_index: None,
            action,
        };
        self.groups
            .get_mut(&shard)
            .ok_or("no group")?
            .obey(&order, &self.up)
    }

    /// Delivers what was held back.
    pub(crate) fn release(&mut self) {
        self.network = Network::Prompt;
        for order in std::mem::take(&mut self.orders) {
            self.deliver(&order);
        }
    }

    fn deliver(&mut self, order: &Order) {
        let outcome = match &order.action {
            Action::CreateReplica { host, replica } => self.create_replica(*host, *replica, order),
            Action::DestroyReplica { host, replica } => self.destroy_replica(*host, *replica, order.term),
            Action::CreateSuccessor { of, made } => self.create_successor(*of, *made, order.term),
            Action::Split { plan, .. } => self.split(order, plan),
            Action::StepMerge { .. } => self.step_merge(order),
            Action::DestroyAbsorbed {
                doomed,
                by,
                generation,
                ..
            } => self.destroy_absorbed((order.shard, *by), *generation, *doomed, order.term),
            Action::FenceReplica {
                host,
                replica,
                migration,
            } => self.fence_replica(*host, *replica, *migration, order),
            Action::ReopenReplica { .. } => self.reopen_replica(order),
            _ => match self.groups.get_mut(&order.shard) {
                Some(group) => group.obey(order, &self.up),
                None => Err("no group"),
            },
        };
        let outcome = outcome.unwrap_or_else(|refusal| refusal);
        self.trace.push(format!("{}: {outcome}", name(&order.action)));
        self.audit.after_world(&self.placement, &self.groups, &self.disks);
    }

    fn create_replica(
        &mut self,
        host: HostId,
        id: ReplicaId,
        order: &Order,
    ) -> Result<&'static str, &'static str> {
        let disk = self.open_disk(host, order.term)?;
        if disk.tombstones.contains(&id) {
            return Err("refused, tombstone");
        }
        if disk.replicas.insert(id, order.shard).is_some() {
            return Ok("exists");
        }
        let group = self.groups.get_mut(&order.shard).ok_or("no group")?;
        group.copies.insert(id, Copy { host, matched: 0 });
        Ok("created")
    }

    pub(crate) fn destroy_replica(
        &mut self,
        host: HostId,
        id: ReplicaId,
        term: ControllerTerm,
    ) -> Result<&'static str, &'static str> {
        let disk = self.open_disk(host, term)?;
        disk.tombstones.insert(id);
        disk.fenced.remove(&id);
        if let Some(shard) = disk.replicas.remove(&id) {
            self.groups.get_mut(&shard).ok_or("no group")?.copies.remove(&id);
        }
        Ok("destroyed")
    }

    fn fence_replica(
        &mut self,
        host: HostId,
        id: ReplicaId,
        migration: MigrationId,
        order: &Order,
    ) -> Result<&'static str, &'static str> {
        let disk = self.open_disk(host, order.term)?;
        if !disk.replicas.contains_key(&id) {
            disk.tombstones.insert(id);
            return Ok("nothing there");
        }
        if disk.fenced.get(&id).is_some_and(|fenced| *fenced > migration) {
            return Err("fenced for a later recovery");
        }
        disk.fenced.insert(id, migration);
        let group = self.groups.get_mut(&order.shard).ok_or("no group")?;
        group.fenced.insert(id);
        Ok("fenced")
    }

    fn reopen_replica(&mut self, order: &Order) -> Result<&'static str, &'static str> {
        let Action::ReopenReplica {
            host,
            from,
            replica,
            migration,
            ..
        } = order.action
        else {
            return Err("no such order");
        };
        let disk = self.open_disk(host, order.term)?;
        if disk.tombstones.contains(&replica) {
            return Err("refused, tombstone");
        }
        if disk.replicas.contains_key(&replica) {
            return Ok("is open already");
        }
        if disk.fenced.get(&from) != Some(&migration) {
            return Err("is not fenced for this");
        }
        disk.replicas.insert(replica, order.shard);
        let group = self.groups.get_mut(&order.shard).ok_or("no group")?;
        group.begin_anew(order, &self.up);
        Ok("opened as a group of one")
    }

    pub(crate) fn open_disk(
        &mut self,
        host: HostId,
        term: ControllerTerm,
    ) -> Result<&mut Disk, &'static str> {
        if !self.up.contains(&host) {
            return Err("host is down");
        }
        let disk = self.disks.get_mut(&host).ok_or("no host")?;
        if term < disk.controller_term {
            return Err("stale controller");
        }
        disk.controller_term = term;
        Ok(disk)
    }

    /// Lets `ms` pass in the world: orders arrive, groups elect, replicate and commit.
    pub(crate) fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        let now_ms = self.now_ms;
        let (due, later) = self.orders.drain(..).partition(|order| order.due_ms <= now_ms);
        self.orders = later;
        let mut due: Vec<Order> = due;
        due.sort_by_key(|order| order.due_ms);
        for order in due {
            self.deliver(&order);
        }
        for group in self.groups.values_mut() {
            group.tick(self.writes_per_tick, &self.up);
        }
        self.make_successors();
        self.audit.after_world(&self.placement, &self.groups, &self.disks);
    }

    pub(crate) fn crash(&mut self, host: HostId) {
        self.up.remove(&host);
        if self
            .controller
            .as_ref()
            .is_some_and(|controller| controller.host == host)
        {
            self.controller = None;
        }
    }

    /// A host comes back: its replicas run, it joins, destroys what it owes a tombstone for, and acknowledges. `None`:
    /// the placement group did not answer, it will try again.
    pub(crate) fn restart(&mut self, host: HostId) -> Option<()> {
        let known = self.placement.host(host)?.clone();
        let new = NewHost {
            address: known.address,
            zone: known.zone,
            region: known.region,
            capacity_bytes: known.capacity_bytes,
            token: known.token,
        };
        self.up.insert(host);
        if known.state == HostState::Up {
            return Some(());
        }
        self.pass(0);
        let joined = self.write(Command::JoinHost {
            host_id: host,
            host: new,
            now_ms: self.now_ms,
        });
        let owed = match joined {
            Some(Response::Accepted(Accepted::Joined { owed, .. })) => owed,
            Some(Response::Refused(refusal @ Refusal::HostRemoved(_))) => {
                self.trace.push(format!("{host} ends: {refusal}"));
                self.up.remove(&host);
                return None;
            }
            _ => return None,
        };
        for tombstone in owed {
            let term = self.placement.controller_term();
            let outcome = self
                .destroy_replica(host, tombstone.replica, term)
                .unwrap_or_else(|refusal| refusal);
            self.trace
                .push(format!("{host} on rejoin, {}: {outcome}", tombstone.replica));
            self.write(Command::AckTombstone {
                host,
                replica: tombstone.replica,
                now_ms: self.now_ms,
            });
        }
        Some(())
    }

    /// The log replayed from its bytes gives the state as it is.
    pub(crate) fn assert_replayable(&self) {
        let mut replayed = Placement::default();
        for (index, bytes) in &self.log {
            replayed.apply(*index, decode(bytes).expect("commands decode"));
        }
        assert!(replayed == self.placement, "the replayed state differs");
        if let Some((index, bytes)) = self.log.last() {
            let again = replayed.apply(*index, decode(bytes).expect("commands decode"));
            assert!(matches!(again, Response::Refused(Refusal::Replayed { .. })));
            assert!(replayed == self.placement, "replaying an entry changed the state");
        }
    }
}

/// An order in words.
pub(crate) fn name(action: &Action) -> String {
    match action {
        Action::CreateReplica { host, replica } => format!("create {replica} on {host}"),
        Action::AddLearner { replica, .. } => format!("add learner {replica}"),
        Action::TransferLeader { to } => format!("transfer to {to}"),
        Action::Switch {
            add,
            demote,
            conf_ver,
            ..
        } => {
            let words = add
                .map(|id| format!(" +{id}"))
                .into_iter()
                .chain(demote.map(|id| format!(" -{id}")));
            format!("switch{} as conf_ver {conf_ver}", words.collect::<String>())
        }
        Action::Split { plan, .. } => format!("split off {}", plan.shard),
        Action::CreateSuccessor { made, .. } => format!("create successor {} on {}", made.replica, made.host),
        Action::StepMerge { shard, step } => match step {
            MergeStep::Freeze { .. } => format!("freeze {shard}"),
            MergeStep::Thaw { .. } => format!("thaw {shard}"),
            MergeStep::Absorb { absorbed, .. } => format!("absorb {absorbed} in {shard}"),
        },
        Action::DestroyAbsorbed { doomed, .. } => {
            format!("destroy absorbed {} on {}", doomed.replica, doomed.host)
        }
        Action::RemoveReplica { replica } => format!("remove {replica}"),
        Action::DestroyReplica { host, replica } => format!("destroy {replica} on {host}"),
        Action::FenceReplica { host, replica, .. } => format!("fence {replica} on {host}"),
        Action::ReopenReplica {
            host,
            from,
            replica,
            generation,
            conf_ver,
            ..
        } => format!("open {from} on {host} as {replica}, gen {generation}, conf_ver {conf_ver}"),
        Action::Propose(command) => format!("write {command:?}"),
        Action::Wait { .. } => "wait".to_owned(),
    }
}
