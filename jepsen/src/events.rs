//! What was done to the cluster during a run: faults and steps of migrations, as JSON lines with the history's clock.

use serde::{Deserialize, Serialize};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, on the clock of the history.
    pub at_ns: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: Happening,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Happening {
    /// A fault begins.
    FaultStart {
        /// Its name, as `isolate_leader`; the same at its stop.
        fault: String,
        /// What it hits.
        #[serde(default)]
        targets: Vec<String>,
    },
    /// A fault ends.
    FaultStop {
        /// Its name.
        fault: String,
    },
    /// A migration entered a state.
    MigrationStep {
        /// The migration.
        migration: u64,
        /// The shard it moves.
        shard: u64,
        /// The state entered.
        state: MigrationState,
    },
    /// All faults are over for good.
    Healed,
}

/// Where a migration stands; the names of the placement log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MigrationState {
    /// Wanted, not started.
    Proposed,
    /// The new replica becomes a learner.
    Adding,
    /// The learner catches up.
    CatchingUp,
    /// Leadership is handed over.
    Transferring,
    /// The voters change.
    Switching,
    /// The old replica leaves the membership.
    Removing,
    /// The old replica is destroyed.
    Cleaning,
    /// The shard's log is to part its range.
    Splitting,
    /// The new shard's replicas are made.
    Settling,
    /// The shard that is to be absorbed changes no more.
    Freezing,
    /// The other shard's log is to absorb it.
    Absorbing,
    /// The absorbed shard's replicas are destroyed.
    Dissolving,
    /// The shard that was to be absorbed goes on.
    Thawing,
    /// Ended as wanted.
    Done,
    /// The new replica leaves the membership.
    Aborting,
    /// The new replica is destroyed.
    CleaningDst,
    /// Ended where it began.
    Aborted,
    /// Never started.
    Rejected,
    /// Survivors are fenced and asked.
    Collecting,
    /// One survivor's data becomes a group of one.
    Reopening,
    /// A forced recovery took its place.
    Superseded,
}

impl MigrationState {
    /// Whether it never changes again.
    pub fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Done | Self::Aborted | Self::Rejected | Self::Superseded
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{LineReader, LineWriter};

    #[test]
    fn events_are_flat_lines() {
        let text = concat!(
            r#"{"at_ns":5,"event":"fault_start","fault":"pause","targets":["h1"]}"#,
            "\n",
            r#"{"at_ns":6,"event":"migration_step","migration":3,"shard":2,"state":"CatchingUp"}"#,
            "\n",
            r#"{"at_ns":7,"event":"fault_stop","fault":"pause"}"#,
            "\n",
            r#"{"at_ns":8,"event":"healed"}"#,
            "\n",
        );
        let events: Vec<Event> = LineReader::new(text.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap();
        let mut writer = LineWriter::new(Vec::new());
        events.iter().for_each(|event| writer.write(event).unwrap());
        assert_eq!(String::from_utf8(writer.finish().unwrap()).unwrap(), text);
    }
}
