//! Takes down the steps of all migrations while a run goes on.
//!
//! Looks are some hundred milliseconds apart, so a state that lasted less is not seen; the last one always is.

use std::collections::BTreeMap;
use std::time::Duration;

use client::proto::{MigrationStatus, MigrationsRequest};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error, StrDeserializer};
use tokio_util::sync::CancellationToken;

use crate::events::{Happening, MigrationState};
use crate::process::Cluster;
use crate::record::Recorder;

const LOOK_PAUSE: Duration = Duration::from_millis(100);
const LISTED_MAX: u32 = 200;

/// The newest state seen of each migration.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<u64, MigrationState>);

/// Looks until stopped, and once more then.
pub(super) async fn watch(cluster: &Cluster, recorder: &Recorder, stop: &CancellationToken) {
    let mut seen = Seen::default();
    while !stop.is_cancelled() {
        seen.look(cluster, recorder).await;
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    seen.look(cluster, recorder).await;
}

impl Seen {
    async fn look(&mut self, cluster: &Cluster, recorder: &Recorder) {
        let request = MigrationsRequest {
            include_ended: true,
            limit: LISTED_MAX,
        };
        let Ok(admin) = cluster.admin() else { return };
        let Ok(reply) = admin.migrations(request).await else {
            return;
        };
        // The newest come first.
        for migration in reply.migrations.iter().rev() {
            if let Some(step) = self.step(migration) {
                recorder.event(step);
            }
        }
    }

    /// The step that this shows, if it shows one. A host that is behind shows what was: the last state is final.
    fn step(&mut self, migration: &MigrationStatus) -> Option<Happening> {
        let state = parse(&migration.state)?;
        let known = self.0.get(&migration.migration_id);
        if known.is_some_and(|known| *known == state || known.is_terminal()) {
            return None;
        }
        self.0.insert(migration.migration_id, state);
        Some(Happening::MigrationStep {
            migration: migration.migration_id,
            shard: migration.shard_id,
            state,
        })
    }
}

fn parse(name: &str) -> Option<MigrationState> {
    let name: StrDeserializer<'_, Error> = name.into_deserializer();
    MigrationState::deserialize(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_is_taken_down_once_and_the_last_one_is_final() {
        let mut seen = Seen::default();
        let mut steps = |state: &str| {
            let status = MigrationStatus {
                migration_id: 4,
                shard_id: 2,
                state: state.to_owned(),
                ..MigrationStatus::default()
            };
            seen.step(&status).is_some()
        };
        let shown = ["Adding", "Adding", "CleaningDst", "Aborted", "Adding", "Nonsense"];
        assert_eq!(shown.map(&mut steps), [true, false, true, true, false, false]);
    }
}
