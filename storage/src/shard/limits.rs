//! What a shard accepts and how long it remembers.

use super::record::LimitsBody;

/// What a shard accepts and how long it remembers. Part of the replicated state, because outcomes
/// depend on it: set when the shard is created, the same on every replica, and carried by snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest key, in bytes.
    pub key_bytes_max: u64,
    /// The longest value, in bytes.
    pub value_bytes_max: u64,
    /// How long a session may be idle, in milliseconds of stamped time, before it is closed. At
    /// least ten times the longest deadline.
    pub session_idle_ms: u64,
    /// How many sessions may be open. One more closes the idlest, if that was idle for
    /// `evictable_idle_ms`, and is refused otherwise.
    pub sessions_max: u64,
    /// How long a session must have been idle, in milliseconds of stamped time, before it may be
    /// closed to make room for another. At least the longest deadline: within it a client may still
    /// retry, and without its session the retry would run a second time.
    pub evictable_idle_ms: u64,
    /// How many outcomes a session remembers at most; more than a client has in flight at once.
    pub outcomes_max: u64,
    /// How long superseded versions stay readable, in milliseconds of stamped time.
    pub retention_ms: u64,
    /// How many comparisons and actions a transaction may have.
    pub transaction_actions_max: u64,
    /// How many pairs one scan of a transaction may give.
    pub transaction_pairs_max: u64,
    /// How many bytes of keys and values a transaction may give, roughly.
    pub transaction_bytes_max: u64,
    /// How many leases there may be.
    pub leases_max: u64,
    /// How many keys may hang on a lease: they go at one revision.
    pub lease_keys_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            key_bytes_max: 4 << 10,
            value_bytes_max: 1 << 20,
            session_idle_ms: 10 * 60 * 1_000,
            sessions_max: 4_096,
            evictable_idle_ms: 60 * 1_000,
            outcomes_max: 1_024,
            retention_ms: 5 * 60 * 1_000,
            transaction_actions_max: 128,
            transaction_pairs_max: 1_000,
            transaction_bytes_max: 4 << 20,
            leases_max: 10_000,
            lease_keys_max: 10_000,
        }
    }
}

impl From<Limits> for LimitsBody {
    fn from(limits: Limits) -> LimitsBody {
        LimitsBody {
            key_bytes_max: limits.key_bytes_max,
            value_bytes_max: limits.value_bytes_max,
            session_idle_ms: limits.session_idle_ms,
            sessions_max: limits.sessions_max,
            outcomes_max: limits.outcomes_max,
            retention_ms: limits.retention_ms,
            evictable_idle_ms: limits.evictable_idle_ms,
            transaction_actions_max: limits.transaction_actions_max,
            transaction_pairs_max: limits.transaction_pairs_max,
            transaction_bytes_max: limits.transaction_bytes_max,
            leases_max: limits.leases_max,
            lease_keys_max: limits.lease_keys_max,
        }
    }
}

impl From<&LimitsBody> for Limits {
    fn from(body: &LimitsBody) -> Limits {
        Limits {
            key_bytes_max: body.key_bytes_max,
            value_bytes_max: body.value_bytes_max,
            session_idle_ms: body.session_idle_ms,
            sessions_max: body.sessions_max,
            outcomes_max: body.outcomes_max,
            retention_ms: body.retention_ms,
            evictable_idle_ms: body.evictable_idle_ms,
            transaction_actions_max: body.transaction_actions_max,
            transaction_pairs_max: body.transaction_pairs_max,
            transaction_bytes_max: body.transaction_bytes_max,
            leases_max: body.leases_max,
            lease_keys_max: body.lease_keys_max,
        }
    }
}
