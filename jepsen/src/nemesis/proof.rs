//! What the library in the hosts did, which is all that counts.

use std::time::Duration;

use tokio::time::Instant;

use super::field::Field;
use crate::native::{Counters, FaultControl};
use crate::process::Cluster;

const LOOK_PAUSE: Duration = Duration::from_millis(5);
/// A process that was started a moment ago maps its control file within this.
const ATTACH_LIMIT: Duration = Duration::from_secs(5);

pub(super) fn unavailable(cluster: &Cluster) -> Option<String> {
    let absent = cluster.options().preload.is_none();
    absent.then(|| "no library is preloaded into the hosts".to_owned())
}

/// Waits until the counters show it; whether they did.
pub(super) async fn seen(
    faults: &FaultControl,
    limit: Duration,
    happened: impl Fn(&Counters) -> bool,
) -> anyhow::Result<bool> {
    let started = Instant::now();
    while !happened(&faults.counters()?) {
        if started.elapsed() >= limit {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Ok(true)
}

/// Takes one host that obeys its faults: one that does not yet could not be struck.
pub(super) async fn take_attached(field: &Field<'_>, count: usize) -> anyhow::Result<Vec<usize>> {
    let taken = field.take(&field.cluster.numbers(), count);
    for host in &taken {
        if !attached(field.cluster, *host).await? {
            field.release(&taken);
            return Ok(Vec::new());
        }
    }
    Ok(taken)
}

/// Waits until the present process of the host obeys its faults; whether it does.
pub(super) async fn attached(cluster: &Cluster, host: usize) -> anyhow::Result<bool> {
    let started = Instant::now();
    while !cluster.is_attached(host)? {
        if started.elapsed() >= ATTACH_LIMIT {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Ok(true)
}
