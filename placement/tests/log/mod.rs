//! A placement log that a test writes entry by entry.

// Each test binary compiles this file and uses its own part of it.
#![allow(dead_code)]

use placement::{
    Accepted, Bootstrap, Command, HostId, Limits, NewHost, Partition, Placement, Refusal, Region, Response,
    Rules, Zone,
};

/// What the entries so far have come to; the invariants are looked at after each.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) placement: Placement,
    pub(crate) index: u64,
}

impl Log {
    pub(crate) fn apply(&mut self, command: Command) -> Response {
        self.index += 1;
        let response = self.placement.apply(self.index, command);
        self.placement.check().expect("the invariants hold");
        response
    }

    pub(crate) fn accept(&mut self, command: Command) -> Accepted {
        self.apply(command).into_result().expect("it is accepted")
    }

    pub(crate) fn refuse(&mut self, command: Command) -> Refusal {
        self.apply(command).into_result().expect_err("it is refused")
    }
}

/// A cluster that begins with host 1, and creates its shards once there are so many hosts.
pub(crate) fn bootstrap(shards: u32, hosts_before_create: u32, limits: Limits) -> Command {
    Command::Bootstrap(Bootstrap {
        cluster_id: "test".to_owned(),
        host: host(1),
        rules: Rules::default(),
        limits,
        partition: Partition::Count(shards),
        hosts_before_create,
        now_ms: 1,
    })
}

/// A host in a zone of its own.
pub(crate) fn host(number: u64) -> NewHost {
    NewHost {
        address: format!("host-{number}:1"),
        zone: Zone(format!("z{number}")),
        region: Region("g".to_owned()),
        capacity_bytes: 1,
        token: format!("token-{number}"),
    }
}

/// A host joins, anew (`host_id` 0) or again.
pub(crate) fn join(host_id: u64, number: u64) -> Command {
    Command::JoinHost {
        host_id: HostId(host_id),
        host: host(number),
        now_ms: 2,
    }
}
