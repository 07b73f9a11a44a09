//! One log entry at a time: `apply(state, position, command) -> response`.
//!
//! Pure: time, ids drawn by hosts and windows arrive in the command. Every guard is judged before the first change, so
//! a refused command changes nothing but the count of refusals; nothing a command brings can make it panic. Replaying
//! an entry changes nothing.

mod advance;
mod effects;
mod hosts;
mod merges;
mod models;
mod propose;
mod recover;
mod settings;
mod shards;
mod splits;
mod trials;

use std::fmt;

use crate::command::Command;
use crate::history::EventKind;
use crate::response::{Accepted, Refusal, Response};
use crate::rules::Origin;
use crate::state::{About, Placement, Stamp};

type Outcome = Result<Accepted, Refusal>;

/// Longest text that a command may carry, in bytes.
const TEXT_BYTES_MAX: usize = 1_024;

/// Who asks for a change of a host, and why.
struct Cause {
    origin: Origin,
    reason: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by {:?}: {}", self.origin, self.reason)
    }
}

impl Placement {
    /// Applies the entry at `index` of the placement log. Entries come in rising order; one at or below
    /// [`Placement::applied_index`] is refused and changes nothing.
    pub fn apply(&mut self, index: u64, command: Command) -> Response {
        if index <= self.applied_index {
            return Response::Refused(Refusal::Replayed {
                applied_index: self.applied_index,
            });
        }
        self.applied_index = index;
        let bootstraps = matches!(command, Command::Bootstrap(_));
        if !bootstraps && self.cluster_id.is_none() {
            return self.refuse(Stamp { index, now_ms: 0 }, Refusal::NotBootstrapped);
        }
        // A proposer whose clock is behind must not turn the log's time back: deadlines rest on it.
        self.now_ms = self.now_ms.max(command.now_ms());
        let stamp = Stamp {
            index,
            now_ms: self.now_ms,
        };
        match self.dispatch(stamp, command) {
            Ok(accepted) => Response::Accepted(accepted),
            Err(refusal) => self.refuse(stamp, refusal),
        }
    }

    fn dispatch(&mut self, stamp: Stamp, command: Command) -> Outcome {
        match command {
            Command::Bootstrap(bootstrap) => self.bootstrap(stamp, bootstrap),
            Command::JoinHost { host_id, host, .. } => self.join_host(stamp, host_id, host),
            Command::SetHostState { host, state, .. } => self.set_host_state(stamp, host, state),
            Command::SetAdmission { host, admission, .. } => self.set_admission(stamp, host, admission),
            Command::DeclareDead { host, .. } => self.declare_dead(stamp, host),
            Command::AckTombstone { host, replica, .. } => self.ack_tombstone(stamp, host, replica),
            Command::CreateShards { .. } => self.create_shards(stamp),
            Command::ShardReady { shard, .. } => self.shard_ready(stamp, shard),
            Command::ObserveHome {
                shard,
                replica,
                raft_term,
                ..
            } => self.observe_home(stamp, shard, replica, raft_term),
            Command::TakeControl { host, .. } => self.take_control(stamp, host),
            Command::Propose(proposal) => self.propose(stamp, proposal),
            Command::Advance(advance) => self.advance(stamp, &advance),
            Command::Cancel { migration, .. } => self.cancel(stamp, migration),
            Command::Expire { .. } => self.expire(stamp),
            Command::SetRules { rules, .. } => self.set_rules(stamp, rules),
            Command::SetLimits { limits, .. } => self.set_limits(stamp, limits),
            Command::RecordAffinities {
                window,
                model,
                scores,
                ..
            } => self.record_affinities(stamp, window, &model, scores),
            Command::CloseWindow { window, .. } => self.close_window(stamp, window),
            Command::ChangeAdmission {
                host,
                admission,
                origin,
                reason,
                ..
            } => self.change_admission(stamp, host, admission, &Cause { origin, reason }),
            Command::RemoveHost {
                host, origin, reason, ..
            } => self.remove_host(stamp, host, &Cause { origin, reason }),
            Command::RecoverShard {
                shard,
                origin,
                reason,
                ..
            } => self.recover_shard(stamp, shard, Cause { origin, reason }),
            Command::RecordGains { window, gains, .. } => self.record_gains(stamp, window, &gains),
            Command::ChangeHours {
                change,
                origin,
                reason,
                ..
            } => self.change_hours(stamp, change, &Cause { origin, reason }),
            Command::ChangeModel {
                change,
                origin,
                reason,
                ..
            } => self.change_model(stamp, change, Cause { origin, reason }),
            Command::RestoreTrust {
                restored,
                origin,
                reason,
                ..
            } => self.restore_trust(stamp, restored, &Cause { origin, reason }),
            Command::ChangeLimits {
                change,
                origin,
                reason,
                ..
            } => self.change_limits(stamp, &change, &Cause { origin, reason }),
        }
    }

    fn refuse(&mut self, stamp: Stamp, refusal: Refusal) -> Response {
        let broken = match &refusal {
            Refusal::Breaks { invariant, .. } => Some(*invariant),
            _ => None,
        };
        self.history.count_refusal(broken);
        if broken.is_some() {
            self.record(stamp, EventKind::Alarm, About::default(), refusal.to_string());
        }
        Response::Refused(refusal)
    }
}

fn check_texts<'a>(texts: impl IntoIterator<Item = &'a String>) -> Result<(), Refusal> {
    match texts.into_iter().any(|text| text.len() > TEXT_BYTES_MAX) {
        true => Err(Refusal::Invalid(format!(
            "reasons are limited to {TEXT_BYTES_MAX} bytes a text"
        ))),
        false => Ok(()),
    }
}
