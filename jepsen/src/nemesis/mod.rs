//! Faults of real processes.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

use crate::process::Cluster;
use crate::record::Recorder;

/// How often each fault happened.
#[derive(Clone, Debug, Default)]
pub struct Tally(pub BTreeMap<String, u64>);

/// Injects faults of these names, drawn from the seed, until stopped; then heals the cluster.
///
/// # Errors
/// When a name is unknown or the machine refuses a fault.
pub async fn torment(
    _cluster: &Cluster,
    _recorder: &Recorder,
    _names: &[String],
    _seed: u64,
    _stop: CancellationToken,
) -> anyhow::Result<Tally> {
    anyhow::bail!("not written yet")
}
