//! What moves have saved: the accesses that all hosts counted, reckoned where each shard on trial was and where it is.

use std::collections::BTreeMap;

use placement::planner::{Counted, RttMatrix};
use placement::{Command, HostId, Layout, MeasuredGain, Placement, ShardId, Trial, WindowId, Zone};

use super::{Controller, write};
use crate::profiler::{ClusterWindow, OriginUse};

impl Controller {
    /// Writes down what a window says of the moves on trial. Without any there is nothing to write.
    pub(super) async fn record_gains(&self, window: WindowId, counted: &ClusterWindow, lease_reads_ppm: u32) {
        if self.local.machine.state().trust().trials().is_empty() {
            return;
        }
        let rtt = match self.rtt() {
            Ok(rtt) => rtt,
            Err(e) => {
                tracing::warn!(error = %e, "moves are not measured without distances");
                return;
            }
        };
        let gains = measured(
            &self.local.machine.state(),
            window,
            counted,
            &rtt,
            lease_reads_ppm,
        );
        let command = Command::RecordGains {
            window,
            gains,
            now_ms: self.clock.now_ms(),
        };
        write(&self.local, self.raft_term, &command).await;
    }
}

/// By trial. A shard whose home has not reported is left out: what it served is not known.
fn measured(
    state: &Placement,
    window: WindowId,
    counted: &ClusterWindow,
    rtt: &RttMatrix,
    lease_reads_ppm: u32,
) -> BTreeMap<u64, MeasuredGain> {
    let reported = |shard: ShardId| {
        let home = state.shard(shard).and_then(placement::Shard::home_host);
        home.is_some_and(|home| counted.hosts.contains(&home))
    };
    let due = state.trust().trials().iter();
    let due = due.filter(|(_, trial)| trial.from_window <= window && reported(trial.shard));
    due.filter_map(|(id, trial)| {
        let accesses = accesses(counted, trial.shard);
        Some((*id, gain(state, trial, &accesses, rtt, lease_reads_ppm)?))
    })
    .collect()
}

fn accesses(counted: &ClusterWindow, shard: ShardId) -> Counted {
    let mut accesses = Counted::default();
    let origins = counted.shards.get(&shard).map(|seen| &seen.origins);
    for (origin, used) in origins.into_iter().flatten() {
        let (reads, writes) = (OriginUse::reads(used), OriginUse::writes(used));
        accesses.reads += reads;
        accesses.writes += writes;
        *accesses.origins.entry(origin.clone()).or_default() += reads + writes;
    }
    accesses
}

/// `None` where a host is not known any more.
fn gain(
    state: &Placement,
    trial: &Trial,
    accesses: &Counted,
    rtt: &RttMatrix,
    lease_reads_ppm: u32,
) -> Option<MeasuredGain> {
    let zone = |host: &HostId| state.host(*host).map(|host| &host.zone);
    let cost = |layout: &Layout| {
        let voters: Option<Vec<&Zone>> = layout.voters.iter().map(zone).collect();
        Some(accesses.latency_micros(rtt, zone(&layout.home)?, &voters?, lease_reads_ppm))
    };
    let local = |layout: &Layout| Some(accesses.origins.get(zone(&layout.home)?).copied().unwrap_or(0));
    let signed = |micros: u64| i64::try_from(micros).unwrap_or(i64::MAX);
    Some(MeasuredGain {
        gain_micros: signed(cost(&trial.before)?) - signed(cost(&trial.after)?),
        accesses: accesses.reads + accesses.writes,
        local_before: local(&trial.before)?,
        local_after: local(&trial.after)?,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use placement::{Bootstrap, Limits, NewHost, Origin, Partition, Region, Rules};

    use super::*;
    use crate::profiler::{OpUse, ShardWindow, WindowReport};

    fn host(number: u64) -> NewHost {
        NewHost {
            address: format!("host-{number}:1"),
            zone: Zone(format!("z{number}")),
            region: Region(String::new()),
            capacity_bytes: 1,
            token: format!("token-{number}"),
        }
    }

    fn placed() -> Placement {
        let mut state = Placement::default();
        let begin = Command::Bootstrap(Bootstrap {
            cluster_id: "test".to_owned(),
            host: host(1),
            rules: Rules::default(),
            limits: Limits::default(),
            partition: Partition::Count(1),
            hosts_before_create: 3,
            now_ms: 1,
        });
        let joins = (2..=3).map(|number| Command::JoinHost {
            host_id: HostId(0),
            host: host(number),
            now_ms: 1,
        });
        for (index, command) in (1..).zip(std::iter::once(begin).chain(joins)) {
            state.apply(index, command).into_result().unwrap();
        }
        state
    }

    #[test]
    fn the_same_accesses_are_reckoned_on_both_sides_of_a_move() {
        let state = placed();
        let shard = state.data_shards().next().unwrap();
        let layout = |home| Layout {
            home: HostId(home),
            voters: shard.voters().map(|(_, host)| host).collect::<BTreeSet<_>>(),
        };
        let trial = Trial {
            shard: shard.id,
            migration: None,
            origin: Origin::Model,
            policy: "test".to_owned(),
            model: String::new(),
            before: layout(1),
            after: layout(2),
            predicted_micros: 1,
            from_window: WindowId(4),
            windows: 0,
            measured: MeasuredGain::default(),
        };
        let mut counted = ClusterWindow::empty(WindowId(4));
        let mut report = WindowReport::empty(WindowId(4), shard.home_host().unwrap());
        let mut seen = ShardWindow::default();
        for (zone, reads) in [("z1", 2), ("z2", 10)] {
            let get = OpUse {
                count: reads,
                bytes: 0,
            };
            let used = OriginUse {
                get,
                ..OriginUse::default()
            };
            seen.origins.insert(Zone(zone.to_owned()), used);
        }
        report.shards.insert(shard.id, seen);
        counted.merge(report).unwrap();
        let mut rtt = RttMatrix::default();
        for (one, other, micros) in [("z1", "z2", 1_000), ("z1", "z3", 5_000), ("z2", "z3", 3_000)] {
            rtt.insert_both(Zone(one.to_owned()), Zone(other.to_owned()), micros);
        }
        let gain = gain(&state, &trial, &accesses(&counted, shard.id), &rtt, 1_000_000);
        let expected = MeasuredGain {
            gain_micros: 10 * 1_000 - 2 * 1_000,
            accesses: 12,
            local_before: 2,
            local_after: 10,
        };
        assert_eq!(gain, Some(expected), "by lease no round is paid");
        assert!(
            measured(&state, WindowId(4), &counted, &rtt, 0).is_empty(),
            "nothing is on trial"
        );
    }
}
