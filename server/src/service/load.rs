//! What this host has served since it was started: accesses by origin, and requests by kind with how long they took.

use client::proto::{DurationBucket, KindLoad, LoadReply, OriginLoad};

use crate::host::Host;

pub(super) fn load(host: &Host) -> LoadReply {
    let origins = host.profiler().map(crate::profiler::Profiler::served);
    let origin = |(zone, accesses): (placement::Zone, u64)| OriginLoad {
        zone: zone.0,
        accesses,
    };
    let kinds = host.metrics().requests.loads();
    let kind = |load: crate::monitor::RequestLoad| KindLoad {
        kind: load.kind.to_owned(),
        requests: load.requests,
        sum_micros: load.sum_micros,
        buckets: load
            .buckets
            .into_iter()
            .map(|(up_to_micros, requests)| DurationBucket {
                up_to_micros,
                requests,
            })
            .collect(),
    };
    LoadReply {
        host_id: host.id().0,
        at_ms: host.now_ms(),
        origins: origins.into_iter().flatten().map(origin).collect(),
        kinds: kinds.into_iter().map(kind).collect(),
    }
}
