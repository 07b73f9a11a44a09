//! What a run must have achieved.

use std::time::Duration;

use crate::linearizability::Bounds;

/// What is asked of a run, beside that nothing is wrong.
#[derive(Clone, Copy, Debug)]
pub struct Demands {
    /// Acknowledged operations, of all kinds.
    pub ok_min: u64,
    /// Acknowledged operations of each kind, of 1,000 of that kind.
    pub ok_permille_min: u64,
    /// Operations of a kind below which its share says nothing.
    pub kind_operations_min: u64,
    /// How long shards may be without homes once all faults are over.
    pub homes_max: Duration,
    /// How long migrations may then take to end.
    pub migrations_max: Duration,
    /// What checking may cost.
    pub bounds: Bounds,
}

impl Default for Demands {
    fn default() -> Self {
        Self {
            ok_min: 100,
            ok_permille_min: 100,
            kind_operations_min: 20,
            homes_max: Duration::from_secs(10),
            migrations_max: Duration::from_secs(60),
            bounds: Bounds::default(),
        }
    }
}
